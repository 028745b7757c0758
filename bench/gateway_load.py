"""Load that wrk does not make: thousands of connections that mostly rest, and GETs that must all be answered."""

import asyncio
import random
import time
from collections.abc import Callable

import httptools
import msgspec
import uvloop

from noctule.adapters.open_files import raise_open_files_max

CONNECT_AT_ONCE = 200
ANSWER_S_MAX = 10.0
_GET = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"


class Held(msgspec.Struct, frozen=True):
    """What came of connections that were held."""

    connections: int
    seconds: float
    requests: int
    errors: int
    p50_ms: float
    p99_ms: float


class Survived(msgspec.Struct, frozen=True):
    """What came of GETs while a backend was killed."""

    requests: int
    failed: int
    """Answered otherwise than 200, or not at all."""
    longest_ms: float


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[int] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Of the response."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """The response is whole."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone; whoever waits is told."""
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("closed"))

    async def get(self) -> int:
        """The status of one GET; `OSError` when the connection ends before, `TimeoutError` after `ANSWER_S_MAX`."""
        if self._transport is None:
            raise ConnectionError("closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(_GET)
        async with asyncio.timeout(ANSWER_S_MAX):
            return await self._answer

    def close(self) -> None:
        """Let go of it."""
        if self._transport is not None:
            self._transport.abort()


def hold(port: int, connections: int, seconds: float, pause_s: float) -> Held:
    """Open so many, keep them all so long, and ask on each every `pause_s` seconds, evenly spread."""
    raise_open_files_max()
    return uvloop.run(_hold(port, connections, seconds, pause_s))


async def _hold(port: int, connections: int, seconds: float, pause_s: float) -> Held:
    clients: list[Client] = []
    for start in range(0, connections, CONNECT_AT_ONCE):
        count = min(CONNECT_AT_ONCE, connections - start)
        clients += await asyncio.gather(*(_connect(port) for _ in range(count)))
    times_ms: list[float] = []
    errors = 0
    end = time.monotonic() + seconds

    async def live(client: Client, first_s: float) -> None:
        nonlocal errors
        await asyncio.sleep(first_s)
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                errors += await client.get() != 200
            except (OSError, TimeoutError):
                errors += 1
                return
            times_ms.append((time.monotonic() - began) * 1000)
            await asyncio.sleep(pause_s)

    chance = random.Random(0)
    await asyncio.gather(*(live(client, chance.uniform(0, pause_s)) for client in clients))
    for client in clients:
        client.close()
    times_ms.sort()
    p50_ms, p99_ms = (times_ms[int(len(times_ms) * share)] for share in (0.5, 0.99))
    return Held(connections, seconds, len(times_ms), errors, round(p50_ms, 2), round(p99_ms, 2))


def survive(port: int, connections: int, seconds: float, kill: Callable[[], None]) -> Survived:
    """GETs without a pause on so many connections; `kill` is called in the middle of the time."""
    return uvloop.run(_survive(port, connections, seconds, kill))


async def _survive(port: int, connections: int, seconds: float, kill: Callable[[], None]) -> Survived:
    requests = failed = 0
    longest_s = 0.0
    end = time.monotonic() + seconds

    async def live() -> None:
        nonlocal requests, failed, longest_s
        client = await _connect(port)
        while time.monotonic() < end:
            began = time.monotonic()
            requests += 1
            try:
                failed += await client.get() != 200
            except (OSError, TimeoutError):
                failed += 1
                client.close()
                client = await _connect(port)
            longest_s = max(longest_s, time.monotonic() - began)
        client.close()

    asyncio.get_running_loop().call_later(seconds / 2, kill)
    await asyncio.gather(*(live() for _ in range(connections)))
    return Survived(requests, failed, round(longest_s * 1000, 1))


async def _connect(port: int) -> Client:
    _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
    return client
