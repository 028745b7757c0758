"""One comparison of the replicas of a group, by the digests that they tell its leader: a pure decision."""

from collections import Counter
from collections.abc import Collection, Mapping

from noctule.base.ids import Instant
from noctule.core.roster.loads import Compared

PATIENCE_S = 5.0
"""A replica that has not told its digest by then tells none: it is down, or goes over the entry by a snapshot."""
BYTES_PER_S_MIN = 2 << 20
"""Digests are made at least so fast, on a node that is busy with others; larger states are given longer."""
INDEXES_MAX = 2
"""An order that is sent again stands in the log twice; the digests of more entries than that are not kept."""


class Comparison:
    """From when it was asked for until `result` tells what came of it."""

    def __init__(self, nonce: bytes, members: Collection[int], state_bytes: int, now: Instant) -> None:
        """`members` are those whose replicas are compared."""
        self.nonce = nonce
        self._members = frozenset(members)
        self._until = now + PATIENCE_S + state_bytes / BYTES_PER_S_MIN
        self._told: dict[int, dict[int, bytes]] = {}
        """By index and node."""

    def tell(self, node: int, index: int, digest: bytes) -> None:
        """A replica tells the digest of its state as of this entry."""
        if node in self._members and (index in self._told or len(self._told) < INDEXES_MAX):
            self._told.setdefault(index, {})[node] = digest

    def result(self, now: Instant) -> Compared | None:
        """What came of it, once all have told of one entry, or when it is too late for more; None before."""
        index = self._best_index()
        told = self.told_at(index)
        if len(told) < len(self._members) and now < self._until:
            return None
        different = odd_ones(told)
        equal = tuple(sorted(told.keys() - {*different}))
        return Compared(self.nonce, index, equal, different, tuple(sorted(self._members - told.keys())))

    def told_at(self, index: int) -> Mapping[int, bytes]:
        """The digests of that entry, by node."""
        return self._told.get(index, {})

    def _best_index(self) -> int:
        """The entry of which most have told, the first one of several; 0 when nobody has told of any."""
        return max(sorted(self._told), key=lambda index: len(self._told[index]), default=0)


def odd_ones(told: Mapping[int, bytes]) -> tuple[int, ...]:
    """The nodes, in order, whose digest is not the one that more than half have; all, where no digest is.

    Of two that differ nobody can tell which one is right. That includes the leader: it may be the odd one itself.
    """
    common, count = max(Counter(told.values()).items(), key=lambda each: each[1], default=(b"", 0))
    has_majority = 2 * count > len(told)
    return tuple(node for node in sorted(told) if not has_majority or told[node] != common)
