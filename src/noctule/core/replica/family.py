"""What a replica keeps for the children that were split off from it, until they can do without (ADR 0022).

A child begins with a state that is nowhere on the disk but in its parent: the parent's snapshot and log make it once
more after a crash. So as long as the child has no durable snapshot of its own, no snapshot of the parent, its own or a
received one, may take their place. The child asks for its snapshot at once, which bounds that.
"""

from typing import Final

from noctule.base.ids import GroupId
from noctule.core.keyspace.numbers import parse_int
from noctule.core.raft import events as raft
from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import MARK
from noctule.core.replica.batches import decode_entry
from noctule.core.replica.events import SplitOff

_SPLIT: Final = b"NOCTULE.SPLIT"


class Family:
    """Of one replica: its parent while that waits, and its children while they need it."""

    __slots__ = ("_needed_by", "_receiving", "_withheld", "born", "parent", "saved_index")

    def __init__(self) -> None:
        self.parent = GroupId(0)
        """Who waits for this replica's first snapshot; 0 when nobody does."""
        self.born: list[SplitOff] = []
        """Children to be made when all else that this event asks for is on its way."""
        self.saved_index = 0
        """What the newest durable snapshot covers."""
        self._needed_by: frozenset[GroupId] = frozenset()
        """Children without a durable snapshot."""
        self._receiving: tuple[int, int] | None = None
        """The received snapshot (index, term) whose file is about to be durable."""
        self._withheld: raft.SaveChunk | None = None
        """The last chunk of one whose file must not be so yet. Raft receives one at a time."""

    @property
    def may_snapshot(self) -> bool:
        """Whether no child would lose what it begins with."""
        return not self._needed_by

    def bear(self, child: SplitOff) -> None:
        """A child was split off. Dropped when a snapshot that is on its way to the disk takes the place of what could
        make it once more, or when it is not known who belongs to its group: the child's leader sends one, then."""
        if self._receiving is None and child.membership.voters:
            self._needed_by |= {child.child}
            self.born.append(child)

    def child_saved(self, child: GroupId) -> raft.SaveChunk | None:
        """The child needs nothing any more; returns the chunk that may be written now."""
        self._needed_by -= {child}
        if self._needed_by or self._withheld is None:
            return None
        withheld, self._withheld = self._withheld, None
        self._receiving = (withheld.index, withheld.term)
        return withheld

    def receive(self, chunk: raft.SaveChunk) -> bool:
        """Whether a chunk of a received snapshot may be written now; else `child_saved` hands it out."""
        is_last = chunk.number == chunk.count - 1
        if is_last and self._needed_by:
            self._withheld = chunk
            return False
        if is_last:
            self._receiving = (chunk.index, chunk.term)
        return True

    def drop(self) -> None:
        """What has come of a snapshot is of no use."""
        self._withheld = None

    def saved(self, index: int, term: int) -> None:
        """A snapshot of this replica is durable."""
        self.saved_index = max(self.saved_index, index)
        if self._receiving == (index, term):
            self._receiving = None


def splits_off(data: bytes, child: int) -> bool:
    """Whether an entry's data holds the split of that child; cheap for entries without any split."""
    if _SPLIT not in data or data[:1] == MARK:
        return False
    commands = [command for batch in decode_entry(data).batches for command in batch.commands]
    return any(len(each) == 3 and each[0] == _SPLIT and parse_int(each[1]) == child for each in commands)


def find_split(log: RaftLog, after: int, child: GroupId) -> int:
    """The first index above `after` at which the log, committed or not, holds the split of that child; 0 if none."""
    first = max(log.first_index, after + 1)
    for index, entry in enumerate(log.between(first, log.last_index), first):
        if splits_off(entry.data, child):
            return index
    return 0
