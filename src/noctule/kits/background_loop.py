"""An event loop in a thread of its own, so that synchronous code can use what is written for asyncio."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from noctule.base.errors import UnavailableError

T = TypeVar("T")

STOP_TIMEOUT_S = 5.0


class BackgroundLoop:
    """Starts with its first call; the thread is a daemon, so a process that forgets to close it still ends."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run it there and give its result, or raise what it raised; `TimeoutError` after `timeout_s`.

        `UnavailableError` once the loop is closed. Never to be called from that loop itself.
        """
        try:
            loop = self._started()
        except UnavailableError:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result(timeout_s)
        except FutureTimeoutError:
            future.cancel()
            raise TimeoutError(f"{self._name} had no answer within {timeout_s:g} s") from None
        except CancelledError:
            raise UnavailableError(f"{self._name} is closed") from None

    def close(self) -> None:
        """Cancel what runs there and end the thread. Harmless the second time."""
        with self._guard:
            self._is_closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(STOP_TIMEOUT_S)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._guard:
            if self._is_closed:
                raise UnavailableError(f"{self._name} is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
