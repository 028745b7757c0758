"""What one node of a group driven by hand has on disk: the sum of what was synced, and nothing else.

It keeps plain values by the rules of `node/recovery.py`; records and bytes are the WAL's own tests' matter.
"""

from dataclasses import dataclass

from noctule.base.ensure import ensure
from noctule.core.raft.events import DropChunks, Persist, SaveChunk
from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import Membership, decode_membership
from noctule.core.raft.messages import Entry, HardState


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot file: membership and then the state once the log is applied up to (`index`, `term`)."""

    index: int
    term: int
    chunks: tuple[bytes, ...]

    @property
    def membership(self) -> Membership:
        """As of `index`."""
        return decode_membership(self.chunks[0])


class HandDisk:
    """Survives its node. `entries` follow the `mark` (index, term).

    `first` is the membership that the node was told of at its first start, none when it is to join; `directory` is the
    id under which it came back with an empty disk, else 0.
    """

    def __init__(self, first: Membership, directory: int = 0) -> None:
        self.first = first
        self.directory = directory
        self.hard_state = HardState()
        self.mark = (0, 0)
        self.entries: list[Entry] = []
        self.snapshot: Snapshot | None = None
        self.receiving: list[bytes] = []
        """Chunks of a file that is not finished; gone after a crash."""

    def save(self, snapshot: Snapshot) -> None:
        """A snapshot file is durable; the newest one is found by its index."""
        if self.snapshot is None or snapshot.index > self.snapshot.index:
            self.snapshot = snapshot

    def keep_chunk(self, stored: SaveChunk | DropChunks) -> None:
        """A chunk is in the file that is being received, with the last one of which that is durable."""
        if isinstance(stored, DropChunks) or stored.number == 0:
            self.receiving = []
        if isinstance(stored, SaveChunk):
            ensure(stored.number == len(self.receiving), "chunks are saved in order", number=stored.number)
            self.receiving.append(stored.data)
            if stored.number + 1 == stored.count:
                self.save(Snapshot(stored.index, stored.term, tuple(self.receiving)))
                self.receiving = []

    def keep(self, stored: Persist) -> None:
        """Something is durable now. Raises `InternalError` when it would leave a hole in the log."""
        if stored.hard_state is not None:
            self.hard_state = stored.hard_state
        if stored.mark is not None:
            covered = stored.mark[0] - self.mark[0]
            self.entries = [] if stored.replace_log else self.entries[covered:]
            self.mark = stored.mark
        if stored.entries:
            kept = stored.first_index - 1 - self.mark[0]
            ensure(0 <= kept <= len(self.entries), "the log on disk has no hole", first_index=stored.first_index)
            self.entries = self.entries[:kept] + stored.entries

    def recover(self) -> tuple[HardState, RaftLog, int]:
        """What a node starts with: hard state, log, and the index its snapshot's state has applied."""
        self.receiving = []
        if self.snapshot is None:
            return self.hard_state, RaftLog(*self.mark, self.entries, membership=self.first), 0
        index, term = self.snapshot.index, self.snapshot.term
        membership = self.snapshot.membership
        log = RaftLog(*self.mark, self.entries, membership=membership, membership_index=index)
        if log.term_at(index) != term:
            # Killed after a received snapshot was saved and before the log said so (figure 13, step 7).
            self.mark, self.entries = (index, term), []
            log = RaftLog(index, term, membership=membership, membership_index=index)
            if self.hard_state.term < term:
                self.hard_state = HardState(term, 0)
        return self.hard_state, log, index
