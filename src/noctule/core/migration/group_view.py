"""What the leader of a partition sees of its own group when it decides what to do next. Plain values."""

from collections.abc import Mapping

from msgspec import Struct

from noctule.base.ids import Instant
from noctule.core.raft.membership import Membership
from noctule.core.raft.node import RaftNode


class Digest(Struct, frozen=True, order=True):
    """That a node has this digest of the state as of this index."""

    node: int
    nonce: bytes
    index: int
    digest: bytes


class GroupView(Struct, frozen=True):
    """What it sees now. `view_group` makes it."""

    node: int
    """The leader itself."""
    term: int
    membership: Membership
    """In force here."""
    is_committed: bool
    """Whether it is committed, and something of this term is: before that, another change may be in another log."""
    commit: int
    match: Mapping[int, int] = {}
    """For each other member the last index that it is known to have."""
    heard_s: Mapping[int, float] = {}
    """For each other member the seconds since it last said anything."""
    is_target_present: bool = True
    """Whether the roster has the target as a member that belongs to the cluster."""
    snapshot_bytes: int = 0
    """Of the snapshot on its way to the target, 0 when there is none; and how much of it the target has."""
    snapshot_bytes_sent: int = 0
    state_bytes: int = 0
    keys: int = 0
    """What the partition holds."""
    digest_asked: bytes = b""
    """The nonce by which this leader last asked for digests."""
    digests: frozenset[Digest] = frozenset()
    """Those that have come, of any node, not long ago."""


def view_group(
    consensus: RaftNode,
    now: Instant,
    *,
    target: int = 0,
    is_target_present: bool = True,
    state_bytes: int = 0,
    keys: int = 0,
    digest_asked: bytes = b"",
    digests: frozenset[Digest] = frozenset(),
) -> GroupView | None:
    """The view of a replica that leads; None when it does not."""
    leadership, log = consensus.leadership, consensus.log
    if leadership is None:
        return None
    progress = leadership.progress.get(target)
    snapshot = progress.snapshot if progress is not None else None
    return GroupView(
        node=consensus.node_id,
        term=consensus.term,
        membership=log.membership,
        is_committed=log.membership_index <= consensus.commit and log.term_at(consensus.commit) == consensus.term,
        commit=consensus.commit,
        match={peer: each.match for peer, each in leadership.progress.items()},
        heard_s={peer: now - each.heard_at for peer, each in leadership.progress.items()},
        is_target_present=is_target_present,
        snapshot_bytes=snapshot.bytes_total if snapshot is not None else 0,
        snapshot_bytes_sent=snapshot.bytes_sent if snapshot is not None else 0,
        state_bytes=state_bytes,
        keys=keys,
        digest_asked=digest_asked,
        digests=digests,
    )
