"""Migrations of a real Raft group: to the end, and whatever is lost, doubled or killed on the way."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.core.meta.operations import AdvanceMigration, BeginMigration, SetMemberState
from noctule.core.migration.mover import ChangeMembership
from noctule.core.migration.stages import ENDED, NEXT, Stage
from noctule.core.roster.members import MemberState
from noctule.verify.sim.driving import TINY
from tests.unit.core.migration.drivers import Drivers

MOVES = [(1, 4), (3, 4), (0, 4), (1, 0), (2, 0)]
"""Source and target, where node 1 leads in the beginning: the leader's own replica, another one's, an added one, ..."""


def begun(source: int, target: int, seed: int = 1) -> Drivers:
    drivers = Drivers(seed=seed)
    drivers.group.elect(1)
    for number in range(5):
        drivers.group.propose(1, b"entry%d" % number)
    drivers.group.stabilise()
    assert drivers.ask(BeginMigration(1, source, target))
    return drivers


@pytest.mark.parametrize(("source", "target"), MOVES)
def test_an_undisturbed_migration_ends(source: int, target: int) -> None:
    drivers = begun(source, target)
    drivers.settle(5.0)
    assert drivers.migration.stage is Stage.DONE
    assert set(drivers.partition.replicas) == {1, 2, 3, target} - {0, source}


def test_the_target_leads_before_a_leading_source_goes() -> None:
    drivers = begun(1, 4)
    drivers.settle(5.0)
    assert drivers.leaders == [4]
    assert drivers.group.nodes[4].term == 2


def test_a_dead_source_is_replaced() -> None:
    drivers = begun(3, 4)
    drivers.group.crash(3)
    drivers.ask(SetMemberState(3, MemberState.REMOVED))
    drivers.settle(5.0)
    assert (drivers.migration.stage, drivers.partition.replicas) == (Stage.DONE, (1, 2, 4))


def test_a_target_that_says_nothing_is_given_up() -> None:
    drivers = begun(3, 4)
    drivers.hear(4)
    drivers.group.crash(4)
    for _ in range(700):
        drivers.group.tick(0.05)
        drivers.group.stabilise()
        for node in (1, 2, 3):
            drivers.hear(node)
        drivers.drive(1)
    assert drivers.migration.stage is Stage.ROLLED_BACK
    assert drivers.migration.note == "no progress for 30 s in stage transfer"
    assert drivers.group.nodes[1].log.membership.members() == (1, 2, 3)


@pytest.mark.parametrize("target_state", [MemberState.REMOVED, MemberState.DRAINING])
def test_a_target_that_was_taken_out_is_given_up_at_once(target_state: MemberState) -> None:
    """One that only drains still belongs to the cluster, and will be moved away from later."""
    drivers = begun(3, 4)
    drivers.ask(SetMemberState(4, target_state))
    drivers.settle(5.0)
    is_gone = target_state is MemberState.REMOVED
    assert drivers.migration.stage is (Stage.ROLLED_BACK if is_gone else Stage.DONE)
    assert ("does not belong" in drivers.migration.note) == is_gone


def test_another_state_on_the_target_is_noticed() -> None:
    drivers = begun(3, 4)
    drivers.wrong_digests.add(4)
    drivers.settle(5.0)
    assert drivers.migration.stage is Stage.ROLLED_BACK
    assert "holds something else" in drivers.migration.note


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.TRANSFER, Stage.VERIFY])
def test_a_migration_that_is_cancelled_takes_the_learner_out(stage: Stage) -> None:
    drivers = begun(3, 4)
    until(drivers, stage)
    assert drivers.ask(AdvanceMigration(1, stage, Stage.ROLLBACK, "cancelled"))
    drivers.settle(5.0)
    assert (drivers.migration.stage, drivers.migration.note) == (Stage.ROLLED_BACK, "cancelled")


def until(drivers: Drivers, stage: Stage) -> None:
    """Let node 1 drive, undisturbed, until the migration is in this stage."""
    for _ in range(100):
        for node in (1, 2, 3, 4):
            drivers.hear(node)
        if drivers.migration.stage is stage:
            return
        drivers.drive(1)
        drivers.group.tick(0.05)
        drivers.group.stabilise(lambda _sender, to, _message: to in drivers.group.members)
    raise AssertionError(drivers.migration)


def test_a_leader_that_heard_late_lets_the_target_in_again_and_it_is_taken_out() -> None:
    """The migration has ended by then, so nothing else would ever look at it."""
    drivers = begun(3, 4)
    drivers.hear(1)
    for node in (2, 3):
        drivers.ask(AdvanceMigration(1, Stage.PREPARE, Stage.ROLLBACK, "cancelled"))
        drivers.hear(node)
    drivers.group.elect(2)
    drivers.drive(2)
    assert drivers.migration.stage is Stage.ROLLED_BACK
    drivers.group.elect(1)
    step = drivers.drive(1)
    assert isinstance(step, ChangeMembership)
    drivers.group.stabilise(lambda _sender, to, _message: to in drivers.group.members)
    assert drivers.group.nodes[1].log.membership.learners == (4,)
    drivers.settle(5.0)
    assert drivers.group.nodes[drivers.leaders[0]].log.membership.members() == (1, 2, 3)


def test_the_map_changes_only_once_the_group_has() -> None:
    """A change that stands in one log only is gone with its leader; the map would name a group that never was."""
    drivers = begun(3, 4)
    until(drivers, Stage.UPDATE)
    drivers.hear(1)
    assert isinstance(drivers.drive(1), ChangeMembership)
    drivers.group.drop()
    assert drivers.drive(1) is None
    drivers.group.crash(1)
    drivers.group.elect(2, among=(2, 3, 4))
    assert drivers.group.nodes[2].log.membership.voters == (1, 2, 3)
    drivers.settle(5.0)
    assert (drivers.migration.stage, drivers.partition.replicas) == (Stage.DONE, (1, 2, 4))


def disturb(drivers: Drivers, chance: random.Random) -> None:
    """One thing that may happen."""
    group = drivers.group
    group.drop(lambda _sender, to, _message: to not in group.members)  # Nobody is there yet.
    running = [node for node in group.members if node not in group.down]
    match chance.randrange(12):
        case 0 | 1 | 2:
            group.deliver(lambda *_: chance.random() < 0.7)
        case 3:
            group.drop(lambda *_: chance.random() < 0.3)
        case 4:
            group.double(lambda *_: chance.random() < 0.2)
        case 5:
            group.tick(chance.choice([0.05, 0.3, TINY.election_timeout_s_max]))
        case 6:
            candidate = chance.choice(running)
            if not group.nodes[candidate].is_leader():
                group.campaign(candidate)
        case 7:
            voters = group.nodes[running[0]].log.membership.members()
            victim = chance.choice(running)
            if len(group.down & set(voters)) == 0 and len(running) > 2:
                group.crash(victim)
        case 8:
            for node in sorted(group.down & set(drivers.partition.replicas)):
                group.start(node)
        case 9:
            drivers.hear(chance.randint(1, 4), chance.randint(1, 2))
        case _:
            for leader in drivers.leaders:
                drivers.hear(leader, chance.choice([0, 1, None]))
                if leader in drivers.leaders:
                    drivers.drive(leader, times=chance.choice([0, 1, 1, 1, 2]))
    if len(group.mail) > 200:
        group.drop()


@settings(max_examples=150, deadline=None)
@given(move=st.sampled_from(MOVES), seed=st.integers(0, 1 << 32), steps=st.integers(0, 120), cancels=st.booleans())
def test_whatever_happens_it_ends_with_the_members_that_the_map_has(
    move: tuple[int, int], seed: int, steps: int, *, cancels: bool
) -> None:
    """Leaders change at any step, steps are lost and doubled, leaders know of *meta* what they knew some time ago."""
    chance = random.Random(seed)
    drivers = begun(*move, seed=seed)
    for at in range(steps):
        disturb(drivers, chance)
        stage = drivers.migration.stage
        if cancels and at > steps // 2 and Stage.ROLLBACK in NEXT[stage]:
            drivers.ask(AdvanceMigration(1, stage, Stage.ROLLBACK, "cancelled"))
    drivers.settle()
    source, target = move
    replicas = {1, 2, 3, target} - {0, source} if drivers.migration.stage is Stage.DONE else {1, 2, 3}
    assert drivers.migration.stage in ENDED
    assert set(drivers.partition.replicas) == replicas
    entries = [entry for entry in drivers.group.applied[drivers.leaders[0]] if entry.startswith(b"entry")]
    assert entries == [b"entry%d" % number for number in range(5)]
