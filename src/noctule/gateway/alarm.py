"""One timer of a connection, cheap to move: most deadlines are set and never reached."""

import asyncio
import math
from collections.abc import Callable


class Alarm:
    """Calls back once the deadline that was set last has come.

    Moving a deadline later costs an assignment: the timer that was armed before looks, when it fires, how long there is
    still to wait. A request moves its deadlines several times, and arming a timer each time would cost as much as
    parsing its head.
    """

    __slots__ = ("_armed_for", "_callback", "_deadline", "_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._deadline = math.inf
        self._armed_for = math.inf
        self._handle: asyncio.TimerHandle | None = None

    def set(self, delay_s: float) -> None:
        """Ring in so many seconds from now, and not when it was to ring before."""
        self._deadline = deadline = self._loop.time() + delay_s
        if deadline < self._armed_for:
            self._arm(deadline)

    def clear(self) -> None:
        """Do not ring until it is set again."""
        self._deadline = math.inf

    def close(self) -> None:
        """Let go of the timer."""
        self._deadline = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
            self._armed_for = math.inf

    def _arm(self, deadline: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed_for = deadline
        self._handle = self._loop.call_at(deadline, self._ring)

    def _ring(self) -> None:
        self._handle = None
        self._armed_for = math.inf
        if self._deadline == math.inf:
            return
        # The loop's clock may stand a millisecond behind the timer that it rings by.
        if self._deadline - self._loop.time() > 0.002:
            self._arm(self._deadline)
            return
        self._deadline = math.inf
        self._callback()
