"""Rows by their names, which a list of changes may take back, and the orders and deadlines that follow from them.

A table notes what each row was before the list touched it: that is how the list is undone, and which rows are to be
written. What else is kept of the rows (`_placed`) follows from them in one place, also when they are put back.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, MutableMapping
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from noctule.core.registry.objects import Check, KvEntry, LockDelay, RegistryNode, ServiceInstance, Session

K = TypeVar("K", str, tuple[str, str])
V = TypeVar("V")
Indexed = TypeVar("Indexed", RegistryNode, ServiceInstance, Check, KvEntry, Session)
Row = TypeVar("Row", RegistryNode, ServiceInstance, Check, KvEntry, Session, LockDelay)

HEAP_SLACK = 64
"""Stale entries of a heap that are tolerated beside as many as are true."""


class SortedMap(MutableMapping[K, V], Generic[K, V]):
    """A mapping in the order of its keys. A key more or less costs a search and a move of memory (20 µs of 50,000)."""

    __slots__ = ("_order", "_rows")

    def __init__(self) -> None:
        self._rows: dict[K, V] = {}
        self._order: list[K] = []

    def __getitem__(self, key: K) -> V:
        return self._rows[key]

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __setitem__(self, key: K, row: V) -> None:
        if key not in self._rows:
            insort(self._order, key)
        self._rows[key] = row

    def __delitem__(self, key: K) -> None:
        del self._rows[key]
        del self._order[bisect_left(self._order, key)]

    def __iter__(self) -> Iterator[K]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._rows)

    def oldest(self) -> K:
        """The key that was put first of those that are there; `KeyError` when there is none."""
        for key in self._rows:
            return key
        raise KeyError

    def in_order(self) -> list[V]:
        """All rows; as `values`, but as fast as may be."""
        return [self._rows[key] for key in self._order]

    def keys_from(self, start: K) -> Iterator[K]:
        """Those from `start` on, without a change meanwhile."""
        order = self._order
        for at in range(bisect_left(order, start), len(order)):
            yield order[at]


def keys_with_prefix(rows: SortedMap[str, V], prefix: str) -> list[str]:
    """Those keys, in order; costs what is found."""
    found = []
    for key in rows.keys_from(prefix):
        if not key.startswith(prefix):
            break
        found.append(key)
    return found


class Table(Generic[K, Row]):
    """Rows of one kind."""

    def __init__(self, of: type[Row], rows: MutableMapping[K, Row] | None = None) -> None:
        self.of: type[Row] = of
        self.rows: MutableMapping[K, Row] = {} if rows is None else rows
        self._before: dict[K, Row | None] = {}

    def get(self, key: K) -> Row | None:
        """One row."""
        return self.rows.get(key)

    def put(self, key: K, row: Row) -> None:
        """Add or replace a row."""
        before = self.rows.get(key)
        self._before.setdefault(key, before)
        self.rows[key] = row
        self._placed(key, before, row)

    def remove(self, key: K) -> None:
        """Remove a row that is there."""
        before = self.rows.pop(key)
        self._before.setdefault(key, before)
        self._placed(key, before, None)

    def load(self, rows: dict[K, Row]) -> None:
        """Put rows into a table that has none, and take note of nothing."""
        for key in sorted(rows):
            self.rows[key] = rows[key]
            self._placed(key, None, rows[key])

    def begin(self) -> None:
        """What is changed from now on may be taken back."""
        self._before = {}

    def roll_back(self) -> None:
        """Take back what was changed since `begin`."""
        for key, row in self._before.items():
            now = self.rows.pop(key, None)
            if row is not None:
                self.rows[key] = row
            if now is not row:  # It may have come and gone by the same list.
                self._placed(key, now, row)
        self._before = {}

    def touched(self) -> list[tuple[K, Row | None]]:
        """Each row that was changed since `begin`, as it is now; None for one that is gone."""
        return [(key, self.rows.get(key)) for key, before in self._before.items() if self.rows.get(key) is not before]

    def written(self) -> list[tuple[type[Row], str, Row | None]]:
        """The same for who writes them: the kind, and a name of one part."""
        return [(self.of, key if isinstance(key, str) else "\0".join(key), row) for key, row in self.touched()]

    def _placed(self, key: K, before: Row | None, after: Row | None) -> None:
        """A row was added (`before` is None), replaced or removed (`after` is None)."""


class Deadlines(Generic[K]):
    """When what ends, in unix ms. Setting one costs O(log n); those that are void are dropped when they are many."""

    def __init__(self) -> None:
        self.at: dict[K, int] = {}
        self._heap: list[tuple[int, K]] = []

    def set(self, key: K, when_ms: int) -> None:
        """It ends then; 0: not by time."""
        if not when_ms:
            self.at.pop(key, None)
        elif self.at.get(key) != when_ms:
            self.at[key] = when_ms
            heappush(self._heap, (when_ms, key))
        if len(self._heap) > 2 * len(self.at) + HEAP_SLACK:
            self._heap = [(when_ms, key) for key, when_ms in self.at.items()]
            heapify(self._heap)

    def next_ms(self) -> int | None:
        """When the first one ends."""
        while self._heap and self.at.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now_ms: int, count_max: int) -> list[tuple[int, K]]:
        """The first ones whose time has passed, with it; they stay until they are set anew."""
        found: list[tuple[int, K]] = []
        while len(found) < count_max and (first_ms := self.next_ms()) is not None and first_ms <= now_ms:
            entry = heappop(self._heap)
            if not found or found[-1] != entry:
                found.append(entry)
        for entry in found:
            heappush(self._heap, entry)
        return found
