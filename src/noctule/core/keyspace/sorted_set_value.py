"""A sorted set: members with scores, by their member in a dict and by (score, member) in blocks.

A block holds some hundred items as two lists, scores and members, which share their objects with the dict: half of
what tuples would take, and C compares bare floats. `_ends` has the last item of each block, by which the block of an
item is found. Ranks are sums of the blocks' sizes, kept in a tree (Fenwick, "A new data structure for cumulative
frequency tables", 1994) that is made when the first rank is asked for and made anew once blocks have come or gone.
Where one block ends and the next begins depends on how the set came about; nothing that is answered does.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from functools import partial
from math import inf, isnan, nextafter
from typing import Self

import msgspec

from noctule.core.keyspace.container import Container

SORTED_SET_COST_BYTES = 700
"""What CPython takes for a sorted set beside its items."""
ITEM_COST_BYTES = 125
"""What it takes for an item beside its member's own bytes: two object headers, a dict entry, two places in a block."""

BLOCK_ITEMS_MAX = 1_024
"""A fuller block is cut in two."""
_BLOCK_ITEMS_MIN = BLOCK_ITEMS_MAX // 8
"""One that is less full is joined with a neighbour."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, float]])


class SortedSet(Container):
    """Different members, each with a score, which is a double and never NaN; sorted by score, then by member."""

    __slots__ = ("_ends", "_members", "_scores", "_tree", "scores")

    type_name = b"zset"
    code = 3

    def __init__(self, items: Iterable[tuple[bytes, float]] = ()) -> None:
        super().__init__()
        self.size_bytes = SORTED_SET_COST_BYTES
        self.scores: dict[bytes, float] = {}
        """Member to score, in no order that could be relied on; to be read only."""
        self._scores: list[list[float]] = []
        self._members: list[list[bytes]] = []
        self._ends: list[tuple[float, bytes]] = []
        self._tree: list[int] | None = None
        """At 1 and above: the sizes of so many blocks up to this one as the lowest bit of its place says, as a sum."""
        for member, score in items:
            self.put(member, score)

    def __len__(self) -> int:
        return len(self.scores)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SortedSet) and self.scores == other.scores

    def __contains__(self, member: bytes) -> bool:
        return member in self.scores

    def put(self, member: bytes, score: float) -> bool:
        """Set the score of a member; whether the member is new. A score that is equal already stays as it is."""
        score += 0.0  # So -0 becomes 0, as it does in Redis.
        old = self.scores.get(member)
        if old is None:
            self.size_bytes += ITEM_COST_BYTES + len(member)
        elif old == score:
            return False
        else:
            self._take_out(old, member)
        if self.undo is not None:
            self.undo.append(partial(self.discard, member) if old is None else partial(self.put, member, old))
        self.scores[member] = score
        self._put_in(score, member)
        return old is None

    def discard(self, member: bytes) -> bool:
        """Remove it; whether it was there."""
        score = self.scores.pop(member, None)
        if score is None:
            return False
        self.size_bytes -= ITEM_COST_BYTES + len(member)
        if self.undo is not None:
            self.undo.append(partial(self.put, member, score))
        self._take_out(score, member)
        return True

    def rank(self, member: bytes) -> int | None:
        """How many items stand before it; None when it is not there."""
        score = self.scores.get(member)
        return None if score is None else self.rank_below(score, member)

    def rank_below(self, score: float, member: bytes = b"") -> int:
        """How many items are below (score, member): without a member, how many scores are below that one."""
        block = bisect_left(self._ends, (score, member))
        if block == len(self._ends):
            return len(self.scores)
        return self._rank_of_block(block) + self._place(block, score, member)

    def rank_through(self, score: float) -> int:
        """How many scores are that one or below it."""
        return len(self.scores) if score == inf else self.rank_below(nextafter(score, inf))

    def items(self, start: int, stop: int) -> list[tuple[bytes, float]]:
        """Members with their scores, of the ranks from `start` up to `stop`, exclusive, neither below 0."""
        found: list[tuple[bytes, float]] = []
        stop = min(stop, len(self.scores))
        if start >= stop:
            return found
        block, skipped = self._block_of_rank(start)
        while len(found) < stop - start:
            part = slice(skipped, skipped + stop - start - len(found))
            found += zip(self._members[block][part], self._scores[block][part], strict=True)
            block, skipped = block + 1, 0
        return found

    def copy(self) -> Self:
        """Another one with the same items; about 0.5 ms for each 10,000."""
        other = type(self)()
        other.size_bytes, other.scores = self.size_bytes, self.scores.copy()
        other._scores = [block[:] for block in self._scores]
        other._members = [block[:] for block in self._members]
        other._ends = self._ends[:]
        return other

    def parts(self, bytes_target: int) -> Iterator[bytes]:
        """In the order of the scores."""
        part: list[tuple[bytes, float]] = []
        size = 0
        for members, scores in zip(self._members, self._scores, strict=True):
            for item in zip(members, scores, strict=True):
                if part and size >= bytes_target:
                    yield _encoder.encode(part)
                    part, size = [], 0
                part.append(item)
                size += len(item[0]) + 13
        yield _encoder.encode(part)

    def absorb(self, part: bytes) -> None:
        """Add the items of a part; raises ValueError for a member that is there, or a score that is NaN."""
        for member, score in _decoder.decode(part):
            if isnan(score) or not self.put(member, score):
                raise ValueError("a member is there twice, or its score is no number")

    def _place(self, block: int, score: float, member: bytes) -> int:
        """Where in a block the item is, or would be."""
        scores = self._scores[block]
        first = bisect_left(scores, score)
        if first == len(scores) or scores[first] != score:
            return first
        return bisect_left(self._members[block], member, first, bisect_right(scores, score, first))

    def _put_in(self, score: float, member: bytes) -> None:
        """Put an item that is not there yet into its block."""
        block = bisect_left(self._ends, (score, member))
        if block == len(self._ends):
            if not block:
                self._scores.append([])
                self._members.append([])
                self._ends.append((score, member))
                self._tree = None
            else:
                block -= 1
                self._ends[block] = (score, member)
        place = self._place(block, score, member)
        scores = self._scores[block]
        scores.insert(place, score)
        self._members[block].insert(place, member)
        if self._tree is not None:
            _add(self._tree, block, 1)
        if len(scores) > BLOCK_ITEMS_MAX:
            self._cut(block)

    def _take_out(self, score: float, member: bytes) -> None:
        """Remove an item that is there from its block."""
        block = bisect_left(self._ends, (score, member))
        place = self._place(block, score, member)
        scores, members = self._scores[block], self._members[block]
        del scores[place], members[place]
        if self._tree is not None:
            _add(self._tree, block, -1)
        if len(scores) < _BLOCK_ITEMS_MIN and len(self._ends) > 1:
            block = max(block - 1, 0)
            scores, members = self._scores[block], self._members[block]
            scores += self._scores.pop(block + 1)
            members += self._members.pop(block + 1)
            del self._ends[block]
            self._tree = None
            place = len(scores)
        if not scores:
            del self._scores[block], self._members[block], self._ends[block]
            self._tree = None
            return
        if place == len(scores):
            self._ends[block] = (scores[-1], members[-1])
        if len(scores) > BLOCK_ITEMS_MAX:
            self._cut(block)

    def _cut(self, block: int) -> None:
        self._tree = None
        scores, members = self._scores[block], self._members[block]
        half = len(scores) // 2
        self._scores[block : block + 1] = [scores[:half], scores[half:]]
        self._members[block : block + 1] = [members[:half], members[half:]]
        self._ends.insert(block, (scores[half - 1], members[half - 1]))

    def _rank_of_block(self, block: int) -> int:
        """The rank of its first item."""
        rank = 0
        if block:  # A queue that is emptied from the front needs no tree.
            tree = self._sums()
            while block:
                rank += tree[block]
                block &= block - 1
        return rank

    def _block_of_rank(self, rank: int) -> tuple[int, int]:
        """The block that holds a rank, which is that of an item, and how many items stand before that in it."""
        if rank < len(self._scores[0]):
            return 0, rank
        tree = self._sums()
        block = 0
        step = 1 << len(tree).bit_length() - 1
        while step:
            if block + step < len(tree) and tree[block + step] <= rank:
                block += step
                rank -= tree[block]
            step >>= 1
        return block, rank

    def _sums(self) -> list[int]:
        if self._tree is None:
            tree = self._tree = [0, *map(len, self._scores)]
            for place in range(1, len(tree)):
                above = place + (place & -place)
                if above < len(tree):
                    tree[above] += tree[place]
        return self._tree


def _add(tree: list[int], block: int, change: int) -> None:
    """The size of a block has changed."""
    place = block + 1
    while place < len(tree):
        tree[place] += change
        place += place & -place
