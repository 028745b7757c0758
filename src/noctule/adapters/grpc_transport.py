"""The same frames over gRPC: one bidirectional stream for each pair and direction, on which only the dialler sends.

Nodes use the framed stream of transport.py; this is here to be compared with it (bench/transport.py, ADR 0019).
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from noctule.adapters import grpc_methods
from noctule.adapters.control_client import open_channel
from noctule.adapters.control_server import check_peer
from noctule.adapters.grpc_options import channel_options, server_options
from noctule.adapters.peer_connections import HANDSHAKE_TIMEOUT_S, SEND_BUFFER_BYTES_MAX, PeerConnections
from noctule.adapters.proto.raft_pb2 import Frame
from noctule.adapters.tls import Tls
from noctule.adapters.transport_port import Address, Receiver
from noctule.base.bounds import FRAME_BYTES_MAX
from noctule.base.errors import ConfigError, ProtocolError, RequestError
from noctule.core.wire.frames import FrameReader, decode_envelopes, decode_hello, encode_hello
from noctule.core.wire.messages import Hello

log = logging.getLogger("noctule.transport")

MESSAGE_BYTES_MAX = FRAME_BYTES_MAX + 1024
"""A frame with its header, and what the message around it takes."""


class _Outgoing:
    """A stream that was dialled: frames wait here for their turn."""

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self._frames: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_closed = False
        self._wake = asyncio.Event()

    def send(self, frame: bytes) -> bool:
        """Take a frame to send; False when too many wait."""
        if self._waiting_bytes > SEND_BUFFER_BYTES_MAX:
            return False
        self._frames.append(frame)
        self._waiting_bytes += len(frame)
        self._wake.set()
        return True

    def unsent_bytes(self) -> int:
        """Of the frames that wait."""
        return self._waiting_bytes

    def abort(self) -> None:
        """End `write_frames`, whose owner closes the stream."""
        self._is_closed = True
        self._wake.set()

    async def write_frames(self, call: Any) -> None:
        """Write what comes until the stream breaks or is to be closed."""
        while not self._is_closed:
            if not self._frames:
                self._wake.clear()
                await self._wake.wait()
                continue
            frame = self._frames.popleft()
            await call.write(Frame(frame=frame).SerializeToString())
            self._waiting_bytes -= len(frame)


class _Accepted:
    """A stream that a peer dialled: it is only read."""

    def __init__(self, reading: "asyncio.Task[None]") -> None:
        self.hello: Hello | None = None
        self._reading = reading

    def send(self, frame: bytes) -> bool:
        """Nothing is sent here."""
        raise AssertionError(f"a frame of {len(frame)} bytes for an accepted stream")

    def unsent_bytes(self) -> int:
        """Nothing is sent here."""
        return 0

    def abort(self) -> None:
        """Read no more, which ends the call."""
        self._reading.cancel()


class GrpcTransport(PeerConnections):
    """This node's streams to all others."""

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
        self._options = channel_options(MESSAGE_BYTES_MAX)
        self._server: grpc.aio.Server | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> int:
        """Accept peers; returns the port. Raises `ConfigError` when the port is in use."""
        server = grpc.aio.server(options=server_options(MESSAGE_BYTES_MAX))
        handler: Any = grpc.stream_stream_rpc_method_handler(self._serve)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(grpc_methods.FRAMES_SERVICE, {"Frames": handler})]
        )
        try:
            if self._tls is not None:
                bound = server.add_secure_port(f"{host}:{port}", self._tls.server_credentials())
            else:
                bound = server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            await server.stop(None)  # Else its end would be begun when it is collected, maybe without a loop.
            raise ConfigError(f"cannot listen for peers on {host}:{port}; choose another --peer-port") from error
        await server.start()
        self._server = server
        return bound

    def stop_listening(self) -> None:
        """Accept nobody any more, and end what was accepted."""
        if self._server is not None and self._stopping is None:
            self._stopping = self.loop.create_task(self._server.stop(0), name="stop the gRPC transport")

    async def close(self) -> None:
        """`disconnect`, and wait for the diallers and the server to end."""
        await super().close()
        if self._stopping is not None:
            await self._stopping

    async def dial_once(self, node: int, address: Address) -> bool:
        """Open a stream, and return once it is closed: whether the peer was met."""
        host, port = address
        connection = _Outgoing()
        async with open_channel(f"{host}:{port}", self._tls, self._options) as channel:
            stub: Callable[..., Any] = channel.stream_stream(grpc_methods.FRAMES)
            call = stub(wait_for_ready=False)
            try:
                async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                    await call.write(Frame(frame=encode_hello(self.hello)).SerializeToString())
                    first = await call.read()
                if first is grpc.aio.EOF or self.introduced(connection, decode_hello(_body_of(first)), node):
                    return False
                call.add_done_callback(lambda _: connection.abort())
                await connection.write_frames(call)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # The stream is done, also when a write says no more than that. For TLS there is no code but a sentence.
                details = await call.details() or ""
                if any(word in details.lower() for word in ("certificate", "handshake", "tls", "verif")):
                    self.refused(node, f"no TLS with node {node}: {details.splitlines()[0]}")
            except TimeoutError:
                pass
            except ProtocolError as error:
                log.warning("peer_protocol_error", extra={"fields": {"reason": str(error)}})
            finally:
                call.cancel()
                self.lost(connection)
        return connection.hello is not None

    async def _serve(self, _: object, context: Any) -> None:
        """One accepted stream, until either side ends it."""
        reading = self.loop.create_task(self._read(context), name="read a gRPC stream")
        try:
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.result()  # Raises what nobody foresaw, for the library to log.
        finally:
            reading.cancel()

    async def _read(self, context: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = _Accepted(task)
        self.accepted.add(connection)
        try:
            check_peer(self._tls, context)
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                first = await context.read()
            if first is grpc.aio.EOF:
                return
            hello = decode_hello(_body_of(first))
            refusal = self.introduced(connection, hello, None)
            await context.write(Frame(frame=encode_hello(self.answer_to(hello.node_id, refusal))).SerializeToString())
            while not refusal and (data := await context.read()) is not grpc.aio.EOF:
                assert connection.hello is not None
                self.receiver.frame_received(connection.hello.node_id, decode_envelopes(_body_of(data)))
        except ProtocolError as error:
            log.warning("peer_protocol_error", extra={"fields": {"reason": str(error)}})
        except RequestError as error:
            self.secrecy_failed(context.peer().rpartition(":")[0], str(error))
            context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
            context.set_details(str(error))
        except (grpc.aio.UsageError, grpc.aio.InternalError, TimeoutError):
            pass  # The peer has gone, or said nothing in time.
        finally:
            self.lost(connection)


def _body_of(data: bytes) -> bytes:
    """The body of the one frame in a message. Raises `ProtocolError`."""
    try:
        frame = Frame.FromString(data).frame
    except DecodeError as error:
        raise ProtocolError(f"a peer sent a message that cannot be read: {error}") from error
    bodies = FrameReader().feed(frame)
    if len(bodies) != 1:
        raise ProtocolError("a peer sent a message that is not one frame")
    return bodies[0]
