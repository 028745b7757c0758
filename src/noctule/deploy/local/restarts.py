"""When a process that ended is started again: soon at first, later the more often it ends."""

from dataclasses import dataclass

DELAY_S_MIN = 0.05
DELAY_S_MAX = 5.0
SETTLED_S = 10.0
"""A process that was alive so long is forgiven what was before."""
SERVED_S_MIN = 1.0
"""One that ends before it served so long has crashed."""
CRASHES_MAX = 5
"""After so many in a row it is taken for broken, and tried at the longest delay only."""


@dataclass(slots=True)
class RestartPolicy:
    """The memory of one process' endings."""

    delay_s: float = DELAY_S_MIN
    crashes: int = 0

    @property
    def is_broken(self) -> bool:
        """Whether it crashed so often in a row that a person has to look at it."""
        return self.crashes >= CRASHES_MAX

    def ended(self, *, alive_s: float, served_s: float) -> float:
        """Note an ending, and give the seconds to wait before the next start.

        `alive_s` is since the process was started, `served_s` since it said that it serves; 0 when it never did.
        """
        self.crashes = self.crashes + 1 if served_s < SERVED_S_MIN else 0
        if alive_s >= SETTLED_S:
            self.delay_s = DELAY_S_MIN
        delay_s = DELAY_S_MAX if self.is_broken else self.delay_s
        self.delay_s = min(2 * self.delay_s, DELAY_S_MAX)
        return delay_s
