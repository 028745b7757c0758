"""Frames between nodes over TCP: one connection for each pair and direction.

Every node dials every other and sends on the connection it dialled; what it accepts it only reads. So neither side has
to agree on whose connection survives when both dial at once. Both introduce themselves by a `Hello`; a peer of another
cluster, protocol or settings is refused with a reason that both log.
"""

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias, cast

from msgspec import structs

from noctule.base.errors import ConfigError, ProtocolError
from noctule.core.wire.frames import (
    Envelope,
    FrameReader,
    Hello,
    decode_envelopes,
    decode_hello,
    encode_hello,
)

log = logging.getLogger("noctule.transport")

Address: TypeAlias = tuple[str, int]
"""Host and port."""

SEND_BUFFER_BYTES_MAX = 64 * 1024 * 1024
"""Bytes waiting for one peer; over it frames are dropped, which Raft and the router survive."""
STRANGERS_MAX = 64
"""Complaints about strangers that are remembered, so that each is logged once."""
HANDSHAKE_TIMEOUT_S = 2.0
RECONNECT_DELAY_S_MIN = 0.02
RECONNECT_DELAY_S_MAX = 1.0
UNACKNOWLEDGED_MS_MAX = 5_000
"""TCP_USER_TIMEOUT: a peer that vanished without a word is dialled anew after this."""


class Receiver(Protocol):
    """Whom the transport tells. All calls come in the event loop's thread."""

    def frame_received(self, sender: int, envelopes: list[Envelope]) -> None:
        """A frame came."""

    def peer_connected(self, hello: Hello) -> None:
        """Frames sent to this peer now leave; `hello` is what it said of itself."""

    def peer_disconnected(self, node: int) -> None:
        """A connection from or to this peer was closed: its process may be gone."""


def refusal_of(own: Hello, other: Hello, expected: int | None) -> str:
    """Why these two must not talk, in words for an operator; empty when they may."""
    if other.refusal:
        return other.refusal
    if other.protocol != own.protocol:
        return f"node {other.node_id} speaks protocol {other.protocol}, node {own.node_id} speaks {own.protocol}"
    if other.cluster != own.cluster:
        return f"node {other.node_id} is of cluster {other.cluster!r}, node {own.node_id} of {own.cluster!r}"
    if own.cluster_id and other.cluster_id and other.cluster_id != own.cluster_id:
        return (
            f"node {other.node_id} is of another cluster {own.cluster!r} than node {own.node_id}: "
            f"{other.cluster_id}, not {own.cluster_id}"
        )
    if own.fingerprint and other.fingerprint and other.fingerprint != own.fingerprint:
        return f"nodes {own.node_id} and {other.node_id} have different cluster settings (voters, partitions)"
    if expected is not None and other.node_id != expected:
        return f"node {other.node_id} answers at the address of node {expected}"
    if expected is None and other.node_id == own.node_id:
        return f"two processes call themselves node {own.node_id}"
    return ""


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
        if self._expected is not None:
            stream.write(encode_hello(self._owner.hello))
        else:
            self._owner.accepted.add(self)

    def data_received(self, data: bytes) -> None:
        """Frames to the receiver; a peer that breaks the protocol is cut off, which harms nobody else."""
        try:
            for body in self._reader.feed(data):
                if self.hello is None:
                    self._introduced(decode_hello(body))
                else:
                    self._owner.receiver.frame_received(self.hello.node_id, decode_envelopes(body))
        except ProtocolError as error:
            log.warning("peer_protocol_error", extra={"fields": {"reason": str(error)}})
            self.abort()

    def _introduced(self, hello: Hello) -> None:
        owner = self._owner
        refusal = refusal_of(owner.hello, hello, self._expected)
        if not refusal and hello.node_id not in owner.peers:
            refusal = f"node {hello.node_id} is not a member of the cluster of node {owner.hello.node_id}"
        if not refusal:
            refusal = owner.admit(hello)
        assert self._transport is not None
        if self._expected is None:
            answer = owner.hello if not refusal else _refused(owner.hello, refusal)
            self._transport.write(encode_hello(answer))
        if refusal:
            owner.refused(self._expected or hello.node_id, refusal)
            self._transport.close()
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self.hello = hello
        owner.established(self, hello, dialled=self._expected is not None)

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell the owner, once."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._owner.accepted.discard(self)
        if not self.closed.done():
            self.closed.set_result(None)
        if self.hello is not None:
            self._owner.lost(self, self.hello.node_id)

    def send(self, frame: bytes) -> bool:
        """Hand a frame to the kernel or the buffer; False when the buffer is full and it was dropped."""
        assert self._transport is not None
        if self._transport.get_write_buffer_size() > SEND_BUFFER_BYTES_MAX:
            return False
        self._transport.write(frame)
        return True

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()


class PeerTransport:
    """This node's connections to all others, who are told to it by `set_peers` and may come and go."""

    def __init__(
        self,
        hello: Hello,
        receiver: Receiver,
        chance: random.Random,
        admit: Callable[[Hello], str] = lambda _: "",
    ) -> None:
        self.hello = hello
        self.peers: Mapping[int, Address] = {}
        """The others, and where to dial them; `set_peers` changes it."""
        self.receiver = receiver
        self.admit = admit
        """Why a peer that is of this cluster must be kept out all the same; empty when it may come in."""
        self.loop = asyncio.get_running_loop()
        self.accepted: set[_Connection] = set()
        self.refusals: dict[int, str] = {}
        """For each peer that must not talk to us: why."""
        self._strangers: dict[int, str] = {}
        """What was last said of nodes that are no peers."""
        self._chance = chance
        self._outgoing: dict[int, _Connection] = {}
        self._incoming: dict[int, _Connection] = {}
        self._incarnations: dict[int, int] = {}
        self._server: asyncio.Server | None = None
        self._is_dialling = False
        self._diallers: dict[int, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        """Diallers that were cancelled and have not ended yet."""
        self.frames_dropped = 0

    async def listen(self, host: str, port: int) -> int:
        """Accept peers; returns the port. Raises `ConfigError` when the port is in use."""
        try:
            self._server = await self.loop.create_server(lambda: _Connection(self, None), host, port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen for peers on {host}:{port}: {error.strerror or error}; choose another --peer-port"
            ) from error
        return int(self._server.sockets[0].getsockname()[1])

    def set_peers(self, addresses: Mapping[int, Address]) -> None:
        """Know these peers and no others, from now on.

        Once `dial` was called, new ones are dialled and those whose address changed are dialled anew. Those who are
        left out are forgotten: their connections are closed and frames to them dropped. The receiver hears of what was
        closed by this in a later turn of the loop, so it may call from anywhere.
        """
        before, self.peers = self.peers, dict(addresses)
        for node in before:
            if self.peers.get(node) != before[node]:
                self._cease_dialling(node)
            if node not in self.peers:
                self._forget(node)
        if self._is_dialling:
            self.dial()

    def dial(self) -> None:
        """Begin to dial every peer, and keep dialling whoever is away."""
        self._is_dialling = True
        for node in self.peers.keys() - self._diallers.keys():
            self._diallers[node] = self.loop.create_task(self._keep_dialling(node), name=f"dial node {node}")

    def send(self, to: int, frame: bytes) -> bool:
        """Send a frame; False when the peer is away or too far behind, and the frame is dropped."""
        connection = self._outgoing.get(to)
        if connection is not None and connection.send(frame):
            return True
        self.frames_dropped += 1
        return False

    def is_connected(self, node: int) -> bool:
        """Whether frames to this peer leave."""
        return node in self._outgoing

    def disconnect(self) -> None:
        """Leave for good: stop listening and dialling, close every connection."""
        self._is_dialling = False
        for node in self.peers:
            self._cease_dialling(node)
        if self._server is not None:
            self._server.close()
        for connection in [*self._outgoing.values(), *self.accepted]:
            connection.abort()

    async def close(self) -> None:
        """`disconnect`, and wait for the diallers to end."""
        self.disconnect()
        await asyncio.gather(*self._ending, return_exceptions=True)

    # Called by connections -------------------------------------------------------------------------------------------

    def established(self, connection: _Connection, hello: Hello, *, dialled: bool) -> None:
        """A connection has been introduced."""
        node = hello.node_id
        if self._incarnations.setdefault(node, hello.incarnation) != hello.incarnation:
            # The process was replaced, and the old one's connection may not have been missed yet.
            self._incarnations[node] = hello.incarnation
            self.receiver.peer_disconnected(node)
        if not dialled:
            self._incoming[node] = connection
            return
        self._outgoing[node] = connection
        self.refusals.pop(node, None)
        log.info("peer_connected", extra={"fields": {"peer": node}})
        self.receiver.peer_connected(hello)

    def lost(self, connection: _Connection, node: int) -> None:
        """A connection that had been introduced is closed."""
        for table in (self._outgoing, self._incoming):
            if table.get(node) is connection:
                del table[node]
                log.info("peer_disconnected", extra={"fields": {"peer": node}})
                self.receiver.peer_disconnected(node)

    def refused(self, node: int, reason: str) -> None:
        """A peer and this node must not talk."""
        complaints = self.refusals if node in self.peers else self._strangers
        if complaints.get(node) != reason:
            log.error("peer_refused", extra={"fields": {"peer": node, "reason": reason}})
        if len(self._strangers) >= STRANGERS_MAX:
            self._strangers.clear()  # They may call themselves anything.
        complaints[node] = reason

    def _cease_dialling(self, node: int) -> None:
        """No longer dial a peer, and close what was dialled."""
        if (dialler := self._diallers.pop(node, None)) is not None:
            dialler.cancel()
            self._ending.add(dialler)
            dialler.add_done_callback(self._ending.discard)
        if (connection := self._outgoing.pop(node, None)) is not None:
            connection.abort()
            log.info("peer_disconnected", extra={"fields": {"peer": node}})
            self.loop.call_soon(self.receiver.peer_disconnected, node)

    def _forget(self, node: int) -> None:
        """Close what a former peer dialled, and know nothing of it."""
        for connection in self.accepted:
            if connection.hello is not None and connection.hello.node_id == node:
                connection.abort()  # `lost` will tell.
        self.refusals.pop(node, None)
        self._incarnations.pop(node, None)

    async def _keep_dialling(self, node: int) -> None:
        host, port = self.peers[node]
        delay = RECONNECT_DELAY_S_MIN
        while True:
            try:
                async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                    _, connection = await self.loop.create_connection(lambda: _Connection(self, node), host, port)
            except (OSError, TimeoutError):
                pass
            else:
                try:
                    await connection.closed
                finally:
                    connection.abort()  # Leaving in the middle of a handshake must not leave a socket behind.
                if connection.hello is not None:
                    delay = RECONNECT_DELAY_S_MIN
            # Jitter, so that two nodes which lost each other do not meet at the same instants for ever.
            await asyncio.sleep(delay * self._chance.uniform(0.5, 1.0))
            delay = min(delay * 2, RECONNECT_DELAY_S_MAX)


def _refused(own: Hello, reason: str) -> Hello:
    return structs.replace(own, refusal=reason)


def _set_options(transport: asyncio.Transport) -> None:
    peer_socket = transport.get_extra_info("socket")
    peer_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)
