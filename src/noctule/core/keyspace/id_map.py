"""Values by id, in the order of the ids: the entries of a stream, and what is pending of them."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Generic, Self, TypeVar

V = TypeVar("V")

_HOLES_MAX = 64
"""Ids without a value that are tolerated beside as many as there are values."""


class IdMap(Generic[V]):
    """A dict with a sorted list of its keys beside it.

    To add at the end and to remove anywhere costs the same however many there are; to add before the end moves the ids
    behind it, eight bytes each.
    """

    __slots__ = ("_first", "_ids", "_values")

    def __init__(self) -> None:
        self._values: dict[int, V] = {}
        self._ids: list[int] = []
        """Sorted, from `_first` on: every id that has a value, the first and last ones among them; and holes."""
        self._first = 0

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, id_: int) -> bool:
        return id_ in self._values

    @property
    def first_id(self) -> int | None:
        """The smallest id."""
        return self._ids[self._first] if self._values else None

    @property
    def last_id(self) -> int | None:
        """The largest id."""
        return self._ids[-1] if self._values else None

    def get(self, id_: int) -> V | None:
        """The value of an id."""
        return self._values.get(id_)

    def put(self, id_: int, value: V) -> None:
        """Set the value of an id, wherever it comes in the order."""
        if id_ not in self._values:
            ids = self._ids
            if not ids or id_ > ids[-1]:
                ids.append(id_)
            else:
                place = bisect_left(ids, id_)
                if ids[place] != id_:
                    ids.insert(place, id_)
                self._first = min(self._first, place)
        self._values[id_] = value

    def pop(self, id_: int) -> V | None:
        """Take an id out; its value, or None when it is not there."""
        value = self._values.pop(id_, None)
        if value is not None:
            self._clear_ends()
        return value

    def between(self, start: int, end: int) -> Iterator[tuple[int, V]]:
        """From `start` to `end`, both inclusive, in order. Nothing may be put or taken out meanwhile."""
        values, ids = self._values, self._ids
        for place in range(bisect_left(ids, start, self._first), len(ids)):
            id_ = ids[place]
            if id_ > end:
                return
            value = values.get(id_)
            if value is not None:
                yield id_, value

    def between_reversed(self, start: int, end: int) -> Iterator[tuple[int, V]]:
        """The same from `end` back to `start`."""
        values, ids = self._values, self._ids
        for place in range(bisect_right(ids, end, self._first) - 1, self._first - 1, -1):
            id_ = ids[place]
            if id_ < start:
                return
            value = values.get(id_)
            if value is not None:
                yield id_, value

    def copy(self) -> Self:
        """Another map with the same values."""
        copied = type(self)()
        copied._values = self._values.copy()
        copied._ids = self._ids[self._first :]
        return copied

    def _clear_ends(self) -> None:
        values, ids = self._values, self._ids
        if not values:
            self._ids, self._first = [], 0
            return
        while ids[-1] not in values:
            ids.pop()
        while ids[self._first] not in values:
            self._first += 1
        if len(ids) > 2 * len(values) + _HOLES_MAX:
            self._ids = [id_ for id_ in ids if id_ in values]
            self._first = 0
