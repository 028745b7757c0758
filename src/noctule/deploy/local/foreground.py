"""Processes kept running in the foreground of a terminal or a service manager, until a signal says stop.

What they are is no business of this file: `Supervised` is started, kept running and stopped here.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Protocol, TypeVar

import uvloop

from noctule.deploy.local.json_log import JsonLines
from noctule.deploy.local.processes import LOG_BYTES_MAX

INTERRUPTED = 130
"""The exit code when a signal came before all was up, or a second one while it stopped (128 + SIGINT)."""

log = logging.getLogger("noctule.up")


class Supervised(Protocol):
    """Some processes."""

    async def start(self) -> None:
        """Returns once they serve; raises what the first one that failed said. `stop` must follow in any case."""
        ...

    async def keep_running(self) -> None:
        """Start again what ends, until cancelled, or until nothing is left that should run."""
        ...

    async def stop(self) -> None:
        """Nothing runs on return."""
        ...


_S = TypeVar("_S", bound=Supervised)


def run_supervised(make: Callable[[], _S], on_up: Callable[[_S], None], log_path: Path) -> int:
    """Run them until SIGINT, SIGTERM or SIGHUP, and give the exit code; a second signal kills at once.

    Blocks; for the main thread. `make` is called in the event loop, `on_up` once all serve. What is logged here goes to
    `log_path`, as JSON lines. 0 after an orderly stop, `INTERRUPTED` otherwise; raises what `start` raises. Nothing is
    left running in any case.
    """
    with _logging_to(log_path), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_supervise(make, on_up))


async def _supervise(make: Callable[[], _S], on_up: Callable[[_S], None]) -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    supervised = make()
    started = False
    try:
        started = await _unless(stop, supervised.start())
        if started:
            on_up(supervised)
            await _unless(stop, supervised.keep_running())
    finally:
        stop.set()
        stopped = await _unless(hurry, supervised.stop())
        log.info("cluster_stopped", extra={"in_order": stopped})
    return 0 if started and stopped else INTERRUPTED


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work unless the event comes first, which cancels it; whether the work was done. Raises what it raises."""
    doing, waiting = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        is_done = doing.done()
    finally:
        for task in (doing, waiting):
            task.cancel()
        await asyncio.wait({doing, waiting})
    if not doing.cancelled():
        doing.result()
    return is_done


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Have the log records of this process, the gateway's among them, in a file as JSON lines; stderr is for people."""
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES_MAX, backupCount=1, delay=True)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
