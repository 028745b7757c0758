"""A set, kept so that a scan can go on anywhere and any member can be drawn in a time that does not grow with the set.

The members lie in buckets by their position, the CRC32 by which every scan walks: a bucket is a range of positions,
in order, and the members in it are sorted. Buckets are divided one at a time as the set grows and joined again as it
shrinks (Litwin, "Linear hashing", 1980), so there is no pause at any size, and how the members lie follows from the
members alone: replicas whose sets came about differently draw the same member. About ten bytes a member beside the
member itself, a fifth of what Python's own set takes.
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
"""What it takes for a member beside its own bytes: an object header, and a place in a bucket."""

BUCKET_MEMBERS = 64
"""How many members there are to a bucket: there is one more bucket for each so many."""

_DRAWS_FROM = 3 * BUCKET_MEMBERS
"""Fuller than this is next to no bucket, unless somebody chose members with like positions: those are drawn less."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[bytes])


class SetValue(Container):
    """Different byte strings."""

    __slots__ = ("_buckets", "_count", "_divided", "_shift")

    type_name = b"set"
    code = 2

    def __init__(self, members: Iterable[bytes] = ()) -> None:
        super().__init__()
        self.size_bytes = SET_COST_BYTES
        self._count = 0
        self._buckets: list[list[bytes]] = [[]]
        self._divided = 0
        """So many buckets of the present round are divided in two already; they stand first."""
        self._shift = 31
        """What leaves, of a position, the number of a bucket in a round in which all are divided."""
        for member in members:
            self.add(member)

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SetValue) and self._buckets == other._buckets

    def __contains__(self, member: bytes) -> bool:
        bucket = self._buckets[self._bucket_of(crc32(member))]
        place = bisect_left(bucket, member)
        return place < len(bucket) and bucket[place] == member

    def __iter__(self) -> Iterator[bytes]:
        """In an order that follows from the members, but is nothing to rely on."""
        return chain.from_iterable(self._buckets)

    def add(self, member: bytes) -> bool:
        """Whether it is new."""
        bucket = self._buckets[self._bucket_of(crc32(member))]
        place = bisect_left(bucket, member)
        if place < len(bucket) and bucket[place] == member:
            return False
        bucket.insert(place, member)
        self.size_bytes += MEMBER_COST_BYTES + len(member)
        if self.undo is not None:
            self.undo.append(partial(self.discard, member))
        self._count += 1
        if self._count % BUCKET_MEMBERS == 0:
            self._divide()
        return True

    def discard(self, member: bytes) -> bool:
        """Remove it; whether it was there."""
        bucket = self._buckets[self._bucket_of(crc32(member))]
        place = bisect_left(bucket, member)
        if place == len(bucket) or bucket[place] != member:
            return False
        del bucket[place]
        self.size_bytes -= MEMBER_COST_BYTES + len(member)
        if self.undo is not None:
            self.undo.append(partial(self.add, member))
        if self._count % BUCKET_MEMBERS == 0:
            self._join()
        self._count -= 1
        return True

    def draw(self, chance: Chance) -> bytes:
        """One member of a set that is not empty, each as likely as any other."""
        buckets = self._buckets
        least = _DRAWS_FROM if len(buckets) > 1 else 1
        while True:
            # A place that is not taken makes up for a bucket that is less full than others.
            bucket = buckets[chance.below(len(buckets))]
            place = chance.below(max(len(bucket), least))
            if place < len(bucket):
                return bucket[place]

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
        first = self._bucket_of(position)
        for number in range(first, len(self._buckets)):
            found = sorted((crc32(member), member) for member in self._buckets[number])
            yield from found if number > first else found[bisect_left(found, (position, b"")) :]

    def copy(self) -> Self:
        """Another one with the same members; about 0.5 ms for each 10,000."""
        other = type(self)()
        other.size_bytes, other._count = self.size_bytes, self._count
        other._buckets = [bucket[:] for bucket in self._buckets]
        other._divided, other._shift = self._divided, self._shift
        return other

    def parts(self, bytes_target: int) -> Iterator[bytes]:
        """In the order of a scan, which is that of the buckets, so that no time goes into sorting all members."""
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

    def _bucket_of(self, position: int) -> int:
        number = position >> self._shift
        return number if number < 2 * self._divided else (number >> 1) + self._divided

    def _divide(self) -> None:
        """Make two buckets of the first one that has not been divided in this round."""
        first = 2 * self._divided
        upper = 1 << self._shift
        halves: tuple[list[bytes], list[bytes]] = ([], [])
        for member in self._buckets[first]:
            halves[crc32(member) & upper != 0].append(member)
        self._buckets[first : first + 1] = halves
        self._divided += 1
        if 2 * self._divided == len(self._buckets):
            self._divided, self._shift = 0, self._shift - 1

    def _join(self) -> None:
        """Take the last division back."""
        if not self._divided:
            self._divided, self._shift = len(self._buckets) // 2, self._shift + 1
        self._divided -= 1
        first = 2 * self._divided
        self._buckets[first : first + 2] = [sorted(self._buckets[first] + self._buckets[first + 1])]
