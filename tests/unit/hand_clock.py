"""The clock that tests hand in."""

from noctule.base.ids import Instant, WallMs


class HandClock:
    """Stands still until a test sets `seconds`; the wall clock stands too."""

    def __init__(self, seconds: float = 100.0, wall_ms: int = 0) -> None:
        self.seconds = seconds
        self._wall_ms = wall_ms

    def now(self) -> Instant:
        return Instant(self.seconds)

    def wall_ms(self) -> WallMs:
        return WallMs(self._wall_ms)
