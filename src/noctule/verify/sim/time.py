"""Virtual time: a queue of calls, taken in order of time and then of arrival. Nothing here ever waits."""

import heapq
from collections.abc import Callable

from noctule.base.ids import Instant

WALL_MS_AT_START = 1_700_000_000_000


class VirtualTime:
    """The clock of a world; moves only when the next call is taken."""

    def __init__(self) -> None:
        self._now = Instant(0.0)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def now(self) -> Instant:
        """Seconds since the world began."""
        return self._now

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Make a call later. Two calls for the same instant are made in the order in which they were asked for."""
        self._count += 1
        heapq.heappush(self._queue, (self._now + seconds, self._count, call))

    def step(self) -> bool:
        """Move to the next call and make it; False when there is none."""
        if not self._queue:
            return False
        at, _, call = heapq.heappop(self._queue)
        self._now = Instant(at)
        call()
        return True

    def run_until(self, at: float) -> None:
        """Make all calls that are due before `at`, and the first one that is not; fewer when there are no more."""
        queue, pop = self._queue, heapq.heappop
        while queue and self._now < at:
            now, _, call = pop(queue)
            self._now = Instant(now)
            call()
