"""A snapshot on its way from the leader to one follower: which chunks to ask the disk for, and when.

A few chunks are on their way at a time: one alone would wait for the disk, the network and the other disk in turn, and
many would only wait in memory.
"""

from dataclasses import dataclass
from typing import Final

from noctule.base.ids import Instant

CHUNKS_IN_FLIGHT_MAX: Final = 4
RESEND_S: Final = 1.0
"""After so long without news the next chunk that the follower lacks is sent again, alone."""


@dataclass(frozen=True)
class SnapshotProgress:
    """What `describe()` shows of it. Bytes count those that were sent for the first time."""

    index: int
    chunks_taken: int
    """What the follower said it has."""
    chunks_total: int
    bytes_sent: int
    bytes_total: int


class OutgoingSnapshot:
    """Always ``0 <= taken <= asked <= count``."""

    __slots__ = (
        "_due_at",
        "_in_flight_max",
        "_sent",
        "_sent_at",
        "asked",
        "awaited",
        "bytes_sent",
        "bytes_total",
        "count",
        "index",
        "taken",
        "term",
    )

    def __init__(self, index: int, term: int, count: int, bytes_total: int, now: Instant) -> None:
        self.index = index
        self.term = term
        self.count = count
        self.bytes_total = bytes_total
        self.taken = 0
        """Chunks that the follower has, from the first on."""
        self.asked = 0
        """The next chunk to ask the disk for."""
        self.awaited: set[int] = set()
        """Those that the disk was asked for and has not handed in."""
        self.bytes_sent = 0
        self._sent = 0
        self._sent_at = now
        self._due_at = now
        self._in_flight_max = CHUNKS_IN_FLIGHT_MAX

    def next_chunk(self, now: Instant, bytes_per_s: float) -> int | None:
        """The chunk that the disk is to be asked for now, if any may be sent; it counts as asked for."""
        if self.asked == self.count or self.asked >= self.taken + self._in_flight_max:
            return None
        if bytes_per_s and (self.awaited or now < self._due_at):
            return None
        number, self.asked = self.asked, self.asked + 1
        self.awaited.add(number)
        return number

    def next_deadline(self, bytes_per_s: float) -> Instant:
        """When the rate allows the next chunk; for ever if it is not the rate that it waits for."""
        waits = bool(bytes_per_s) and not self.awaited and self.asked < self.count
        return self._due_at if waits and self.asked < self.taken + self._in_flight_max else Instant(float("inf"))

    def loaded(self, number: int, size: int, now: Instant, bytes_per_s: float) -> bool:
        """The disk handed a chunk in; whether it is to be sent now."""
        if number not in self.awaited:
            return False
        self.awaited.remove(number)
        self._sent_at = now
        if bytes_per_s:
            self._due_at = Instant(max(self._due_at, now) + size / bytes_per_s)
        if number == self._sent:
            self._sent += 1
            self.bytes_sent += size
        return True

    def acknowledge(self, taken: int, now: Instant) -> None:
        """The follower has so many chunks. None after it had some: it has forgotten them, and all begins anew."""
        if taken == 0 < self.taken:
            self.taken = self.asked = 0
            self.awaited.clear()
            self._sent_at = now
        elif self.taken < taken <= self.count:
            self.taken = taken
            self.asked = max(self.asked, taken)
            self._in_flight_max = CHUNKS_IN_FLIGHT_MAX
            self._sent_at = now

    def is_stalled(self, now: Instant) -> bool:
        """Whether there was no news for too long; then the first chunk that it lacks is asked for again, by itself."""
        if now < self._sent_at + RESEND_S:
            return False
        self._sent_at = now
        self.asked = self.taken
        self.awaited.clear()
        self._in_flight_max = 1
        return True

    def describe(self) -> SnapshotProgress:
        """A picture of it now."""
        return SnapshotProgress(self.index, self.taken, self.count, self.bytes_sent, self.bytes_total)
