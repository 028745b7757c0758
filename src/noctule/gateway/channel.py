"""Messages between a gateway's parent and its workers, over one pair of sockets for each worker.

A frame is a length of 4 bytes, big-endian, and a message in MessagePack. Both sides are of one version: the parent
starts its workers from the program it runs itself.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import TypeAlias

import msgspec
from msgspec import Struct

from noctule.base.errors import ProtocolError
from noctule.gateway.orders import Orders
from noctule.gateway.pictures import GatewayPicture

FRAME_BYTES_MAX = 64 * 1024 * 1024
"""Also of what may wait to be read by the other side: one that takes nothing in for so long is beyond help."""


class Apply(Struct, frozen=True, tag=True):
    """To a worker: do as these say. The first message of all."""

    orders: Orders


class Describe(Struct, frozen=True, tag=True):
    """To a worker: send a picture under this number."""

    number: int


class Answered(Struct, frozen=True, tag=True):
    """To a worker: the answer to what it `Asked`."""

    number: int
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Stop(Struct, frozen=True, tag=True):
    """To a worker: accept nobody new, finish what is in flight, end."""

    drain_s: float


class Serving(Struct, frozen=True, tag=True):
    """To the parent: the doors are open."""

    port: int


class Failed(Struct, frozen=True, tag=True):
    """To the parent: it cannot serve, and ends."""

    reason: str


class Applied(Struct, frozen=True, tag=True):
    """To the parent: every request from now on goes by these orders."""

    version: int


class Described(Struct, frozen=True, tag=True):
    """To the parent: the picture it wanted."""

    number: int
    picture: GatewayPicture


class Asked(Struct, frozen=True, tag=True):
    """To the parent: a client wants something of the gateway itself."""

    number: int
    method: str
    path: str
    body: bytes


ToWorker: TypeAlias = Apply | Describe | Answered | Stop
ToParent: TypeAlias = Serving | Failed | Applied | Described | Asked

_to_worker = msgspec.msgpack.Decoder(ToWorker)
_to_parent = msgspec.msgpack.Decoder(ToParent)


class Channel:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """Takes the socket over."""
        end.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send_nowait(self, message: ToWorker | ToParent) -> bool:
        """Send in order; False when the other side has stopped reading, and is to be given up."""
        body = msgspec.msgpack.encode(message)
        if self._writer.transport.get_write_buffer_size() + len(body) > FRAME_BYTES_MAX:
            return False
        self._writer.write(len(body).to_bytes(4) + body)
        return True

    async def from_parent(self) -> AsyncIterator[ToWorker]:
        """What the parent says, until it has gone."""
        async for body in self._frames():
            yield _to_worker.decode(body)

    async def from_worker(self) -> AsyncIterator[ToParent]:
        """What the worker says, until it has gone."""
        async for body in self._frames():
            yield _to_parent.decode(body)

    def close(self) -> None:
        """The other side sees the end."""
        self._writer.close()

    async def _frames(self) -> AsyncIterator[bytes]:
        try:
            while True:
                length = int.from_bytes(await self._reader.readexactly(4))
                if length > FRAME_BYTES_MAX:
                    raise ProtocolError(f"a frame of {length} bytes between a gateway's processes")
                yield await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
