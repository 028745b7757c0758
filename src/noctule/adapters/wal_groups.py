"""What the records of a write-ahead log add up to, for each group; no disk, no bytes.

`GroupFacts` is kept while running, so that each new segment can begin with a summary; `GroupLog` has the entries too
and lives during recovery only. Both take the same records in the same order.
"""

from dataclasses import dataclass

from noctule.adapters.wal_records import Entries, Fact, HardState, SnapshotMark, Summary
from noctule.base.ensure import ensure


@dataclass(frozen=True)
class RecoveredGroup:
    """One group as the log left it. `entries` are the log from `first_index` on, without a gap, (term, payload) each.

    `first_index` is `snapshot_index` + 1; `commit` lies between `snapshot_index` and the last entry, both inclusive.
    """

    term: int
    vote: int
    commit: int
    snapshot_index: int
    snapshot_term: int
    first_index: int
    entries: list[tuple[int, bytes]]


class GroupFacts:
    """Everything of one group but its entries. `take` refuses what Raft forbids before anything has changed."""

    __slots__ = ("commit", "group", "last_index", "snapshot_index", "snapshot_term", "term", "vote")

    def __init__(self, group: int) -> None:
        self.group = group
        self.term = 0
        self.vote = 0
        self.commit = 0
        self.snapshot_index = 0
        self.snapshot_term = 0
        self.last_index = 0
        """Of the entries ever kept. Stays when a mark with another term replaces the log, until entries follow."""

    def take(self, record: Fact) -> None:
        """Follow one record. Raises `InternalError` on a gap, a second vote in a term, or a term that falls."""
        if isinstance(record, Entries):
            first = record.first_index
            if not self.snapshot_index < first <= self.last_index + 1:
                facts = {"snapshot_index": self.snapshot_index, "last_index": self.last_index}
                ensure(False, "entries follow the log or replace its end", group=self.group, first_index=first, **facts)
            self.last_index = first + len(record.entries) - 1
        elif isinstance(record, HardState):
            revote = record.vote != self.vote and self.vote != 0
            if record.term < self.term or (record.term == self.term and revote):
                facts = {"term": self.term, "vote": self.vote}
                ensure(False, "a term never falls, a vote never changes in it", record=record, **facts)
            self.term, self.vote = record.term, record.vote
            self.commit = max(self.commit, record.commit)  # Most records tell of none.
        elif record.index > self.snapshot_index:  # an older mark lost a race with a newer one, and says nothing new
            self.snapshot_index, self.snapshot_term = record.index, record.term
            self.last_index = max(self.last_index, record.index)

    def summary(self) -> Summary:
        """What a new segment begins with for this group."""
        mark = (self.snapshot_index, self.snapshot_term)
        return Summary(self.group, self.term, self.vote, self.commit, *mark, self.last_index)

    def restore(self, summary: Summary) -> None:
        """Become what `summary` says."""
        self.term, self.vote, self.commit = summary.term, summary.vote, summary.commit
        self.snapshot_index, self.snapshot_term = summary.snapshot_index, summary.snapshot_term
        self.last_index = summary.last_index


class GroupLog:
    """One group while its log is read: the facts, and the entries from `first_index` on.

    The oldest segment's summary may tell of entries that stood in dropped segments; `first_index` is then after them,
    and a later mark must cover the difference, which `is_whole` tells in the end.
    """

    def __init__(self, group: int) -> None:
        self.facts = GroupFacts(group)
        self.first_index = 1
        self.entries: list[tuple[int, bytes]] = []

    @property
    def last_index(self) -> int:
        """The same as `GroupFacts.last_index`."""
        return self.facts.last_index

    def restore(self, summary: Summary) -> None:
        """Begin at the oldest segment's summary."""
        self.facts.restore(summary)
        self.first_index = summary.last_index + 1

    def take(self, record: Fact) -> None:
        """Follow one record; raises `InternalError` as `GroupFacts.take` does."""
        self.facts.take(record)
        if isinstance(record, Entries):
            self._replace_from(record.first_index, record)
        elif isinstance(record, SnapshotMark):
            self._forget(record)

    def is_whole(self) -> bool:
        """No entry is missing between the snapshot and `first_index`."""
        return self.first_index == self.facts.snapshot_index + 1

    def recovered(self) -> RecoveredGroup:
        """The result. The commit index is held inside the log that is there: it is a hint, never more."""
        facts = self.facts
        last_index = self.first_index + len(self.entries) - 1
        return RecoveredGroup(
            term=facts.term,
            vote=facts.vote,
            commit=max(facts.snapshot_index, min(facts.commit, last_index)),
            snapshot_index=facts.snapshot_index,
            snapshot_term=facts.snapshot_term,
            first_index=self.first_index,
            entries=self.entries,
        )

    def _replace_from(self, first: int, record: Entries) -> None:
        kept = first - self.first_index
        ensure(kept <= len(self.entries), "entries follow without a gap", group=record.group, first_index=first)
        if kept < 0:  # replaces entries of a dropped segment
            self.first_index, kept = first, 0
        del self.entries[kept:]
        self.entries.extend(record.entries)

    def _forget(self, mark: SnapshotMark) -> None:
        covered = mark.index - self.first_index + 1
        if covered <= 0:
            return
        if covered <= len(self.entries) and self.entries[covered - 1][0] == mark.term:
            del self.entries[:covered]
        else:
            self.entries.clear()
        self.first_index = mark.index + 1
