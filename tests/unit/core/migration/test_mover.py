"""The mover's single decisions, and how it tells that something gets on."""

import pytest

from noctule.base.ids import Instant
from noctule.core.migration.group_view import Digest, GroupView
from noctule.core.migration.mover import (
    Advance,
    ChangeMembership,
    MigrationLimits,
    ProposeDigest,
    Step,
    TransferLeadership,
    next_step,
    tidy_step,
    watch,
)
from noctule.core.migration.stages import Migration, Stage
from noctule.core.placement.partition_map import Partition
from noctule.core.raft.membership import Change, ChangeKind, Membership

VOTER, LEARNER, REMOVED = ChangeKind.VOTER, ChangeKind.LEARNER, ChangeKind.REMOVED
LIMITS = MigrationLimits(timeout_s=30.0)
THREE = Membership(voters=(1, 2, 3))
WITH_LEARNER = Membership(voters=(1, 2, 3), learners=(4,))
HEARD = {2: 0.1, 3: 0.1, 4: 0.1}


def move(stage: Stage, source: int = 3, target: int = 4) -> Migration:
    return Migration(7, 1, source, target, stage)


def view(membership: Membership, **more: object) -> GroupView:
    """Of node 1, which leads; everyone else has everything and speaks, unless told otherwise."""
    seen: dict[str, object] = {
        "commit": 1_000,
        "match": {2: 1_000, 3: 1_000, 4: 1_000},
        "heard_s": HEARD,
        "is_committed": True,
        **more,
    }
    return GroupView(node=1, term=5, membership=membership, **seen)  # type: ignore[arg-type]


def decide(migration: Migration, seen: GroupView, now: float = 0.0) -> Step | None:
    """What a leader that has watched since 0, and has seen nothing else, does next."""
    progress = watch(None, migration, seen, Instant(0.0))
    progress = watch(progress, migration, seen, Instant(now))
    return next_step(migration, seen, progress, Instant(now), LIMITS)


def change(*changes: tuple[ChangeKind, int], joint: bool = False) -> ChangeMembership:
    return ChangeMembership(tuple(Change(*each) for each in changes), joint)


# Stage by stage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "membership", "step"),
    [
        (Stage.PREPARE, THREE, change((LEARNER, 4))),
        (Stage.PREPARE, WITH_LEARNER, Advance(Stage.PREPARE, Stage.TRANSFER)),
        (Stage.TRANSFER, WITH_LEARNER, Advance(Stage.TRANSFER, Stage.VERIFY)),
        (Stage.TRANSFER, THREE, change((LEARNER, 4))),
        (Stage.VERIFY, THREE, change((LEARNER, 4))),
        (Stage.VERIFY, WITH_LEARNER, ProposeDigest(b"migration 7 5 0")),
        (Stage.UPDATE, WITH_LEARNER, change((VOTER, 4), (REMOVED, 3), joint=True)),
        (Stage.UPDATE, Membership(voters=(1, 2, 3, 4)), change((REMOVED, 3))),
        (Stage.UPDATE, Membership(voters=(1, 2), learners=(4,)), change((VOTER, 4))),
        (Stage.UPDATE, Membership(voters=(1, 2, 4)), Advance(Stage.UPDATE, Stage.CLEANUP)),
        (Stage.UPDATE, THREE, change((LEARNER, 4))),
        (Stage.CLEANUP, Membership(voters=(1, 2, 4)), Advance(Stage.CLEANUP, Stage.DONE)),
        (Stage.ROLLBACK, WITH_LEARNER, change((REMOVED, 4))),
        (Stage.ROLLBACK, THREE, Advance(Stage.ROLLBACK, Stage.ROLLED_BACK)),
        (Stage.DONE, THREE, None),
        (Stage.ROLLED_BACK, THREE, None),
    ],
)
def test_each_stage_does_what_is_missing(stage: Stage, membership: Membership, step: Step | None) -> None:
    assert decide(move(stage), view(membership)) == step


@pytest.mark.parametrize("stage", Stage)
def test_nothing_is_done_while_the_membership_is_on_its_way(stage: Stage) -> None:
    joint = Membership(voters=(1, 2, 5), outgoing=(1, 2, 3), auto_leave=True)
    assert decide(move(stage), view(joint)) is None
    assert decide(move(stage), view(WITH_LEARNER, is_committed=False)) is None


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.TRANSFER, Stage.VERIFY])
@pytest.mark.parametrize("is_committed", [True, False])
def test_before_update_a_target_that_was_taken_out_is_given_up(stage: Stage, *, is_committed: bool) -> None:
    step = decide(move(stage), view(WITH_LEARNER, is_target_present=False, is_committed=is_committed))
    assert step == Advance(stage, Stage.ROLLBACK, "node 4 does not belong to the cluster any more")


def test_a_target_that_lags_is_waited_for() -> None:
    lagging = view(WITH_LEARNER, match={2: 1_000, 3: 1_000, 4: 899})
    assert decide(move(Stage.TRANSFER), lagging) is None
    assert decide(move(Stage.UPDATE), lagging) is None
    unheard = view(WITH_LEARNER, commit=50, match={4: 0})
    assert decide(move(Stage.TRANSFER), unheard) is None


# Digests --------------------------------------------------------------------------------------------------------------


def test_only_digests_of_one_index_are_compared() -> None:
    nonce = b"migration 7 5 0"
    mine, other = Digest(1, nonce, 10, b"a"), Digest(4, nonce, 11, b"b")
    asked = {"digest_asked": nonce}
    assert decide(move(Stage.VERIFY), view(WITH_LEARNER, digests=frozenset({mine, other}), **asked)) is None
    same = frozenset({mine, other, Digest(4, nonce, 10, b"a")})
    assert decide(move(Stage.VERIFY), view(WITH_LEARNER, digests=same, **asked)) == Advance(Stage.VERIFY, Stage.UPDATE)
    different = frozenset({mine, Digest(4, nonce, 10, b"c")})
    step = decide(move(Stage.VERIFY), view(WITH_LEARNER, digests=different, **asked))
    assert step == Advance(Stage.VERIFY, Stage.ROLLBACK, "node 4 holds something else than node 1 at index 10")


def test_digests_of_another_migration_say_nothing() -> None:
    nonce = b"migration 77 5 0"
    digests = frozenset({Digest(1, nonce, 10, b"a"), Digest(4, nonce, 10, b"a")})
    assert decide(move(Stage.VERIFY), view(WITH_LEARNER, digests=digests)) == ProposeDigest(b"migration 7 5 0")


def test_a_digest_is_asked_for_once_and_after_a_while_again() -> None:
    """The target went over that index by a snapshot, and tells nothing."""
    asked = view(WITH_LEARNER, digest_asked=b"migration 7 5 0")
    assert decide(move(Stage.VERIFY), asked, 4.9) is None
    assert decide(move(Stage.VERIFY), asked, 5.0) == ProposeDigest(b"migration 7 5 1")
    large = view(WITH_LEARNER, digest_asked=b"migration 7 5 0", state_bytes=40 << 20)
    assert decide(move(Stage.VERIFY), large, 24.9) is None
    assert decide(move(Stage.VERIFY), large, 25.1) == ProposeDigest(b"migration 7 5 1")


# The leader is the source ---------------------------------------------------------------------------------------------


def test_a_leading_source_makes_the_target_a_voter_and_then_the_leader() -> None:
    mine = move(Stage.UPDATE, source=1)
    four = Membership(voters=(1, 2, 3, 4))
    assert decide(mine, view(WITH_LEARNER)) == change((VOTER, 4))
    assert decide(mine, view(four)) == TransferLeadership(4)
    assert decide(mine, view(four, heard_s={2: 0.1, 3: 0.1, 4: 1.5})) == change((REMOVED, 1))


def test_a_leading_source_that_nobody_succeeds_goes_all_the_same() -> None:
    mine = move(Stage.UPDATE, source=1)
    assert decide(mine, view(WITH_LEARNER), 5.0) == change((VOTER, 4), (REMOVED, 1), joint=True)
    assert decide(mine, view(Membership(voters=(1, 2, 3, 4))), 5.0) == change((REMOVED, 1))


def test_a_leading_replica_that_is_dropped_hands_over_to_who_has_most() -> None:
    mine = move(Stage.UPDATE, source=1, target=0)
    ahead = {2: 990, 3: 1_000}
    assert decide(mine, view(THREE, match=ahead)) == TransferLeadership(3)
    assert decide(mine, view(THREE, match=ahead, heard_s={2: 0.1, 3: 3.0})) == TransferLeadership(2)
    assert decide(mine, view(THREE, match=ahead, heard_s={})) == change((REMOVED, 1))


def test_from_update_on_it_goes_forward_without_a_target_that_was_taken_out() -> None:
    gone = {"is_target_present": False}
    assert decide(move(Stage.UPDATE), view(WITH_LEARNER, **gone)) == change((REMOVED, 3))
    alone = Membership(voters=(1,), learners=(4,))
    assert decide(move(Stage.UPDATE, source=1), view(alone, **gone)) is None


# Progress -------------------------------------------------------------------------------------------------------------


def test_no_progress_for_too_long_goes_back_before_update_only() -> None:
    lagging = view(WITH_LEARNER, match={4: 500})
    assert decide(move(Stage.TRANSFER), lagging, 30.0) is None
    step = decide(move(Stage.TRANSFER), lagging, 30.1)
    assert step == Advance(Stage.TRANSFER, Stage.ROLLBACK, "no progress for 30 s in stage transfer")
    assert decide(move(Stage.UPDATE), lagging, 300.0) is None
    assert decide(move(Stage.ROLLBACK), view(WITH_LEARNER), 300.0) == change((REMOVED, 4))


def test_anything_that_gets_further_is_progress() -> None:
    migration = move(Stage.TRANSFER)
    seen = view(WITH_LEARNER, match={4: 0}, snapshot_bytes=1_000)
    progress = watch(None, migration, seen, Instant(0.0))
    for now, sent in ((10.0, 0), (20.0, 100), (30.0, 100), (40.0, 200)):
        seen = view(WITH_LEARNER, match={4: 0}, snapshot_bytes=1_000, snapshot_bytes_sent=sent)
        progress = watch(progress, migration, seen, Instant(now))
    assert progress.moved_at == 40.0
    progress = watch(progress, move(Stage.VERIFY), seen, Instant(41.0))
    assert (progress.moved_at, progress.stage_since, progress.stage) == (41.0, 41.0, Stage.VERIFY)


def test_a_snapshot_on_its_way_is_told_in_bytes_keys_and_seconds() -> None:
    migration = move(Stage.TRANSFER)
    progress = None
    for tenth in range(11):
        seen = view(WITH_LEARNER, match={4: 0}, snapshot_bytes=1_000, snapshot_bytes_sent=tenth * 50, keys=200)
        progress = watch(progress, migration, seen, Instant(tenth / 10))
    assert progress is not None
    assert (progress.bytes_done, progress.bytes_total, progress.keys_done, progress.keys_total) == (
        500,
        1_000,
        100,
        200,
    )
    assert progress.bytes_per_s == pytest.approx(500)
    assert progress.seconds_left == pytest.approx(1.0)
    assert progress.entries_left == 1_000


def test_a_log_that_is_followed_is_told_by_its_entries() -> None:
    progress = watch(
        None, move(Stage.TRANSFER), view(WITH_LEARNER, match={4: 250}, state_bytes=400, keys=8), Instant(0)
    )
    assert (progress.bytes_done, progress.bytes_total, progress.keys_done, progress.entries_left) == (100, 400, 2, 750)
    assert progress.seconds_left is None


def test_another_migration_is_watched_from_its_beginning() -> None:
    before = watch(None, move(Stage.TRANSFER), view(WITH_LEARNER), Instant(0.0))
    after = watch(before, Migration(8, 1, 3, 4, Stage.TRANSFER), view(WITH_LEARNER), Instant(100.0))
    assert (after.migration, after.moved_at, after.stage_since) == (8, 100.0, 100.0)


# Tidying --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("membership", "step"),
    [
        (THREE, None),
        (WITH_LEARNER, change((REMOVED, 4))),
        (Membership(voters=(1, 2, 3, 4)), change((REMOVED, 4))),
        (Membership(voters=(1, 2, 4), learners=(3,)), None),
        (Membership(voters=(1, 2, 4)), None),
        (Membership(voters=(1, 2, 3), outgoing=(1, 2, 4)), None),
    ],
)
def test_who_is_not_in_the_map_is_taken_out_of_an_idle_group(membership: Membership, step: Step | None) -> None:
    assert tidy_step(Partition(1, 0, 9, (1, 2, 3)), view(membership)) == step
    assert tidy_step(Partition(1, 0, 9, (1, 2, 3)), view(membership, is_committed=False)) is None
