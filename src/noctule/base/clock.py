"""Time as it is handed in: the one place where the process' clocks are named."""

from typing import Protocol

from noctule.base.ids import Instant, WallMs


class Clock(Protocol):
    """Two readings: one to measure with, one to stamp with."""

    def now(self) -> Instant:
        """The monotonic clock, in seconds."""
        ...

    def wall_ms(self) -> WallMs:
        """The wall clock, in milliseconds since 1970."""
        ...
