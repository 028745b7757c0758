"""The log of one group in memory: what follows the newest snapshot. No I/O; the WAL is told by `Persist` effects."""

from collections.abc import Sequence

from noctule.base.ensure import ensure
from noctule.core.raft.membership import MARK, Membership, decode_membership
from noctule.core.raft.messages import Entry


class RaftLog:
    """Entries after a snapshot point (index, term), without holes.

    Indexes are Raft's: the first entry ever is 1. `first_index` is the oldest entry held and `last_index` the newest;
    with no entries `last_index == first_index - 1`, the snapshot point.

    A membership is in force from when its entry is appended until a later one is, or it is cut away (thesis 4.1; ADR
    0014), so the log keeps all that stand in it, behind the one that held at `membership_index`.
    """

    __slots__ = (
        "_entries",
        "_memberships",
        "bytes_held",
        "last_index",
        "membership",
        "snapshot_index",
        "snapshot_term",
    )

    def __init__(
        self,
        snapshot_index: int = 0,
        snapshot_term: int = 0,
        entries: Sequence[Entry] = (),
        *,
        membership: Membership = Membership(),  # noqa: B008, an immutable value
        membership_index: int = 0,
    ) -> None:
        self.snapshot_index = snapshot_index
        self.snapshot_term = snapshot_term
        self._entries = list(entries)
        self.last_index = snapshot_index + len(self._entries)
        """The index of the newest entry, or of the snapshot point. Kept, not counted: it is asked for at every step."""
        self.bytes_held = sum(len(entry.data) for entry in self._entries)
        self.membership = membership
        """The one in force: the newest in the log, committed or not."""
        self._memberships = [(membership_index, membership)]
        for index, entry in enumerate(self._entries, snapshot_index + 1):
            if index > membership_index and entry.data[:1] == MARK:
                self._adopt(index, entry)

    @property
    def first_index(self) -> int:
        """The index of the oldest entry held, were there one."""
        return self.snapshot_index + 1

    @property
    def last_term(self) -> int:
        """The term of the newest entry, or of the snapshot point."""
        return self._entries[-1].term if self._entries else self.snapshot_term

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`; None when it is compacted away or not there yet."""
        position = index - self.snapshot_index - 1
        if position == -1:
            return self.snapshot_term
        if 0 <= position < len(self._entries):
            return self._entries[position].term
        return None

    def between(self, first: int, last: int, bytes_max: int | None = None) -> list[Entry]:
        """Entries `first`…`last`, both inclusive and held; cut when over `bytes_max`, but never to none."""
        start = first - self.snapshot_index - 1
        entries = self._entries[start : last - self.snapshot_index]
        if bytes_max is None:
            return entries
        size = 0
        for count, entry in enumerate(entries):
            size += len(entry.data)
            if size > bytes_max and count:
                return entries[:count]
        return entries

    @property
    def membership_index(self) -> int:
        """Where the membership in force stands, or where it was known to hold."""
        return self._memberships[-1][0]

    def membership_at(self, index: int) -> Membership:
        """The membership as of an index that is not below the one the log began with."""
        for at, membership in reversed(self._memberships):
            if at <= index:
                return membership
        return self._memberships[0][1]

    def committed_membership(self, commit: int) -> Membership:
        """The newest one that is known to be committed: by that, or as another followed, which had to wait for it."""
        index, newest = self._memberships[-1]
        return newest if index <= commit or len(self._memberships) == 1 else self._memberships[-2][1]

    def memberships_between(self, first: int, last: int) -> list[tuple[int, Membership]]:
        """Those whose entries stand at `first`…`last`, both inclusive, with their indexes."""
        return [(at, membership) for at, membership in self._memberships if first <= at <= last]

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries after the last one."""
        for index, entry in enumerate(entries, self.last_index + 1):
            self.bytes_held += len(entry.data)
            if entry.data[:1] == MARK:
                self._adopt(index, entry)
        self._entries.extend(entries)
        self.last_index += len(entries)

    def _adopt(self, index: int, entry: Entry) -> None:
        self.membership = decode_membership(entry.data)
        self._memberships.append((index, self.membership))

    def truncate_from(self, index: int) -> None:
        """Forget the entry at `index` and all after it. A committed entry never is: the caller ensures that."""
        ensure(index > self.snapshot_index, "the log is not cut inside its snapshot", index=index)
        position = index - self.snapshot_index - 1
        self.bytes_held -= sum(len(entry.data) for entry in self._entries[position:])
        del self._entries[position:]
        self.last_index = index - 1
        while self._memberships[-1][0] >= index:
            self._memberships.pop()
        self.membership = self._memberships[-1][1]

    def compact(self, index: int) -> None:
        """Forget entries up to and including `index`, which a snapshot covers."""
        term = self.term_at(index)
        ensure(term is not None, "the log is compacted to an entry it holds", index=index, last=self.last_index)
        count = index - self.snapshot_index
        self.bytes_held -= sum(len(entry.data) for entry in self._entries[:count])
        del self._entries[:count]
        self.snapshot_index, self.snapshot_term = index, term or 0
        while len(self._memberships) > 1 and self._memberships[1][0] <= index:
            del self._memberships[0]

    def reset(self, index: int, term: int, membership: Membership) -> None:
        """Forget everything; the log now begins after a received snapshot at (`index`, `term`)."""
        self._entries.clear()
        self.last_index = index
        self.bytes_held = 0
        self.snapshot_index, self.snapshot_term = index, term
        # Also the memberships of entries that are gone (databendlabs/openraft#1808).
        self._memberships = [(index, membership)]
        self.membership = membership

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a candidate's log with that end is at least as new as this one (paper 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def last_index_with_term_at_most(self, index: int, term: int) -> tuple[int, int]:
        """The newest (index, term) not after `index` whose term is at most `term`, no older than the snapshot point.

        Either side of a refused Append skips with it over every entry that cannot match (paper 5.3).
        """
        index = min(index, self.last_index)
        while index > self.snapshot_index:
            found = self._entries[index - self.snapshot_index - 1].term
            if found <= term:
                return index, found
            index -= 1
        return self.snapshot_index, self.snapshot_term
