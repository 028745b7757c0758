"""Clients of RESP that cost little themselves: raw sockets in closed loops, on uvloop.

One is an asyncio protocol that sends what it was given and counts replies; it knows those of SET, GET and PING, and
takes any other for an error. clients.py opens ten thousand of them, eventual.py a few that never rest.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import cast

import hiredis

from noctule.base.errors import UnavailableError

VALUE_BYTES = 100
VALUE = b"x" * VALUE_BYTES
ANSWERED_S_MAX = 30.0
"""How long the last answers may take once nobody asks any more."""


def encode(*words: bytes) -> bytes:
    """A command as clients send it."""
    return b"*%d\r\n%b" % (len(words), b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))


def key_of(number: int) -> bytes:
    """As redis-benchmark names them."""
    return b"key:%012d" % number


def set_request(number: int) -> bytes:
    """Write `VALUE`."""
    return encode(b"SET", key_of(number), VALUE)


def get_request(number: int) -> bytes:
    """Read it."""
    return encode(b"GET", key_of(number))


class Tally:
    """What all clients of one process have seen."""

    def __init__(self) -> None:
        self.requests = 0
        self.latencies_ms: list[float] = []
        """Of each round, from its sending to its last reply."""
        self.errors: list[str] = []


class LoadClient(asyncio.Protocol):
    """One connection: `begin` sends a round of requests, and the next follows when all are answered, until `stop`."""

    __slots__ = (
        "_awaited",
        "_is_closed",
        "_loop",
        "_next_round",
        "_pause_s",
        "_reader",
        "_sent_at",
        "_tally",
        "_transport",
        "is_running",
    )

    def __init__(self, tally: Tally, loop: asyncio.AbstractEventLoop) -> None:
        self.is_running = False
        self._is_closed = False
        self._loop = loop
        self._pause_s = 0.0
        self._tally = tally
        self._reader: hiredis.Reader | None = None
        self._next_round: Callable[[], tuple[int, bytes]]
        self._awaited = 0
        self._sent_at = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It waits for `begin`."""
        self._transport = cast("asyncio.Transport", transport)

    def begin(self, next_round: Callable[[], tuple[int, bytes]], *, pause_s: float = 0.0) -> None:
        """Send rounds from now on, `pause_s` after the last one was answered.

        `next_round` gives how many requests one has, and their bytes.
        """
        self._pause_s = pause_s
        self._reader = self._reader or hiredis.Reader()
        self._next_round = next_round
        self.is_running = True
        self._send()

    def stop(self) -> None:
        """Send no more; the round on its way is still counted when it is answered."""
        self.is_running = False

    @property
    def is_answered(self) -> bool:
        """Whether nothing is on its way."""
        return not self._awaited

    def close(self) -> None:
        """Drop the connection."""
        self._is_closed = True
        self._transport.abort()

    def _send(self) -> None:
        if not self.is_running:
            return
        self._awaited, data = self._next_round()
        self._sent_at = time.perf_counter()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Count replies."""
        if self._reader is None:
            self._tally.errors.append(f"an idle connection received {data[:80]!r}")
            return
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if reply not in (VALUE, b"OK", b"PONG"):
                self._tally.errors.append(repr(reply)[:200])
            self._awaited -= 1
            self._tally.requests += 1
        if not self._awaited:
            self._tally.latencies_ms.append((time.perf_counter() - self._sent_at) * 1000)
            if self._pause_s:
                self._loop.call_later(self._pause_s, self._send)
            else:
                self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """That is an error unless it was closed here."""
        if not self._is_closed:
            self._tally.errors.append(f"a connection was lost: {error}")


async def connect(host: str, port: int, tally: Tally) -> LoadClient:
    """One more client. Raises `UnavailableError` when it is not let in."""
    loop = asyncio.get_running_loop()
    try:
        _, client = await loop.create_connection(lambda: LoadClient(tally, loop), host, port)
    except OSError as error:
        raise UnavailableError(f"no connection to {host}:{port}: {error}") from None
    return client


async def stop_all(clients: Iterable[LoadClient], tally: Tally) -> None:
    """Have them send no more; returns when all are answered, and counts those as errors that are not in time."""
    waiting = list(clients)
    for client in waiting:
        client.stop()
    deadline = time.monotonic() + ANSWERED_S_MAX
    while (waiting := [client for client in waiting if not client.is_answered]) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    tally.errors += [f"no answer within {ANSWERED_S_MAX:g} s"] * len(waiting)
