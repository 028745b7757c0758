"""What the leader of a partition does next for the migration of one of its replicas: a pure decision, made each time.

Called again and again with what the leader sees of its own group. A step may be lost, or done twice, and the leader may
change after any of them: the next call looks at what is, and goes on from there. Nothing is remembered that matters;
`Progress` only tells how it gets on, and since when it does not.

    PREPARE   the target is a learner                      -> TRANSFER
    TRANSFER  it has what the leader has, but for a little -> VERIFY
    VERIFY    both have the same digest at the same index  -> UPDATE
    UPDATE    the target votes, the source is out          -> CLEANUP
    CLEANUP   nothing is left to do here                   -> DONE
    ROLLBACK  the target is out                            -> ROLLED_BACK
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from msgspec import Struct

from noctule.base.ids import Instant
from noctule.core.migration.stages import Migration, Stage
from noctule.core.placement.partition_map import Partition
from noctule.core.raft.membership import Change, ChangeKind, Membership

CAUGHT_UP_ENTRIES = 100
"""A target that misses no more committed entries has caught up (thesis 4.2.1): the rest takes one more round."""
DIGEST_AGAIN_S = 5.0
"""A digest that is not there by then is asked for again: whoever goes over its index by a snapshot tells none."""
DIGEST_BYTES_PER_S_MIN = 4 << 20
"""Digests are made at least so fast, between two turns of the loop; larger states are given longer."""
TRANSFER_S_MAX = 5.0
"""A leader that is to go tries for so long to make the target its successor, and then goes without one."""
HEARD_S_MAX = 1.0
"""Who was not heard for longer is not made the leader."""


class Digest(Struct, frozen=True, order=True):
    """That a node has this digest of the state as of this index."""

    node: int
    nonce: bytes
    index: int
    digest: bytes


class GroupView(Struct, frozen=True):
    """What the leader of a partition sees of it now, and of the target in the roster."""

    node: int
    """The leader itself."""
    term: int
    membership: Membership
    """In force here, and whether it is committed."""
    is_committed: bool
    commit: int
    match: Mapping[int, int] = {}
    """For each other member the last index that it is known to have."""
    is_target_present: bool = True
    """Whether the roster has the target as a member that belongs to the cluster."""
    heard_s: Mapping[int, float] = {}
    """For each other member the seconds since it last said anything."""
    snapshot_bytes_sent: int = 0
    snapshot_bytes: int = 0
    """Of the snapshot on its way to the target; 0 when there is none."""
    state_bytes: int = 0
    keys: int = 0
    """What the partition holds."""
    digest_asked: bytes = b""
    """The nonce by which this leader last asked for digests."""
    digests: frozenset[Digest] = frozenset()
    """Those that have come, of any node, not long ago."""


class MigrationLimits(Struct, frozen=True):
    """The settings that matter here."""

    timeout_s: float = 30.0


class ChangeMembership(Struct, frozen=True):
    """Ask Raft for this; it refuses while another change is on its way, and then it is asked again."""

    changes: tuple[Change, ...]
    joint: bool


class TransferLeadership(Struct, frozen=True):
    """Have the target lead."""

    target: int


class ProposeDigest(Struct, frozen=True):
    """Have every replica digest its state at one index. Once for each nonce: digests cost every key."""

    nonce: bytes


class Advance(Struct, frozen=True):
    """Have *meta* log the next stage; it refuses unless the migration is still in `stage`."""

    stage: Stage
    to: Stage
    note: str = ""


Step: TypeAlias = ChangeMembership | TransferLeadership | ProposeDigest | Advance


class Progress(Struct, frozen=True):
    """How a migration gets on, as this leader has seen it; for people, and for noticing that it does not."""

    migration: int
    stage: Stage
    stage_since: Instant
    """When this leader first saw it in that stage."""
    moved_at: Instant
    """When anything last got further."""
    bytes_done: int = 0
    bytes_total: int = 0
    keys_done: int = 0
    keys_total: int = 0
    entries_left: int = 0
    """Committed ones that the target lacks."""
    bytes_per_s: float = 0.0
    seconds_left: float | None = None
    """None while nobody can tell."""
    sampled_at: Instant = Instant(0.0)
    sampled_bytes: int = 0
    """From when and where the rate is measured next."""
    seen: tuple[object, ...] = ()
    """What must change for it to have got further."""


SAMPLE_S = 0.5
_SMOOTHING = 0.5


def watch(before: Progress | None, migration: Migration, view: GroupView, now: Instant) -> Progress:
    """How it gets on now; `before` is the last answer, None for a leader that has just begun to look."""
    match = view.match.get(migration.target, view.commit if migration.target == view.node else 0)
    total = view.snapshot_bytes or view.state_bytes
    if view.snapshot_bytes:
        done = min(view.snapshot_bytes_sent, total)
    else:
        done = total * min(match, view.commit) // view.commit if view.commit else 0
    seen = (match, done, view.membership, view.is_committed, len(view.digests))
    if before is None or before.migration != migration.id:
        before = Progress(migration.id, migration.stage, now, now, sampled_at=now, sampled_bytes=done, seen=seen)
    is_new_stage = before.stage is not migration.stage
    rate, sampled_at, sampled_bytes = before.bytes_per_s, before.sampled_at, before.sampled_bytes
    if now - sampled_at >= SAMPLE_S:
        newest = max(done - sampled_bytes, 0) / (now - sampled_at)
        rate = newest if not rate else rate + _SMOOTHING * (newest - rate)
        sampled_at, sampled_bytes = now, done
    left = total - done
    return Progress(
        migration.id,
        migration.stage,
        stage_since=now if is_new_stage else before.stage_since,
        moved_at=now if is_new_stage or seen != before.seen else before.moved_at,
        bytes_done=done,
        bytes_total=total,
        keys_done=view.keys * done // total if total else 0,
        keys_total=view.keys,
        entries_left=max(view.commit - match, 0),
        bytes_per_s=rate,
        seconds_left=0.0 if not left else left / rate if rate else None,
        sampled_at=sampled_at,
        sampled_bytes=sampled_bytes,
        seen=seen,
    )


def next_step(
    migration: Migration, view: GroupView, progress: Progress, now: Instant, limits: MigrationLimits
) -> Step | None:
    """What the leader is to do now; None when there is nothing but to wait. `progress` is what `watch` just said."""
    if migration.stage in _BEFORE_UPDATE:
        if not view.is_target_present:
            note = f"node {migration.target} does not belong to the cluster any more"
            return Advance(migration.stage, Stage.ROLLBACK, note)
        patience_s = limits.timeout_s
        if migration.stage is Stage.VERIFY:
            patience_s += view.state_bytes / DIGEST_BYTES_PER_S_MIN
        if now - progress.moved_at > patience_s:
            note = f"no progress for {limits.timeout_s:g} s in stage {migration.stage}"
            return Advance(migration.stage, Stage.ROLLBACK, note)
    if view.membership.is_joint() or not view.is_committed:
        return None  # Another change, or our own, is on its way; the leader leaves a joint membership by itself.
    return _STEPS[migration.stage](migration, view, progress, now)


def tidy_step(partition: Partition, view: GroupView) -> Step | None:
    """For a partition with which nothing goes on: take out a member that the map does not know.

    A leader whose view of the map was old may have let it in again, after the migration had ended. Voters only once all
    replicas of the map vote, so that there is no step towards fewer.
    """
    membership = view.membership
    if membership.is_joint() or not view.is_committed:
        return None
    strays = [node for node in membership.learners if node not in partition.replicas]
    if not strays and set(partition.replicas) <= set(membership.voters):
        strays = [node for node in membership.voters if node not in partition.replicas]
    return ChangeMembership((Change(ChangeKind.REMOVED, strays[0]),), joint=False) if strays else None


def digest_nonce(migration: int, term: int, attempt: int) -> bytes:
    """Differs for each leader and try, so that no digest is taken for another one's."""
    return b"migration %d %d %d" % (migration, term, attempt)


# The stages -----------------------------------------------------------------------------------------------------------


def _prepare(migration: Migration, view: GroupView, _progress: Progress, _now: Instant) -> Step | None:
    if migration.target not in view.membership.members():
        return ChangeMembership((Change(ChangeKind.LEARNER, migration.target),), joint=False)
    return Advance(Stage.PREPARE, Stage.TRANSFER)


def _transfer(migration: Migration, view: GroupView, progress: Progress, now: Instant) -> Step | None:
    if migration.target not in view.membership.members():
        return _prepare(migration, view, progress, now)
    has_caught_up = progress.entries_left <= CAUGHT_UP_ENTRIES and view.match.get(migration.target, 0) > 0
    return Advance(Stage.TRANSFER, Stage.VERIFY) if has_caught_up else None


def _verify(migration: Migration, view: GroupView, progress: Progress, now: Instant) -> Step | None:
    if migration.target not in view.membership.members():
        return _prepare(migration, view, progress, now)
    ours = b"migration %d " % migration.id
    own = {(each.nonce, each.index): each.digest for each in view.digests if each.node == view.node}
    for each in sorted(view.digests):
        digest = own.get((each.nonce, each.index))
        if each.node != migration.target or digest is None or not each.nonce.startswith(ours):
            continue
        if digest == each.digest:
            return Advance(Stage.VERIFY, Stage.UPDATE)
        note = f"node {migration.target} holds something else than node {view.node} at index {each.index}"
        return Advance(Stage.VERIFY, Stage.ROLLBACK, note)
    again_s = DIGEST_AGAIN_S + 2 * view.state_bytes / DIGEST_BYTES_PER_S_MIN
    nonce = digest_nonce(migration.id, view.term, int((now - progress.stage_since) / again_s))
    return ProposeDigest(nonce) if nonce != view.digest_asked else None


def _update(migration: Migration, view: GroupView, progress: Progress, now: Instant) -> Step | None:
    """Towards: the target votes and the source is no member. From here on there is only forward."""
    source, target, membership = migration.source, migration.target, view.membership
    changes: list[Change] = []
    if target and target not in membership.voters and view.is_target_present:
        if target not in membership.learners:
            # A leader whose view of *meta* was older took it out again, see `tidy_step`.
            return ChangeMembership((Change(ChangeKind.LEARNER, target),), joint=False)
        if progress.entries_left > CAUGHT_UP_ENTRIES:
            return None  # It would hold up the commits of a group that may need its vote.
        changes.append(Change(ChangeKind.VOTER, target))
    if source in membership.members():
        changes.append(Change(ChangeKind.REMOVED, source))
    if not changes:
        return Advance(Stage.UPDATE, Stage.CLEANUP)
    if membership.voters == (source,) and len(changes) == 1:
        return None  # The target was taken out of the cluster, and there is nobody else.
    if source == view.node and now - progress.stage_since < TRANSFER_S_MAX:
        # Another one is to lead before the source goes, so that nobody waits for an election.
        if changes[0].kind is ChangeKind.VOTER:
            return ChangeMembership((changes[0],), joint=False)
        heir = target if target in membership.voters else _best_heir(view)
        if view.heard_s.get(heir, HEARD_S_MAX) < HEARD_S_MAX:
            return TransferLeadership(heir)
    return ChangeMembership(tuple(changes), joint=len(changes) > 1)


def _best_heir(view: GroupView) -> int:
    """The voter that has most of the log, of those that were heard; 0 when there is none."""
    others = [voter for voter in view.membership.voters if view.heard_s.get(voter, HEARD_S_MAX) < HEARD_S_MAX]
    return max(others, key=lambda voter: view.match.get(voter, 0), default=0)


def _cleanup(_migration: Migration, _view: GroupView, _progress: Progress, _now: Instant) -> Step | None:
    return Advance(Stage.CLEANUP, Stage.DONE)


def _rollback(migration: Migration, view: GroupView, _progress: Progress, _now: Instant) -> Step | None:
    if migration.target in view.membership.members():
        return ChangeMembership((Change(ChangeKind.REMOVED, migration.target),), joint=False)
    return Advance(Stage.ROLLBACK, Stage.ROLLED_BACK)


_BEFORE_UPDATE = (Stage.PREPARE, Stage.TRANSFER, Stage.VERIFY)


def _nothing(_migration: Migration, _view: GroupView, _progress: Progress, _now: Instant) -> Step | None:
    return None


_STEPS: dict[Stage, Callable[[Migration, GroupView, Progress, Instant], Step | None]] = {
    Stage.PREPARE: _prepare,
    Stage.TRANSFER: _transfer,
    Stage.VERIFY: _verify,
    Stage.UPDATE: _update,
    Stage.CLEANUP: _cleanup,
    Stage.ROLLBACK: _rollback,
    Stage.DONE: _nothing,
    Stage.ROLLED_BACK: _nothing,
}
