"""Snapshots on their way to other nodes, on connections of their own, so that Raft's frames never wait behind them.

A sender keeps one stream to each peer. What waits there or was not acknowledged yet is bounded by
`SNAPSHOT_WINDOW_BYTES`; over it pieces are dropped, which Raft notices as it does any other loss. A receipt comes when
the other side has taken a piece in, not when its kernel has.
"""

import asyncio
import logging
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from noctule.adapters import grpc_methods
from noctule.adapters.control_client import open_channel
from noctule.adapters.control_server import check_peer, refuse
from noctule.adapters.grpc_errors import error_of
from noctule.adapters.grpc_options import channel_options
from noctule.adapters.proto.transfer_pb2 import Piece, Receipt
from noctule.adapters.tls import Tls
from noctule.base.bounds import SNAPSHOT_PIECE_BYTES_MAX, SNAPSHOT_WINDOW_BYTES
from noctule.base.errors import NoctuleError, ProtocolError, RequestError
from noctule.base.ids import GroupId
from noctule.core.raft.messages import InstallSnapshot
from noctule.core.wire.frames import FrameReader, decode_envelopes, decode_hello, encode_frame, encode_hello
from noctule.core.wire.messages import Hello

log = logging.getLogger("noctule.transfer")

COMPRESSED_BYTES_MIN = 4 * 1024
"""A shorter piece is never compressed: what it would save is less than what it costs."""
_GZIP = 31
"""The format to zlib."""
INTRODUCTION_TIMEOUT_S = 2.0
BROKEN_S = 10.0
"""After a stream broke nothing is taken for that node for so long: what is sent goes by another way meanwhile."""
IDLE_S_MAX = 30.0
"""A stream with nothing to send is closed; the next piece opens another."""


class SnapshotStream(Protocol):
    """The sending side as a node sees it."""

    def send(self, node: int, group: GroupId, message: InstallSnapshot) -> bool:
        """Send a piece; False when it was dropped: the node is not known, or too much is on its way to it."""
        ...

    def set_peer(self, node: int, address: str) -> None:
        """The node is there now, by its own word: so where an older one leads nowhere, this does."""
        ...


class SnapshotReceiver(Protocol):
    """Whom the receiving side tells, in the event loop's thread."""

    def snapshot_received(self, sender: int, group: GroupId, message: InstallSnapshot) -> None:
        """A piece came, in the order in which the sender sent those of one stream."""


class SnapshotSender:
    """A `SnapshotStream` over gRPC."""

    def __init__(self, hello: Callable[[], Hello], tls: Tls | None = None, *, is_compressed: bool = False) -> None:
        self._hello = hello
        self._tls = tls
        self._is_compressed = is_compressed
        self._addresses: dict[int, str] = {}
        self._streams: dict[int, _Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken_until: dict[int, float] = {}
        """By the loop's clock."""

    def set_peers(self, addresses: Mapping[int, str]) -> None:
        """Know the control addresses ``host:port`` of these nodes and no others; streams to other places end."""
        for node, stream in list(self._streams.items()):
            if addresses.get(node) != stream.address:
                del self._streams[node]
                stream.task.cancel()
        self._addresses = {node: address for node, address in addresses.items() if address}

    def set_peer(self, node: int, address: str) -> None:
        """Know this control address of this node, and try it although an older one did not work."""
        self._broken_until.pop(node, None)
        self.set_peers(self._addresses | {node: address})

    def send(self, node: int, group: GroupId, message: InstallSnapshot) -> bool:
        """Send a piece; False when it was dropped: the node is not known, its stream broke just now, or too much is on
        its way to it."""
        stream = self._streams.get(node)
        if stream is None:
            address = self._addresses.get(node)
            if address is None or asyncio.get_running_loop().time() < self._broken_until.get(node, 0.0):
                return False
            stream = self._streams[node] = _Stream(address)
            stream.task = asyncio.get_running_loop().create_task(self._run(node, stream), name=f"snapshots to {node}")
            self._tasks.add(stream.task)
            stream.task.add_done_callback(self._tasks.discard)
        return stream.push(encode_frame([(group, message)]))

    def bytes_on_their_way(self, node: int) -> int:
        """To this node, waiting or not acknowledged."""
        stream = self._streams.get(node)
        return stream.bytes_taken if stream is not None else 0

    async def close(self) -> None:
        """Drop what is on its way and end every stream."""
        for stream in self._streams.values():
            stream.task.cancel()
        self._streams.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, node: int, stream: "_Stream") -> None:
        """One stream, until it breaks or has nothing to do; whatever it still held is dropped."""
        options = channel_options(SNAPSHOT_PIECE_BYTES_MAX)
        try:
            async with open_channel(stream.address, self._tls, options) as channel:
                stub: Callable[..., Any] = channel.stream_stream(grpc_methods.SEND_SNAPSHOTS)
                call = stub(wait_for_ready=False)
                try:
                    await self._introduce(call)
                    log.info("snapshot_stream_opened", extra={"fields": {"peer": node}})
                    receipts = asyncio.create_task(stream.take_receipts(call), name=f"receipts of {node}")
                    try:
                        await stream.write_pieces(call, is_compressed=self._is_compressed)
                    finally:
                        receipts.cancel()
                        await asyncio.wait([receipts])
                finally:
                    call.cancel()
        except grpc.aio.AioRpcError as error:
            reason = str(error_of(error, stream.address, is_change=False))
            self._broken(node, reason)
        except (asyncio.InvalidStateError, TimeoutError, ProtocolError) as error:
            reason = str(error) or "it did not answer in time"
            self._broken(node, reason)
        finally:
            if self._streams.get(node) is stream:
                del self._streams[node]

    def _broken(self, node: int, reason: str) -> None:
        self._broken_until[node] = asyncio.get_running_loop().time() + BROKEN_S
        log.warning("snapshot_stream_broken", extra={"fields": {"peer": node, "reason": reason}})

    async def _introduce(self, call: Any) -> None:
        async with asyncio.timeout(INTRODUCTION_TIMEOUT_S):
            await call.write(Piece(message=encode_hello(self._hello())).SerializeToString())
            if await call.read() is grpc.aio.EOF:
                raise ProtocolError("the receiver of snapshots said nothing")


class _Stream:
    """What is on its way to one node."""

    task: "asyncio.Task[None]"

    def __init__(self, address: str) -> None:
        self.address = address
        self.bytes_taken = 0
        self._waiting: deque[bytes] = deque()
        self._unacknowledged: deque[int] = deque()
        """The sizes of pieces that were sent, the oldest first."""
        self._acknowledged = 0
        """The number of the last piece that a receipt came for."""
        self._wake = asyncio.Event()
        self._is_broken = False
        self._end: grpc.aio.AioRpcError | ProtocolError | None = None
        """Why the other side ended the stream, for `write_pieces` to raise."""

    def push(self, frame: bytes) -> bool:
        """Take a piece; False when the window is full. A piece that is larger than it goes alone."""
        if self.bytes_taken and self.bytes_taken + len(frame) > SNAPSHOT_WINDOW_BYTES:
            return False
        self.bytes_taken += len(frame)
        self._waiting.append(frame)
        self._wake.set()
        return True

    async def write_pieces(self, call: Any, *, is_compressed: bool) -> None:
        """Write what comes, until the other side ends the stream or nothing was on its way for a while."""
        number = 0
        while not self._is_broken:
            if not self._waiting:
                self._wake.clear()
                try:
                    async with asyncio.timeout(IDLE_S_MAX):
                        await self._wake.wait()
                except TimeoutError:
                    if not self.bytes_taken:
                        return
                continue
            frame = self._waiting.popleft()
            self._unacknowledged.append(len(frame))
            number += 1
            message, is_smaller = _compress(frame) if is_compressed else (frame, False)
            await call.write(Piece(number=number, message=message, gzip=is_smaller).SerializeToString())
        raise self._end or ProtocolError("the receiver of snapshots ended the stream")

    async def take_receipts(self, call: Any) -> None:
        """Make room as receipts come; at the end of the stream, end `write_pieces`."""
        try:
            while (data := await call.read()) is not grpc.aio.EOF:
                for _ in range(Receipt.FromString(data).number - self._acknowledged):
                    if not self._unacknowledged:
                        break
                    self._acknowledged += 1
                    self.bytes_taken -= self._unacknowledged.popleft()
        except grpc.aio.AioRpcError as error:
            self._end = error
        except DecodeError:
            self._end = ProtocolError("the receiver of snapshots sent a receipt that cannot be read")
        finally:
            self._is_broken = True
            self._wake.set()


class SnapshotService:
    """The receiving side; `handler` is to be added to the `ControlServer`."""

    def __init__(self, receiver: SnapshotReceiver, refusal_of: Callable[[Hello], str], tls: Tls | None = None) -> None:
        self._receiver = receiver
        self._refusal_of = refusal_of
        """Why the sender must be kept out; empty when it may come in."""
        self._tls = tls

    def handler(self) -> grpc.GenericRpcHandler:
        """For the server."""
        method: Any = grpc.stream_stream_rpc_method_handler(self._serve)
        return grpc.method_handlers_generic_handler(grpc_methods.SEND_SNAPSHOTS_SERVICE, {"SendSnapshots": method})

    async def _serve(self, _: object, context: Any) -> None:
        try:
            check_peer(self._tls, context)
            async with asyncio.timeout(INTRODUCTION_TIMEOUT_S):
                first = await context.read()
            if first is grpc.aio.EOF:
                return
            hello = decode_hello(_body_of(_piece_of(first)))
            if refusal := self._refusal_of(hello):
                raise RequestError(refusal)
            await context.write(Receipt(number=0).SerializeToString())
            while (data := await context.read()) is not grpc.aio.EOF:
                piece = _piece_of(data)
                self._take(hello.node_id, piece)
                await context.write(Receipt(number=piece.number).SerializeToString())
        except (grpc.aio.UsageError, grpc.aio.InternalError):
            pass  # The sender has gone.
        except TimeoutError:
            await refuse(context, ProtocolError("the sender did not say who it is"), grpc_methods.SEND_SNAPSHOTS)
        except Exception as error:
            # The outermost place of a call.
            if isinstance(error, NoctuleError):
                reason = {"peer": context.peer(), "reason": str(error)}
                log.warning("snapshot_stream_refused", extra={"fields": reason})
            await refuse(context, error, grpc_methods.SEND_SNAPSHOTS)

    def _take(self, sender: int, piece: Piece) -> None:
        envelopes = decode_envelopes(_body_of(piece))
        for group, message in envelopes:
            if not isinstance(message, InstallSnapshot):
                raise ProtocolError(f"a peer sent a {type(message).__name__} as a piece of a snapshot")
            self._receiver.snapshot_received(sender, GroupId(group), message)


def _compress(frame: bytes) -> tuple[bytes, bool]:
    """The frame compressed, and True, where that makes it smaller."""
    if len(frame) < COMPRESSED_BYTES_MIN:
        return frame, False
    compressed = zlib.compress(frame, 1, _GZIP)
    return (compressed, True) if len(compressed) < len(frame) else (frame, False)


def _piece_of(data: bytes) -> Piece:
    try:
        return Piece.FromString(data)
    except DecodeError as error:
        raise ProtocolError(f"a peer sent a piece of a snapshot that cannot be read: {error}") from error


def _body_of(piece: Piece) -> bytes:
    """The body of the one frame in a piece. Raises `ProtocolError`."""
    message = piece.message
    if piece.gzip:
        decompressor = zlib.decompressobj(_GZIP)
        try:
            # A few bytes can stand for gigabytes, so no more than the bound is taken out.
            message = decompressor.decompress(message, SNAPSHOT_PIECE_BYTES_MAX)
        except zlib.error as error:
            raise ProtocolError(f"a peer sent a piece of a snapshot that is not gzip: {error}") from error
        if not decompressor.eof:
            raise ProtocolError(f"a peer sent a piece of a snapshot over {SNAPSHOT_PIECE_BYTES_MAX} bytes, or half one")
    bodies = FrameReader().feed(message)
    if len(bodies) != 1:
        raise ProtocolError("a peer sent a piece of a snapshot that is not one frame")
    return bodies[0]
