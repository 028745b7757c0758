"""Many deadlines of which only the next ones are looked at: ten thousand checks cost nothing while none is due."""

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from noctule.base.ensure import ensure

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """For each key at most one deadline, in any unit that only rises. Setting and removing cost a logarithm."""

    def __init__(self) -> None:
        self._at: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        """With what is out of date: an entry counts when `_at` says the same."""
        self._number = 0
        """So that keys are never compared."""

    def __len__(self) -> int:
        return len(self._at)

    def set(self, key: K, at: float) -> None:
        """From now on the key is due at `at`, and no longer at another time."""
        if self._at.get(key) == at:
            return
        self._at[key] = at
        self._push(key, at)
        if len(self._heap) > 2 * len(self._at) + 64:  # Else each renewal would leave something behind for good.
            self._heap = [entry for entry in self._heap if self._at.get(entry[2]) == entry[0]]
            heapify(self._heap)

    def remove(self, key: K) -> None:
        """The key is due no more; harmless when it was not."""
        self._at.pop(key, None)

    def next_at(self) -> float | None:
        """The earliest deadline; None when there is none."""
        while self._heap and self._at.get(self._heap[0][2]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Iterator[K]:
        """Each key whose deadline has come, the earliest first, and its deadline is gone then."""
        while (at := self.next_at()) is not None and at <= now:
            key = heappop(self._heap)[2]
            del self._at[key]
            yield key

    def check(self) -> None:
        """Raise `InternalError` unless every deadline is in the heap."""
        queued = {(key, at) for at, _, key in self._heap}
        ensure(all(item in queued for item in self._at.items()), "every deadline is in the heap")

    def _push(self, key: K, at: float) -> None:
        self._number += 1
        heappush(self._heap, (at, self._number, key))
