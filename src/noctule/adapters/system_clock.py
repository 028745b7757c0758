"""The operating system's clocks, read in this one place; everything above is handed a `Clock`."""

import time

from noctule.base.ids import Instant, WallMs


class SystemClock:
    """A `base.clock.Clock` of this process."""

    __slots__ = ()

    def now(self) -> Instant:
        """CLOCK_MONOTONIC in seconds: never steps back, not comparable with another process'."""
        return Instant(time.monotonic())

    def wall_ms(self) -> WallMs:
        """CLOCK_REALTIME in whole milliseconds since 1970; whoever sets the machine's clock makes it jump."""
        return WallMs(time.time_ns() // 1_000_000)
