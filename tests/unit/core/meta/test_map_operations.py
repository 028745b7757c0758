"""Migrations, splits and merges as the map sees them."""

from itertools import pairwise

import msgspec
import pytest

from noctule.core.meta.objects import HISTORY_MAX
from noctule.core.meta.operations import (
    AbortSplit,
    AdvanceMerge,
    AdvanceMigration,
    BeginMerge,
    BeginMigration,
    BeginSplit,
    ChangeSettings,
    FinishSplit,
    OpenFeature,
    Operation,
    PreferLeader,
    ReleaseReplica,
    SetMemberState,
    UpdateMember,
)
from noctule.core.meta.state import MetaState
from noctule.core.migration.merges import MergeStage
from noctule.core.migration.stages import NEXT, Stage
from noctule.core.placement.partition_map import PartitionState, Promise
from noctule.core.roster.features import FEATURES
from noctule.core.roster.members import MemberState
from tests.unit.core.meta.formed import FORM, NOW_MS, ask, formed, part, refusal, reloaded

WAY = (Stage.PREPARE, Stage.TRANSFER, Stage.VERIFY, Stage.UPDATE, Stage.CLEANUP, Stage.DONE)
BACK = (Stage.ROLLBACK, Stage.ROLLED_BACK)
ACTIVE, MIGRATING, SPLITTING, OFFLINE = PartitionState


def go(state: MetaState, *stages: Stage, migration: int = 1, now_ms: int = NOW_MS) -> None:
    """Advance a migration through these stages, the first of which it is in."""
    for stage, to in pairwise(stages):
        ask(state, AdvanceMigration(migration, stage, to, f"to {to}"), now_ms)


# Features -------------------------------------------------------------------------------------------------------------

BEGINNINGS = {"migrate": BeginMigration(1, 1, 4), "split": BeginSplit(1, 2_000), "merge": BeginMerge(1, 2)}


@pytest.mark.parametrize("feature", BEGINNINGS)
def test_nothing_begins_that_a_member_cannot_do_yet(feature: str) -> None:
    first = [*FORM.members]
    others = tuple(name for name in FEATURES if name != feature)
    first[1] = msgspec.structs.replace(first[1], features=others)
    state = MetaState()
    ask(state, msgspec.structs.replace(FORM, members=first))
    state.take_changes()
    sentence = f"the feature {feature!r} is not open yet; "
    assert refusal(state, BEGINNINGS[feature]) == f"{sentence}nodes [2] do not have it: upgrade them"
    ask(state, UpdateMember(2, features=FEATURES))
    state.take_changes()
    assert refusal(state, BEGINNINGS[feature]) == f"{sentence}it is opened within moments: try again"
    ask(state, OpenFeature(feature))
    ask(state, BEGINNINGS[feature])


# Migrations -----------------------------------------------------------------------------------------------------------


def test_a_move_puts_the_target_where_the_source_was() -> None:
    state = formed()
    assert ask(state, BeginMigration(1, 1, 4, "to rest")) == 1
    begun = part(state, 1)
    assert (begun.replicas, begun.initial, begun.state, begun.epoch) == ((1, 2, 3, 4), (), MIGRATING, 2)
    go(state, *WAY[:4], now_ms=NOW_MS + 1)
    assert part(state, 1) == begun
    go(state, *WAY[3:5])
    assert (part(state, 1).replicas, part(state, 1).epoch) == ((4, 2, 3), 3)
    go(state, *WAY[4:], now_ms=NOW_MS + 5)
    assert (part(state, 1).state, part(state, 1).epoch) == (ACTIVE, 4)
    migration = state.migrations[1]
    assert (migration.stage, migration.reason, migration.begun_ms, migration.ended_ms) == (
        Stage.DONE,
        "to rest",
        NOW_MS,
        NOW_MS + 5,
    )
    assert state.busy == {}
    state.check()


@pytest.mark.parametrize(
    ("source", "target", "replicas"),
    [(2, 4, (1, 3, 4)), (0, 4, (1, 2, 3, 4)), (1, 0, (2, 3)), (3, 0, (1, 2)), (1, 4, (4, 2, 3))],
)
def test_what_is_left_of_the_replicas(source: int, target: int, replicas: tuple[int, ...]) -> None:
    state = formed()
    ask(state, BeginMigration(1, source, target))
    go(state, *(WAY if target else WAY[3:]))
    assert part(state, 1).replicas == replicas
    state.check()


@pytest.mark.parametrize("stage", WAY[:3])
def test_before_update_it_goes_back(stage: Stage) -> None:
    state = formed()
    ask(state, BeginMigration(1, 1, 4))
    go(state, *WAY[: WAY.index(stage) + 1], *BACK)
    assert (part(state, 1).replicas, part(state, 1).state) == ((1, 2, 3), ACTIVE)
    assert (state.migrations[1].note, state.busy) == ("to rolled back", {})


def test_only_the_ways_of_the_table_are_gone() -> None:
    state = formed()
    ask(state, BeginMigration(1, 1, 4))
    for at, stage in enumerate(WAY):
        state.take_changes()
        for to in set(Stage) - set(NEXT[stage]):
            assert f"after {stage}" in refusal(state, AdvanceMigration(1, stage, to))
        for other in set(Stage) - {stage}:
            assert f"is in {stage} and not in {other}" in refusal(state, AdvanceMigration(1, other, stage))
        go(state, *WAY[at : at + 2])


@pytest.mark.parametrize(
    ("operation", "sentence"),
    [
        (BeginMigration(9, 1, 4), "no partition 9"),
        (BeginMigration(1, 0, 0), "a source, a target, or both"),
        (BeginMigration(1, 4, 5), "node 4 has no replica"),
        (BeginMigration(1, 1, 2), "node 2 has a replica of partition 1 already"),
        (BeginMigration(1, 1, 9), "no active member"),
        (BeginMigration(2, 2, 1), "no active member"),
        (BeginMigration(3, 3, 2), "busy: it takes part in migration 1"),
        (AdvanceMigration(9, Stage.PREPARE, Stage.TRANSFER), "no migration 9"),
        (BeginSplit(3, 9_000), "busy"),
        (BeginMerge(3, 4), "busy"),
        (BeginMerge(2, 3), "busy"),
        (PreferLeader(3, 1), "no whole replica"),
        (PreferLeader(1, 4), "node 4 has no replica"),
        (PreferLeader(1, 1), "preferred already"),
        (PreferLeader(9, 1), "no partition 9"),
    ],
)
def test_what_does_not_fit_is_refused(operation: Operation, sentence: str) -> None:
    state = formed()
    ask(state, BeginMigration(3, 3, 1))
    ask(state, SetMemberState(1, MemberState.DRAINING))
    state.take_changes()
    assert sentence in refusal(state, operation)


def test_the_last_replica_is_not_dropped() -> None:
    state = formed()
    for migration, source in enumerate((1, 2), 1):
        ask(state, BeginMigration(1, source, 0))
        go(state, *WAY[3:], migration=migration)
    state.take_changes()
    assert "no other replica" in refusal(state, BeginMigration(1, 3, 0))


def test_so_many_migrations_at_a_time() -> None:
    state = formed()
    for partition, target in ((1, 4), (2, 5), (3, 1)):
        ask(state, BeginMigration(partition, partition, target))
    state.take_changes()
    assert "which is the limit" in refusal(state, BeginMigration(4, 4, 2))
    ask(state, ChangeSettings({"migrations_concurrent_max": 4}))
    assert ask(state, BeginMigration(4, 4, 2)) == 4
    ask(state, ChangeSettings({"migrations_concurrent_max": 3}))
    go(state, Stage.PREPARE, *BACK, migration=1)
    state.take_changes()
    assert "limit" in refusal(state, BeginMigration(1, 1, 4))


def test_what_has_ended_is_forgotten_in_the_end_and_the_same_everywhere() -> None:
    """Two that end in the same millisecond must not be forgotten in another order by a replica that was restored."""
    state = formed()
    twin = reloaded(state)
    for number in range(1, HISTORY_MAX + 20):
        operations = [BeginMigration(1, 0, 4)]
        operations += [AdvanceMigration(number, *pair) for pair in ((Stage.PREPARE, BACK[0]), BACK)]  # type: ignore[list-item]
        for operation in operations:
            ask(state, operation, NOW_MS + number // 7)
            ask(twin, operation, NOW_MS + number // 7)
        if number % 50 == 0:
            twin = reloaded(twin)
    assert state.digest() == twin.digest()
    assert list(state.migrations) == list(range(20, HISTORY_MAX + 20))
    assert ask(state, BeginMigration(1, 0, 4)) == HISTORY_MAX + 20


def test_the_source_may_be_gone_for_good() -> None:
    state = formed()
    ask(state, SetMemberState(1, MemberState.REMOVED))
    ask(state, BeginMigration(1, 1, 4))
    go(state, *WAY)
    assert part(state, 1).replicas == (4, 2, 3)


# Splits ---------------------------------------------------------------------------------------------------------------


def test_a_child_is_hidden_until_it_is_split_off() -> None:
    state = formed()
    assert ask(state, BeginSplit(2, 5_000, "hot")) == 5
    parent, child = part(state, 2), part(state, 5)
    assert (parent.last_slot, parent.state, parent.replicas) == (8_191, SPLITTING, child.replicas)
    assert (child.slot_count, child.first_slot, child.parent, child.state) == (0, 5_000, 2, SPLITTING)
    assert (state.splits[5].at_slot, state.splits[5].reason) == (5_000, "hot")
    state.check()
    epoch = state.map.epoch
    ask(state, FinishSplit(5))
    parent, child = part(state, 2), part(state, 5)
    assert (parent.first_slot, parent.last_slot, parent.state) == (4_096, 4_999, ACTIVE)
    assert (child.first_slot, child.last_slot, child.state, child.parent) == (5_000, 8_191, ACTIVE, 2)
    assert {parent.epoch, child.epoch, state.map.epoch} == {epoch + 1}
    assert (state.splits, state.busy, child.initial) == ({}, {}, ())
    state.check()


def test_a_split_that_is_given_up_leaves_nothing_but_a_number_that_is_gone() -> None:
    state = formed()
    before = part(state, 2)
    ask(state, BeginSplit(2, 5_000))
    epoch = state.map.epoch
    ask(state, AbortSplit(5))
    assert msgspec.structs.replace(part(state, 2), epoch=before.epoch) == before
    assert (state.map.get(5), state.map.epoch) == (None, epoch + 1)
    assert reloaded(state).map.epoch == epoch + 1
    state.check()
    assert ask(state, BeginSplit(2, 5_000)) == 6


@pytest.mark.parametrize(
    ("operation", "sentence"),
    [
        (BeginSplit(2, 4_096), "does not divide 4096 to 8191"),
        (BeginSplit(2, 8_192), "does not divide"),
        (BeginSplit(3, 9_000), "partition 5 is split off from 3"),
        (BeginSplit(5, 10_000), "partition 5 is split off from 3"),
        (BeginMigration(5, 3, 1), "busy"),
        (PreferLeader(5, 9), "no replica"),
        (FinishSplit(3), "partition 3 is not being split off"),
        (AbortSplit(4), "partition 4 is not being split off"),
        (BeginSplit(1, 5), "there are 5 partitions, which is the limit"),
    ],
)
def test_splits_that_do_not_fit_are_refused(operation: Operation, sentence: str) -> None:
    state = formed()
    ask(state, BeginSplit(3, 9_000))
    ask(state, ChangeSettings({"partitions_max": 5}))
    state.take_changes()
    assert sentence in refusal(state, operation)


def test_the_epoch_never_falls_even_when_its_last_change_is_gone() -> None:
    """The child is taken out of the map, and the parent, which is offline before and after, does not change."""
    state = formed()
    for node in (3, 4):
        ask(state, SetMemberState(node, MemberState.REMOVED))
    ask(state, BeginSplit(2, 5_000))
    ask(state, AbortSplit(5))
    assert part(state, 2).epoch < state.map.epoch == reloaded(state).map.epoch
    state.check()


# Merges ---------------------------------------------------------------------------------------------------------------


def test_a_merge_gives_the_left_one_everything() -> None:
    state = formed()
    assert ask(state, BeginMerge(2, 3, "small")) == 1
    assert (part(state, 2).state, part(state, 3).state) == (MIGRATING, MIGRATING)
    ask(state, AdvanceMerge(1, MergeStage.FENCE, MergeStage.COPY))
    ask(state, AdvanceMerge(1, MergeStage.COPY, MergeStage.DONE), NOW_MS + 3)
    assert (part(state, 2).first_slot, part(state, 2).last_slot, part(state, 2).state) == (4_096, 12_287, ACTIVE)
    assert (state.map.get(3), state.busy, state.held_by[5]) == (None, {}, {4})
    assert (state.merges[1].stage, state.merges[1].ended_ms) == (MergeStage.DONE, NOW_MS + 3)
    state.check()


@pytest.mark.parametrize("stages", [(MergeStage.FENCE,), (MergeStage.FENCE, MergeStage.COPY)])
def test_a_merge_that_is_given_up_leaves_both(stages: tuple[MergeStage, ...]) -> None:
    state = formed()
    before = [(partition.first_slot, partition.last_slot) for partition in state.map]
    ask(state, BeginMerge(2, 3))
    for stage, to in zip(stages, (*stages[1:], MergeStage.ABORTED), strict=True):
        ask(state, AdvanceMerge(1, stage, to, "cancelled"))
    assert [(partition.first_slot, partition.last_slot) for partition in state.map] == before
    assert (part(state, 2).state, state.merges[1].note) == (ACTIVE, "cancelled")
    state.check()


@pytest.mark.parametrize(
    ("operation", "sentence"),
    [
        (BeginMerge(1, 2), "busy: it takes part in merge 1"),
        (BeginMerge(4, 1), "does not begin where"),
        (BeginMerge(1, 4), "does not begin where"),
        (BeginMerge(4, 4), "does not begin where"),
        (AdvanceMerge(1, MergeStage.COPY, MergeStage.DONE), "is in fence and not in copy"),
        (AdvanceMerge(1, MergeStage.FENCE, MergeStage.DONE), "after fence"),
        (AdvanceMerge(2, MergeStage.FENCE, MergeStage.COPY), "no merge 2"),
    ],
)
def test_merges_that_do_not_fit_are_refused(operation: Operation, sentence: str) -> None:
    state = formed()
    ask(state, BeginMerge(2, 3))
    state.take_changes()
    assert sentence in refusal(state, operation)


# Leaders --------------------------------------------------------------------------------------------------------------


def test_the_preferred_leader_stands_first() -> None:
    state = formed()
    ask(state, PreferLeader(1, 3))
    assert part(state, 1).replicas == (3, 1, 2)
    assert part(state, 1).initial == (1, 2, 3)
    state.check()


# Replicas that go -----------------------------------------------------------------------------------------------------


def test_a_replica_may_go_when_the_map_does_not_give_it_to_its_node_and_what_it_promised_is_kept() -> None:
    state = formed()
    promise = Promise(4, term=7, vote=2, last_term=6, last_index=40)
    ask(state, ReleaseReplica(1, promise))
    assert part(state, 1).promise_of(4) == promise
    newer = Promise(4, term=9, vote=0, last_term=9, last_index=50)
    ask(state, ReleaseReplica(1, newer))
    assert part(state, 1).former == (newer,)
    assert part(state, 1).promise_of(5) is None
    state.check()


def test_a_replica_that_the_map_gives_may_not_go() -> None:
    state = formed()
    assert "has a replica on node 2" in refusal(state, ReleaseReplica(1, Promise(2, 1, 0, 1, 1)))
