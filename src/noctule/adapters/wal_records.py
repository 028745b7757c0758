"""What the write-ahead log records. Read wal_format.py next for the bytes, wal_groups.py for what records mean."""

from collections.abc import Sequence
from typing import TypeAlias

from msgspec import Struct


class Entries(Struct, array_like=True, tag=1, frozen=True, gc=False, forbid_unknown_fields=True):
    """Log entries (term, payload) of a group from `first_index` on; what the log held from there on is replaced."""

    group: int
    first_index: int
    entries: Sequence[tuple[int, bytes]]


class HardState(Struct, array_like=True, tag=2, frozen=True, gc=False, forbid_unknown_fields=True):
    """The group's term, its vote in that term (0 none), and a commit index that was reached."""

    group: int
    term: int
    vote: int
    commit: int


class SnapshotMark(Struct, array_like=True, tag=3, frozen=True, gc=False, forbid_unknown_fields=True):
    """A durable snapshot file covers the group's log up to `index`, whose term is `term`; that part is forgotten.

    A log that does not have that entry with that term is replaced as a whole (Raft figure 13, steps 6 and 7).
    """

    group: int
    index: int
    term: int


class Summary(Struct, array_like=True, tag=4, frozen=True, gc=False, forbid_unknown_fields=True):
    """All but the entries of one group, as the log stood when a segment was begun. Written by the log itself."""

    group: int
    term: int
    vote: int
    commit: int
    snapshot_index: int
    snapshot_term: int
    last_index: int


class Forgotten(Struct, array_like=True, tag=5, frozen=True, gc=False, forbid_unknown_fields=True):
    """This node has no replica of the group any more: nothing that the log said of it so far holds.

    Records of the group that follow are those of another replica, which begins with nothing.
    """

    group: int


Fact: TypeAlias = Entries | HardState | SnapshotMark
"""What is said of a group."""


Record: TypeAlias = Fact | Forgotten
"""What a caller may write."""
