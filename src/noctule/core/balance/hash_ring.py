"""A ring on which each instance has many points, so that a key keeps its instance while others come and go.

An instance's points are the first ones of a sequence that only its id decides. So a change of weight adds or takes
away points at the end of that sequence, and moves no more keys than it must.
"""

import hashlib
import struct
from bisect import bisect_left
from collections.abc import Iterator

POINTS = 128
"""Of the instance with the largest weight; more would spread more evenly (by 9 % at 128) and change more slowly."""

_SLOT_BITS = 10
_SLOT_MASK = (1 << _SLOT_BITS) - 1
_DIGEST = struct.Struct("8Q")


class HashRing:
    """Up to 1,024 members, by slots that the ring gives out. A look-up costs a binary search."""

    def __init__(self) -> None:
        self._points: list[int] = []
        # The lowest bits of a point are the slot of its member: one list of plain numbers is all there is to search.
        self._members: dict[int, str] = {}
        self._slots: dict[str, int] = {}
        self._counts: dict[str, int] = {}

    def set_members(self, weights: dict[str, int]) -> None:
        """Make these the members, with points in proportion to their weights (1 or more).

        Costs some 50 µs for each member that comes or changes, and 10 ms for the points of 1,000 that stay.
        """
        heaviest = max(weights.values(), default=1)
        counts = {name: max(1, round(POINTS * weight / heaviest)) for name, weight in weights.items()}
        changed = {name for name in {*counts, *self._counts} if counts.get(name) != self._counts.get(name)}
        if not changed:
            return
        touched = {self._slots[name] for name in changed if name in self._slots}
        self._points = [point for point in self._points if point & _SLOT_MASK not in touched]
        for name in [name for name in changed if name not in counts]:
            del self._members[self._slots.pop(name)]
        free = (slot for slot in range(_SLOT_MASK + 1) if slot not in self._members)
        for name in sorted(changed & counts.keys()):
            if name not in self._slots:
                slot = self._slots[name] = next(free)
                self._members[slot] = name
            self._points += _points_of(name, self._slots[name], counts[name])
        self._points.sort()
        self._counts = counts

    def walk(self, key: str) -> Iterator[str]:
        """Every member once, from the one that the key belongs to."""
        points = self._points
        start = bisect_left(points, int.from_bytes(hashlib.blake2b(_bytes(key), digest_size=8).digest()))
        seen: set[int] = set()
        for index in range(start, start + len(points)):
            slot = points[index if index < len(points) else index - len(points)] & _SLOT_MASK
            if slot not in seen:
                yield self._members[slot]
                if len(seen) + 1 == len(self._members):
                    return
                seen.add(slot)


def _points_of(name: str, slot: int, count: int) -> Iterator[int]:
    for block in range(0, count, 8):
        digest = hashlib.blake2b(_bytes(name), salt=block.to_bytes(16), digest_size=64).digest()
        for point in _DIGEST.unpack(digest)[: count - block]:
            yield point & ~_SLOT_MASK | slot


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
