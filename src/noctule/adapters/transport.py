"""Frames between nodes over TCP, plain or in TLS: one connection for each pair and direction.

What is said on them and who may say it stands in peer_connections.py; here are the sockets.
"""

import asyncio
import logging
import random
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from noctule.adapters.peer_connections import (
    HANDSHAKE_TIMEOUT_S,
    RECONNECT_DELAY_S_MAX,
    SEND_BUFFER_BYTES_MAX,
    PeerConnections,
)
from noctule.adapters.ports import bound_port
from noctule.adapters.tls import Tls, names_in
from noctule.adapters.transport_port import Address, Receiver
from noctule.base.errors import ConfigError, ProtocolError
from noctule.core.wire.frames import FrameReader, decode_envelopes, decode_hello, encode_hello
from noctule.core.wire.messages import Hello

log = logging.getLogger("noctule.transport")

UNACKNOWLEDGED_MS_MAX: Final = 5_000
"""TCP_USER_TIMEOUT: a peer that vanished without a word is dialled anew after this."""

HANDSHAKES_MAX: Final = 256
"""Of TLS, at once, on accepted connections; one more is closed, and dialled again."""

TLS_RECORD: Final = b"\x16\x03"
"""How a TLS handshake begins. As the length of a frame it would be too large in any case."""


class _Connection(asyncio.Protocol):
    """One TCP connection, dialled or accepted: a Hello first, then frames."""

    def __init__(self, owner: "PeerTransport", expected: int | None) -> None:
        self._owner = owner
        self._expected = expected
        """The node that was dialled; None on an accepted connection."""
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.hello: Hello | None = None
        self.closed: asyncio.Future[None] = owner.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce ourselves when we dialled; whoever accepts answers."""
        stream = self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        _set_options(stream)
        self._deadline = self._owner.loop.call_later(HANDSHAKE_TIMEOUT_S, stream.abort)
        if reason := self._owner.certificate_refusal(stream):
            self._owner.not_secret(self._expected, stream, reason)
            stream.abort()
        elif self._expected is not None:
            stream.write(encode_hello(self._owner.hello))
        else:
            self._owner.accepted.add(self)

    def data_received(self, data: bytes) -> None:
        """Frames to the receiver; a peer that breaks the protocol is cut off, which harms nobody else."""
        try:
            if self.hello is None and data.startswith(TLS_RECORD) and not self._owner.is_secret:
                raise ProtocolError("a peer speaks TLS, and this node has no tls_ca, tls_cert and tls_key")
            for body in self._reader.feed(data):
                if self.hello is None:
                    self._introduced(decode_hello(body))
                else:
                    self._owner.receiver.frame_received(self.hello.node_id, decode_envelopes(body))
        except ProtocolError as error:
            log.warning("peer_protocol_error", extra={"fields": {"reason": str(error)}})
            self.abort()

    def _introduced(self, hello: Hello) -> None:
        assert self._transport is not None
        refusal = self._owner.introduced(self, hello, self._expected)
        if self._expected is None:
            self._transport.write(encode_hello(self._owner.answer_to(hello.node_id, refusal)))
        if refusal:
            self._transport.close()
        elif self._deadline is not None:
            self._deadline.cancel()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the owner, once."""
        if self._deadline is not None:
            self._deadline.cancel()
        if isinstance(error, ssl.SSLError) and self.hello is None and self._transport is not None:
            # A peer that does not like our certificate says so after its side of the handshake, in TLS 1.3.
            self._owner.not_secret(self._expected, self._transport, _words_of(error))
        if not self.closed.done():
            self.closed.set_result(None)
        self._owner.lost(self)

    def send(self, frame: bytes) -> bool:
        """Hand a frame to the kernel or the buffer; False when the buffer is full and it was dropped."""
        assert self._transport is not None
        if self._transport.get_write_buffer_size() > SEND_BUFFER_BYTES_MAX:
            return False
        self._transport.write(frame)
        return True

    def unsent_bytes(self) -> int:
        """In the buffer, not in the kernel."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()


class PeerTransport(PeerConnections):
    """This node's connections to all others, who are told to it by `set_peers` and may come and go."""

    def __init__(
        self,
        hello: Hello,
        receiver: Receiver,
        chance: random.Random,
        admit: Callable[[Hello], str] = lambda _: "",
        tls: Tls | None = None,
    ) -> None:
        super().__init__(hello, receiver, chance, admit)
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._listener: socket.socket | None = None
        """With TLS, instead of a server."""
        self._pause: asyncio.TimerHandle | None = None
        """Until callers are accepted again."""
        self._callers: set[socket.socket] = set()
        """Accepted, and not given to the loop yet."""
        self._handshakes: set[asyncio.Task[None]] = set()
        """Those of accepted callers that are not done."""

    async def listen(self, host: str, port: int) -> int:
        """Accept peers; returns the port. Raises `ConfigError` when the port is in use."""
        try:
            if self._tls is not None:
                return await self._listen_for_tls(host, port, self._tls)
            self._server = await self.loop.create_server(lambda: _Connection(self, None), host, port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen for peers on {host}:{port}: {error.strerror or error}; choose another --peer-port"
            ) from error
        return bound_port(self._server)

    def stop_listening(self) -> None:
        """Accept nobody any more."""
        if self._server is not None:
            self._server.close()
        if self._listener is not None:
            self.loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        if self._pause is not None:
            self._pause.cancel()
        while self._callers:
            self._callers.pop().close()
        for task in self._handshakes:
            task.cancel()

    async def dial_once(self, node: int, address: Address) -> bool:
        """Connect, and return once the connection is closed: whether the peer was met."""
        host, port = address
        context = self._tls.client_context() if self._tls is not None else None
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                _, connection = await self.loop.create_connection(
                    lambda: _Connection(self, node), host, port, ssl=context, server_hostname="" if context else None
                )
        except (OSError, TimeoutError) as error:
            # One that speaks plainly takes the handshake for garbage and closes.
            if isinstance(error, ssl.SSLError) or (context and isinstance(error, _CLOSED)):
                self.refused(node, f"no TLS with node {node}: {_words_of(error)}")
            return False
        try:
            await connection.closed
        finally:
            connection.abort()  # Leaving in the middle of a handshake must not leave a socket behind.
        return connection.hello is not None

    async def close(self) -> None:
        """`disconnect`, and wait for diallers and handshakes to end."""
        await super().close()
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    # Called by connections -------------------------------------------------------------------------------------------

    @property
    def is_secret(self) -> bool:
        """Whether peers must speak TLS."""
        return self._tls is not None

    def certificate_refusal(self, stream: asyncio.BaseTransport) -> str:
        """Why the peer's certificate does not let it in; empty when it does, or none is asked for."""
        if self._tls is None:
            return ""
        return self._tls.refusal_of(names_in(stream.get_extra_info("peercert")))

    def not_secret(self, expected: int | None, stream: asyncio.BaseTransport, reason: str) -> None:
        """Log that TLS failed with a peer that was dialled, or with whoever called."""
        if expected is not None:
            self.refused(expected, f"no TLS with node {expected}: {reason}")
        else:
            peer = stream.get_extra_info("peername")
            self.secrecy_failed(str(peer[0]) if peer else "", reason)

    # Own --------------------------------------------------------------------------------------------------------------

    async def _listen_for_tls(self, host: str, port: int, tls: Tls) -> int:
        """Accept by ourselves: each connection gets the newest files, and its failed handshake is ours to log."""
        found = await self.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        self._listener = listener = socket.create_server(address[:2], family=family)
        listener.setblocking(False)
        self._watch(listener, tls)
        return int(listener.getsockname()[1])

    def _watch(self, listener: socket.socket, tls: Tls) -> None:
        self.loop.add_reader(listener, self._accept, listener, tls)

    def _accept(self, listener: socket.socket, tls: Tls) -> None:
        """Take one caller in, in one turn of the loop: whoever stops this finds its socket in `_callers`."""
        try:
            caller, (host, *_) = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # The caller has gone again.
        except OSError:
            # No descriptor is left.
            self.loop.remove_reader(listener)
            self._pause = self.loop.call_later(RECONNECT_DELAY_S_MAX, self._watch, listener, tls)
            return
        if len(self._handshakes) >= HANDSHAKES_MAX:
            caller.close()
            return
        caller.setblocking(False)
        self._callers.add(caller)
        task = self.loop.create_task(self._shake_hands(caller, str(host), tls), name="TLS of an accepted peer")
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, caller: socket.socket, host: str, tls: Tls) -> None:
        self._callers.remove(caller)
        try:
            await self.loop.connect_accepted_socket(
                lambda: _Connection(self, None),
                caller,
                ssl=tls.server_context(),
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
            )
        except OSError as error:
            self.secrecy_failed(host, _words_of(error))


_CLOSED = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


def _words_of(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return str(error) or "it closed the connection"


def _set_options(transport: asyncio.Transport) -> None:
    peer_socket = transport.get_extra_info("socket")
    peer_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)
