"""An app for bench/gateway.py: uvloop and httptools, no framework, so that it is never the slowest in the row.

``gateway_backend.py PORT NAME [SERVICE_MS CONCURRENCY]``: answers GET with its name and 1 KiB; with the last two it is
a simulated app of limited capacity: so many requests at once, each of which takes so long, the others wait.
"""

import asyncio
import heapq
import sys

import httptools
import uvloop

BODY_BYTES = 1_024


class Backend(asyncio.Protocol):
    """One connection."""

    def __init__(self, response: bytes, room: "Room | None") -> None:
        self._response = response
        self._room = room
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A gateway, or wrk itself."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """A request, or a part of one."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """A request is whole."""
        if self._room is None:
            self.answer()
        else:
            self._room.enter(self)

    def answer(self) -> None:
        """Send the response."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._response)


class Room:
    """Capacity: so many places, each taken for so long by a request; whoever finds none free waits for the next.

    A place is free again when its time is over, not when this process, on a busy machine, comes round to saying so:
    else the lateness of timers would be counted as the capacity of the app.
    """

    def __init__(self, service_s: float, concurrency: int) -> None:
        self._service_s = service_s
        self._free_at = [0.0] * concurrency

    def enter(self, backend: Backend) -> None:
        """Answer it when its time is over, first come first served."""
        loop = asyncio.get_running_loop()
        ends = max(loop.time(), self._free_at[0]) + self._service_s
        heapq.heapreplace(self._free_at, ends)
        loop.call_at(ends, backend.answer)


async def serve(port: int, name: str, room: Room | None) -> None:
    """Until the process is killed."""
    body = name.encode().ljust(BODY_BYTES, b".")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Backend(head + body, room), "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


def main() -> None:
    """Read the arguments and serve."""
    port, name = int(sys.argv[1]), sys.argv[2]
    room = Room(float(sys.argv[3]) / 1000, int(sys.argv[4])) if len(sys.argv) > 3 else None
    uvloop.run(serve(port, name, room))


if __name__ == "__main__":
    main()
