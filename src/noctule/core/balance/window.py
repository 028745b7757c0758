"""Counts over the last seconds: what the breaker, outlier ejection and the retry budget decide by.

Time is cut into slots that leave the window one at a time, so a count costs an addition and memory is fixed. What was
counted is remembered for at least the window less one slot, and at most for the window.
"""

from noctule.base.ids import Instant

SLOTS = 10
"""Of one window: a count leaves it within a tenth of its length of when it should."""


class Window:
    """Sums of `kinds` kinds of counts, numbered from 0, over the last `window_s` seconds."""

    __slots__ = ("_newest", "_next_slot_at", "_slot", "_slots", "_slots_per_s", "totals")

    def __init__(self, window_s: float, kinds: int) -> None:
        self.totals = [0] * kinds
        """Of all slots, as of the last `add` or `advance`."""
        self._slots_per_s = SLOTS / window_s
        self._slots = [[0] * kinds for _ in range(SLOTS)]
        self._slot = 0
        self._newest = self._slots[0]
        self._next_slot_at = 1 / self._slots_per_s

    def add(self, kind: int, now: Instant) -> None:
        """Count one. A `now` before the last one counts as the last one."""
        if now >= self._next_slot_at:
            self.advance(now)
        self._newest[kind] += 1
        self.totals[kind] += 1

    def advance(self, now: Instant) -> list[int]:
        """Forget what has left the window, and give what is in it."""
        slot = int(now * self._slots_per_s)
        if slot > self._slot:
            for passed in range(max(self._slot + 1, slot - SLOTS + 1), slot + 1):
                self._empty(passed % SLOTS)
            self._slot = slot
            self._newest = self._slots[slot % SLOTS]
            self._next_slot_at = (slot + 1) / self._slots_per_s
        return self.totals

    def clear(self) -> None:
        """Forget everything."""
        for position in range(SLOTS):
            self._empty(position)

    def _empty(self, position: int) -> None:
        counts = self._slots[position]
        for kind, count in enumerate(counts):
            if count:
                self.totals[kind] -= count
                counts[kind] = 0
