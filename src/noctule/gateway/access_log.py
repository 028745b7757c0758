"""The access log: one JSON line for each request, written in batches by a thread, so that no disk delays a request.

At most `LINES_MAX` lines wait; more are dropped and counted, and the next line that is written says how many. What
waits when the process is killed is lost: the log is for people and their tools, nothing depends on it.
"""

import asyncio
import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from noctule.base.errors import ConfigError
from noctule.gateway.model import GatewayModel

if TYPE_CHECKING:
    from noctule.gateway.exchange import Exchange

LINES_MAX = 16_384
"""Lines that wait for the disk: some seconds of traffic, and a few MiB."""

FLUSH_S = 0.2
"""How long a line waits for others."""

log = logging.getLogger("noctule.gateway")

_encode = msgspec.json.Encoder().encode


class AccessLog:
    """Appends to a file. Make it in the running loop; `close` writes what waits."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._loop = asyncio.get_running_loop()
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        self._is_failing = False
        self.dropped = 0
        """Lines lost since the start, because the disk was too slow or failed."""
        self._dropped_told = 0

    @classmethod
    def open(cls, path: Path) -> "AccessLog":
        """A log at this path, appended to. `OSError` when it cannot be opened."""
        return cls(path.open("ab", buffering=0))

    @classmethod
    def of(cls, model: GatewayModel, path: Path | None) -> "AccessLog | None":
        """As a model wants it: none, or at a path, or on stdout without one. `ConfigError` when it cannot be opened.

        Whoever starts a gateway with its access log on stdout has to read it: what is full delays the end.
        """
        if not model.access_log:
            return None
        try:
            return cls.open(path) if path is not None else cls(os.fdopen(os.dup(1), "ab", buffering=0))
        except OSError as error:
            raise ConfigError(f"cannot open the access log {path or 'on stdout'}: {error.strerror}") from error

    @staticmethod
    def now() -> datetime:
        """The time of a line, in milliseconds; written as RFC 3339 says, as the other engines and events do."""
        return datetime.fromtimestamp(round(time.time(), 3), UTC)  # noqa: TID251 - the edge: a log is read beside other clocks

    def add(self, line: dict[str, object]) -> None:
        """Take a line; never waits."""
        if len(self._lines) >= LINES_MAX:
            self.dropped += 1
            return
        self._lines.append(_encode(line))
        if self._timer is None and self._writing is None:
            self._timer = self._loop.call_later(FLUSH_S, self._flush)

    async def close(self) -> None:
        """Write what waits and close the file."""
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await asyncio.wait([self._writing])
        if self._lines:
            await self._loop.run_in_executor(None, self._write, self._take())
        self._file.close()

    def _flush(self) -> None:
        self._timer = None
        self._writing = asyncio.ensure_future(self._loop.run_in_executor(None, self._write, self._take()))
        self._writing.add_done_callback(self._written)

    def _take(self) -> bytes:
        lines, self._lines = self._lines, []
        if self.dropped > self._dropped_told:
            lines.append(_encode({"time": self.now(), "dropped_lines": self.dropped - self._dropped_told}))
            self._dropped_told = self.dropped
        return b"\n".join([*lines, b""])

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError as error:
            if not self._is_failing:
                log.warning("access_log_failed", extra={"error": str(error)})
            self._is_failing = True
            self.dropped += bytes(view).count(b"\n")
        else:
            self._is_failing = False

    def _written(self, _: "asyncio.Future[None]") -> None:
        self._writing = None
        if self._lines and self._timer is None and not self._loop.is_closed():
            self._timer = self._loop.call_later(FLUSH_S, self._flush)


def line_of(exchange: "Exchange", now: datetime) -> dict[str, object]:
    """What is told of a request that has just ended; its attempt is still there, if one was under way."""
    ended, began = time.perf_counter(), exchange.began
    attempt, plan, head = exchange.attempt, exchange.plan, exchange.head
    return {
        "time": now,
        "request_id": exchange.request_id.decode(),
        "client": exchange.client_ip,
        "method": head.method,
        "host": (head.host or b"").decode("ascii", "replace"),
        "path": head.target.partition(b"?")[0].decode("utf-8", "replace"),
        "status": exchange.status,
        "bytes": exchange.bytes_sent,
        "instance": attempt.instance_id if attempt is not None else "",
        "attempts": exchange.attempts,
        "connect_ms": _ms(began, exchange.sent_at),
        "first_byte_ms": _ms(began, exchange.first_byte_at),
        "total_ms": _ms(began, ended),
        "route": plan.route.name if plan is not None else "",
        "service": plan.service.name if plan is not None else "",
    }


def _ms(began: float, at: float) -> float:
    return round((at - began) * 1000, 3) if at else 0.0
