"""A set, kept so that a scan can go on anywhere and any member can be drawn in a time that does not grow with the set.

The members lie on shelves by their position, the CRC32 by which every scan walks: a shelf is a range of positions, in
order, and the members on it are sorted. Shelves are divided one at a time as the set grows and joined again as it
shrinks (Litwin, "Linear hashing", 1980), so there is no pause at any size, and how the members lie follows from the
members alone: replicas whose sets came about differently draw the same member. That is about ten bytes a member beside
the member itself, a fifth of what Python's own set takes.
"""

from binascii import crc32
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Self

import msgspec

from noctule.core.keyspace.chance import Chance
from noctule.core.keyspace.container import Container

SET_COST_BYTES = 260
"""What CPython takes for a set beside its members."""
MEMBER_COST_BYTES = 44
"""What it takes for a member beside its own bytes: an object header, and a place on a shelf."""

SHELF_MEMBERS = 64
"""How many members there are to a shelf: there is one more shelf for each so many."""

_DRAWS_FROM = 3 * SHELF_MEMBERS
"""Fuller than this is next to no shelf, unless somebody chose members with like positions: those are drawn less."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[bytes])


class SetValue(Container):
    """Different byte strings."""

    __slots__ = ("_count", "_divided", "_shelves", "_shift")

    type_name = b"set"
    code = 2

    def __init__(self, members: Iterable[bytes] = ()) -> None:
        super().__init__()
        self.size_bytes = SET_COST_BYTES
        self._count = 0
        self._shelves: list[list[bytes]] = [[]]
        self._divided = 0
        """So many shelves of the present round are divided in two already; they stand first."""
        self._shift = 31
        """What leaves, of a position, the number of a shelf in a round in which all are divided."""
        for member in members:
            self.add(member)

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SetValue) and self._shelves == other._shelves

    def __contains__(self, member: bytes) -> bool:
        shelf = self._shelves[self._shelf_of(crc32(member))]
        place = bisect_left(shelf, member)
        return place < len(shelf) and shelf[place] == member

    def __iter__(self) -> Iterator[bytes]:
        """In an order that follows from the members, but is nothing to rely on."""
        return chain.from_iterable(self._shelves)

    def add(self, member: bytes) -> bool:
        """Whether it is new."""
        shelf = self._shelves[self._shelf_of(crc32(member))]
        place = bisect_left(shelf, member)
        if place < len(shelf) and shelf[place] == member:
            return False
        shelf.insert(place, member)
        self.size_bytes += MEMBER_COST_BYTES + len(member)
        if self.undo is not None:
            self.undo.append(partial(self.discard, member))
        self._count += 1
        if self._count % SHELF_MEMBERS == 0:
            self._divide()
        return True

    def discard(self, member: bytes) -> bool:
        """Remove it; whether it was there."""
        shelf = self._shelves[self._shelf_of(crc32(member))]
        place = bisect_left(shelf, member)
        if place == len(shelf) or shelf[place] != member:
            return False
        del shelf[place]
        self.size_bytes -= MEMBER_COST_BYTES + len(member)
        if self.undo is not None:
            self.undo.append(partial(self.add, member))
        if self._count % SHELF_MEMBERS == 0:
            self._join()
        self._count -= 1
        return True

    def draw(self, chance: Chance) -> bytes:
        """One member of a set that is not empty, each as likely as any other."""
        shelves = self._shelves
        least = _DRAWS_FROM if len(shelves) > 1 else 1
        while True:
            # A place that is not taken makes up for a shelf that is less full than others.
            shelf = shelves[chance.below(len(shelves))]
            place = chance.below(max(len(shelf), least))
            if place < len(shelf):
                return shelf[place]

    def draw_some(self, chance: Chance, count: int) -> list[bytes]:
        """`count` different members, in no particular order; all of them when there are no more."""
        if count >= self._count:
            return list(self)
        if 2 * count > self._count:
            members = list(self)
            return [members[number] for number in chance.some_of(len(members), count)]
        drawn: dict[bytes, None] = {}
        while len(drawn) < count:
            drawn[self.draw(chance)] = None
        return list(drawn)

    def walk(self, position: int) -> Iterator[tuple[int, bytes]]:
        """The members from a position on, with their positions, in the order of both."""
        first = self._shelf_of(position)
        for number in range(first, len(self._shelves)):
            found = sorted((crc32(member), member) for member in self._shelves[number])
            yield from found if number > first else found[bisect_left(found, (position, b"")) :]

    def copy(self) -> Self:
        """Another one with the same members; about 0.5 ms for each 10,000."""
        other = type(self)()
        other.size_bytes, other._count = self.size_bytes, self._count
        other._shelves = [shelf[:] for shelf in self._shelves]
        other._divided, other._shift = self._divided, self._shift
        return other

    def parts(self, bytes_target: int) -> Iterator[bytes]:
        """In the order of a scan, which is that of the shelves, so that no time goes into sorting all members."""
        part: list[bytes] = []
        size = 0
        for _, member in self.walk(0):
            if part and size >= bytes_target:
                yield _encoder.encode(part)
                part, size = [], 0
            part.append(member)
            size += len(member) + 3
        yield _encoder.encode(part)

    def absorb(self, part: bytes) -> None:
        """Add the members of a part; raises ValueError for one that is there."""
        for member in _decoder.decode(part):
            if not self.add(member):
                raise ValueError("a member is there twice")

    def _shelf_of(self, position: int) -> int:
        number = position >> self._shift
        return number if number < 2 * self._divided else (number >> 1) + self._divided

    def _divide(self) -> None:
        """Make two shelves of the first one that has not been divided in this round."""
        first = 2 * self._divided
        upper = 1 << self._shift
        halves: tuple[list[bytes], list[bytes]] = ([], [])
        for member in self._shelves[first]:
            halves[crc32(member) & upper != 0].append(member)
        self._shelves[first : first + 1] = halves
        self._divided += 1
        if 2 * self._divided == len(self._shelves):
            self._divided, self._shift = 0, self._shift - 1

    def _join(self) -> None:
        """Take the last division back."""
        if not self._divided:
            self._divided, self._shift = len(self._shelves) // 2, self._shift + 1
        self._divided -= 1
        first = 2 * self._divided
        self._shelves[first : first + 2] = [sorted(self._shelves[first] + self._shelves[first + 1])]
