"""What is left to count of a half after a cut: its size, and whose the deadlines are that both halves hold.

To look at a million keys takes hundreds of milliseconds, and a split must not hold its clients that long. So a cut only
divides the slots, and each half counts its own in slices, from what was there at the cut.
"""

from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from noctule.core.placement.slots import key_slot

KEYS_AT_A_TIME: Final = 4_000
"""Looked at in one slice, which takes about 2 ms."""

Values = TypeVar("Values")


class Recount(Generic[Values]):
    """Of one half. The values that it is given must not change while it looks at them."""

    def __init__(
        self,
        slots: Iterable[dict[bytes, Values]],
        deadlines: Iterable[bytes],
        *,
        is_own: Callable[[int], bool],
        size_of: Callable[[dict[bytes, Values]], int],
        deadline_bytes: int,
        estimate: int,
    ) -> None:
        """`estimate` is what was taken for the size meanwhile; `is_own` tells of a slot whether it is this half's."""
        self.correction = -estimate
        """What the size that was kept since must be changed by, once nothing is left."""
        self._slots = list(slots)
        self._deadlines = list(deadlines)
        self._is_own = is_own
        self._size_of = size_of
        self._deadline_bytes = deadline_bytes

    def work(self) -> list[bytes]:
        """One slice; returns keys of the other half whose deadlines are not to be held here any more."""
        left = KEYS_AT_A_TIME
        while self._slots and left > 0:
            values = self._slots.pop()
            self.correction += self._size_of(values)
            left -= len(values)
        foreign: list[bytes] = []
        while self._deadlines and left > 0:
            looked_at = self._deadlines[-left:]
            del self._deadlines[-left:]
            others = [key for key in looked_at if not self._is_own(key_slot(key))]
            self.correction += self._deadline_bytes * (len(looked_at) - len(others))
            foreign += others
            left -= len(looked_at)
        return foreign

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to look at."""
        return not self._slots and not self._deadlines
