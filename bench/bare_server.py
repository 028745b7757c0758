"""The least that a RESP server in Python can do: uvloop, hiredis.Reader, a dict. What eventual.py measures beside.

No checks, no bounds, no types, one node, no copy. Run as ``python bench/bare_server.py PORT``; it serves until SIGTERM.
"""

import asyncio
import signal
import sys
from typing import cast

import hiredis
import uvloop
from subjects import HOST


class BareConnection(asyncio.Protocol):
    """Parses what came, answers all of it from the dict, writes once."""

    __slots__ = ("_reader", "_store", "_transport")

    def __init__(self, store: dict[bytes, bytes]) -> None:
        self._store = store
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """GET and SET; to anything else it says OK."""
        reader, store, parts = self._reader, self._store, []
        reader.feed(data)
        while (command := reader.gets()) is not False:
            name = command[0].upper()
            if name == b"GET":
                value = store.get(command[1])
                parts.append(b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value))
            else:
                if name == b"SET":
                    store[command[1]] = command[2]
                parts.append(b"+OK\r\n")
        self._transport.write(b"".join(parts))


async def serve(port: int) -> None:
    """Until SIGTERM."""
    loop = asyncio.get_running_loop()
    store: dict[bytes, bytes] = {}
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    server = await loop.create_server(lambda: BareConnection(store), HOST, port)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
