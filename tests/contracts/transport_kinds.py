"""The transports that one suite is run against, and a caller for each that need not keep to the protocol."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import grpc.aio
from memory_transport import MemoryTransport, Network, Wire

from noctule.adapters import grpc_methods
from noctule.adapters.grpc_options import channel_options
from noctule.adapters.grpc_transport import MESSAGE_BYTES_MAX, GrpcTransport
from noctule.adapters.peer_connections import PeerConnections
from noctule.adapters.proto.raft_pb2 import Frame
from noctule.adapters.transport import PeerTransport
from noctule.core.wire.messages import Envelope, Hello

HOST = "127.0.0.1"


@dataclass
class Ear:
    """A receiver that notes what it is told, in order."""

    events: list[tuple[str, int]] = field(default_factory=list)
    """("connected", incarnation) and ("disconnected", node)."""
    frames: list[tuple[int, list[Envelope]]] = field(default_factory=list)

    def frame_received(self, sender: int, envelopes: list[Envelope]) -> None:
        self.frames.append((sender, envelopes))

    def peer_connected(self, hello: Hello) -> None:
        self.events.append(("connected", hello.incarnation))

    def peer_disconnected(self, node: int) -> None:
        self.events.append(("disconnected", node))


class Caller(Protocol):
    """Whoever has connected to a node by hand."""

    async def send(self, data: bytes) -> None: ...

    async def send_no_more(self) -> None: ...

    async def closed(self) -> None:
        """Returns once the other side has closed."""

    def leave(self) -> None: ...


class FramedCaller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def send_no_more(self) -> None:
        self._writer.write_eof()

    async def closed(self) -> None:
        try:
            while await self._reader.read(65_536):
                pass
        except ConnectionError:
            pass

    def leave(self) -> None:
        self._writer.transport.abort()


class GrpcCaller:
    def __init__(self, port: int) -> None:
        self._channel = grpc.aio.insecure_channel(f"{HOST}:{port}", options=channel_options(MESSAGE_BYTES_MAX))
        stub: Callable[..., Any] = self._channel.stream_stream(grpc_methods.FRAMES)
        self._call = stub()

    async def send(self, data: bytes) -> None:
        await self._call.write(Frame(frame=data).SerializeToString())

    async def send_no_more(self) -> None:
        await self._call.done_writing()

    async def closed(self) -> None:
        while await self._call.read() is not grpc.aio.EOF:
            pass

    def leave(self) -> None:
        self._call.cancel()


class MemoryCaller:
    def __init__(self, listener: MemoryTransport) -> None:
        self._end = Wire(None, None)
        self._end.other = listener.accept_from(self._end)

    async def send(self, data: bytes) -> None:
        self._end.send(data)

    async def send_no_more(self) -> None:
        self._end.abort()  # There are no halves here.

    async def closed(self) -> None:
        await self._end.closed

    def leave(self) -> None:
        self._end.abort()


class Kind(Protocol):
    """One implementation."""

    def make(self, hello: Hello, ear: Ear) -> PeerConnections: ...

    async def call(self, port: int) -> Caller: ...


class Framed:
    def make(self, hello: Hello, ear: Ear) -> PeerTransport:
        return PeerTransport(hello, ear, random.Random(hello.node_id))

    async def call(self, port: int) -> FramedCaller:
        return FramedCaller(*await asyncio.open_connection(HOST, port))


class Grpc:
    def make(self, hello: Hello, ear: Ear) -> GrpcTransport:
        return GrpcTransport(hello, ear, random.Random(hello.node_id))

    async def call(self, port: int) -> GrpcCaller:
        return GrpcCaller(port)


class Memory:
    def __init__(self) -> None:
        self._network = Network()

    def make(self, hello: Hello, ear: Ear) -> MemoryTransport:
        return MemoryTransport(self._network, hello, ear, random.Random(hello.node_id))

    async def call(self, port: int) -> MemoryCaller:
        return MemoryCaller(self._network.listeners[HOST, port])
