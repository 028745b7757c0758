"""A list: byte strings in an order, cheap to change at both ends. The commands on it are in lists.py."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Self

import msgspec

from noctule.core.keyspace.container import Container

ITEM_COST_BYTES = 50
"""What CPython takes for an item beside its own bytes: an object's header, rounding, and a place in the deque."""

_ENCODED_COST_BYTES = 2

_decoder = msgspec.msgpack.Decoder(list[bytes])
_encoder = msgspec.msgpack.Encoder()


class ListValue(Container):
    """The items from the head (left) to the tail. Change it by its methods only, while a state lends it out.

    Pushes and pops cost the items moved. What stands in the middle costs the way to it; indices count from the head.
    """

    __slots__ = ("items",)

    type_name = b"list"
    code = 1

    def __init__(self, items: Iterable[bytes] = ()) -> None:
        super().__init__()
        self.items = deque(items)
        """For reading."""
        self.size_bytes += _size(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def copy(self) -> Self:
        """Another list with the same items; costs their number."""
        copied = type(self)()
        copied.items, copied.size_bytes = self.items.copy(), self.size_bytes
        return copied

    def parts(self, bytes_target: int) -> Iterator[bytes]:
        """Runs of items as MessagePack arrays, each over the target by one item at most."""
        part: list[bytes] = []
        size = 0
        for item in self.items:
            if part and size >= bytes_target:
                yield _encoder.encode(part)
                part, size = [], 0
            part.append(item)
            size += _ENCODED_COST_BYTES + len(item)
        yield _encoder.encode(part)

    def absorb(self, part: bytes) -> None:
        """Add the next run at the tail."""
        self.push_right(_decoder.decode(part))

    def push_left(self, items: Sequence[bytes]) -> None:
        """Put one after the other before the head, so that the last one becomes it."""
        self.items.extendleft(items)
        self.size_bytes += _size(items)
        if self.undo is not None:
            self.undo.append(partial(self.pop_left, len(items)))

    def push_right(self, items: Sequence[bytes]) -> None:
        """Put one after the other behind the tail."""
        self.items.extend(items)
        self.size_bytes += _size(items)
        if self.undo is not None:
            self.undo.append(partial(self.pop_right, len(items)))

    def pop_left(self, count: int) -> list[bytes]:
        """Take `count` items, or all that there are, from the head on."""
        pop = self.items.popleft
        popped = [pop() for _ in range(min(count, len(self.items)))]
        self.size_bytes -= _size(popped)
        if self.undo is not None:
            self.undo.append(partial(self.push_left, popped[::-1]))
        return popped

    def pop_right(self, count: int) -> list[bytes]:
        """Take `count` items, or all that there are, from the tail on."""
        pop = self.items.pop
        popped = [pop() for _ in range(min(count, len(self.items)))]
        self.size_bytes -= _size(popped)
        if self.undo is not None:
            self.undo.append(partial(self.push_right, popped[::-1]))
        return popped

    def put_at(self, index: int, item: bytes) -> None:
        """Replace the item at an index that is there."""
        old, self.items[index] = self.items[index], item
        self.size_bytes += len(item) - len(old)
        if self.undo is not None:
            self.undo.append(partial(self.put_at, index, old))

    def insert_at(self, index: int, item: bytes) -> None:
        """Put an item before the one at `index`."""
        self.items.insert(index, item)
        self.size_bytes += _size((item,))
        if self.undo is not None:
            self.undo.append(partial(self._remove_at, index))

    def _remove_at(self, index: int) -> None:
        self.size_bytes -= _size((self.items[index],))
        del self.items[index]

    def remove_equal(self, item: bytes, count: int) -> int:
        """Remove items equal to this: the first `count`, the last when it is below zero, all when zero; how many.

        Costs the length, also to take back.
        """
        found = self.items.count(item)
        removed = min(found, abs(count)) if count else found
        if not removed:
            return 0
        if self.undo is not None:
            self.undo.append(partial(self._set_back, self.items, self.size_bytes))
        self.size_bytes -= removed * _size((item,))
        if removed == found:
            self.items = deque(each for each in self.items if each != item)
        else:
            self.items = _without(self.items, item, found - removed if count < 0 else 0, removed)
        return removed

    def _set_back(self, items: deque[bytes], size_bytes: int) -> None:
        self.items, self.size_bytes = items, size_bytes

    def between(self, first: int, last: int) -> list[bytes]:
        """The items from one index to another, both inclusive; whatever of that is not there is left out."""
        length = len(self.items)
        first, last = max(first, 0), min(last, length - 1)
        if first > last:
            return []
        if first <= length - 1 - last:
            return list(islice(self.items, first, last + 1))
        found = list(islice(reversed(self.items), length - 1 - last, length - first))
        found.reverse()
        return found


def _without(items: deque[bytes], item: bytes, skipped: int, removed: int) -> deque[bytes]:
    """All but some that are equal to `item`: `skipped` of those stay, then `removed` go."""
    kept: deque[bytes] = deque()
    seen = 0
    for each in items:
        if each == item:
            seen += 1
            if skipped < seen <= skipped + removed:
                continue
        kept.append(each)
    return kept


def _size(items: Sequence[bytes] | deque[bytes]) -> int:
    return sum(map(len, items)) + ITEM_COST_BYTES * len(items)
