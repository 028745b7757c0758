"""A migration that loses its source, its target or its leader in any of its stages ends, and nothing is lost by it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from noctule.adapters.wal_records import Forgotten
from noctule.base.errors import NoctuleError
from noctule.base.ids import META_GROUP
from noctule.core.meta import map_operations, operations
from noctule.core.meta.state import _OPERATIONS
from noctule.core.migration import mover
from noctule.core.migration.stages import ENDED, Migration, Stage
from noctule.core.replica.digests import Digests
from noctule.core.replica.replica import Replica
from noctule.node.steward import Steward
from noctule.verify.sim.faults import node_of
from noctule.verify.sim.invariants import LivenessViolation, SafetyViolation
from noctule.verify.sim.machine import Machine
from noctule.verify.sim.run import world_of
from noctule.verify.sim.world import World
from tests.simulation.planted import known_first

GROUP = 1
DOWN_S = 1.5
END_S_MAX = 60.0
SEEDS_TO_FIND_MAX = 200
STAGES = (Stage.PREPARE, Stage.TRANSFER, Stage.VERIFY, Stage.UPDATE, Stage.CLEANUP)
PARTS = ("source", "target", "leader", "leader of meta")
SETTINGS: dict[str, int | float | str | bool] = {"rebalance_enabled": False, "replication_factor": 3}


def formed_world(seed: int) -> World:
    """Six nodes in three racks, of which three hold each partition, and clients at work."""
    world = World(seed, node_count=6, clients=3, think_s_max=0.02, settings=SETTINGS, replication_factor=3)
    until(world, world.is_whole)
    until(world, lambda: all("rack" in member.labels for member in world.meta.roster.values()))  # type: ignore[union-attr]
    return world


def until(world: World, condition: Callable[[], bool]) -> None:
    """Let time pass until something is so."""
    deadline = world.time.now() + END_S_MAX
    while not condition():
        if world.time.now() > deadline:
            raise LivenessViolation(world.why_not())
        world.time.run_until(world.time.now() + 0.02)


def begin(world: World, *, source_leads: bool = False) -> None:
    """Begin to move a replica of the partition to the other node of its rack."""
    meta = world.meta
    assert meta is not None
    partition = meta.map.partitions[GROUP]  # type: ignore[index]
    source = partition.replicas[0 if source_leads else -1]
    rack = meta.roster[source].labels["rack"]
    target = next(node for node, member in meta.roster.items() if member.labels["rack"] == rack and node != source)
    world.operators.ask(operations.BeginMigration(GROUP, source, target))


def end_of(world: World) -> Migration:
    """The migration, once it has ended and everything is where it belongs; everything acknowledged is found."""

    def ended() -> bool:
        meta = world.meta
        return meta is not None and any(each.stage in ENDED for each in meta.migrations.values())

    until(world, ended)
    until(world, world.is_whole)
    world.settle()
    meta = world.meta
    assert meta is not None
    (migration,) = meta.migrations.values()
    partition = meta.map.partitions[GROUP]  # type: ignore[index]
    came, went = (migration.target, migration.source)
    if migration.stage is Stage.ROLLED_BACK:
        came, went = went, came
    assert came in partition.replicas
    assert went not in partition.replicas
    return migration


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_lost_when_one_dies_in_a_stage(stage: Stage, part: str, power: bool) -> None:
    world = formed_world(1 + STAGES.index(stage) * len(PARTS) + PARTS.index(part))
    struck: list[int] = []

    def strike(migration: Migration) -> None:
        if migration.stage is stage and not struck:
            node = node_of(world, migration, part)
            if not node:  # Nobody leads just now, so it stays in this stage until somebody does.
                world.time.after(0.01, partial(strike, migration))
                return
            struck.append(node)
            world.time.after(0.0, partial(world.crash, node, power=power))
            world.time.after(DOWN_S, partial(world.restart, node))

    world.stage_watchers.append(strike)
    begin(world, source_leads=part == "source")
    migration = end_of(world)
    assert struck, "the migration came into that stage, and somebody had that part"
    if stage in (Stage.UPDATE, Stage.CLEANUP):
        assert migration.stage is Stage.DONE, "from there on there is only forward"


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.TRANSFER, Stage.VERIFY])
def test_a_target_that_stays_away_is_taken_out_again(stage: Stage) -> None:
    world = formed_world(40 + STAGES.index(stage))

    def strike(migration: Migration) -> None:
        if migration.stage is stage and migration.target in world.nodes:
            world.time.after(0.0, partial(world.crash, migration.target))
        elif migration.stage is Stage.ROLLED_BACK:
            world.time.after(0.0, partial(world.restart, migration.target))

    world.stage_watchers.append(strike)
    begin(world)
    migration = end_of(world)
    assert migration.stage is Stage.ROLLED_BACK
    assert "no progress" in migration.note


def test_a_migration_that_is_called_back_leaves_everything_as_it_was() -> None:
    world = formed_world(50)
    world.stage_watchers.append(lambda each: world.operators.cancel() if each.stage is Stage.TRANSFER else None)
    begin(world)
    end_of(world)


@pytest.mark.interpreted
def test_a_target_that_holds_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests differ, so the migration goes back; the world, which compares states itself, must not look, nor may
    leaders by themselves, which they do in worlds of odd seeds."""
    monkeypatch.setattr("noctule.verify.sim.invariants.Invariants.digested", lambda *_arguments: None)
    world = formed_world(52)
    original = Digests.begin
    target: list[int] = []
    world.stage_watchers.append(lambda migration: target.append(migration.target))

    def begin_digest(self: Digests, nonce: bytes, index: int, chunks: Any) -> None:
        machine = world.machines[target[0]] if target else None
        is_target = machine is not None and any(each._digests is self for each in machine.replicas.values())
        original(self, nonce, index, iter([*chunks, b"more"]) if is_target else chunks)

    monkeypatch.setattr(Digests, "begin", begin_digest)
    begin(world)
    migration = end_of(world)
    assert migration.stage is Stage.ROLLED_BACK
    assert "holds something else" in migration.note


def _advance_before_the_change_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map loses the source before its group has lost it."""
    monkeypatch.setitem(mover._STEPS, Stage.UPDATE, lambda *_arguments: mover.Advance(Stage.UPDATE, Stage.CLEANUP))


def _remember_the_first_voters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that is made again begins with the voters that its group began with."""
    original = map_operations.begin_migration

    def begin_migration(objects: Any, operation: Any, now_ms: int) -> int:
        initial = objects.map.get(operation.partition).initial
        given = original(objects, operation, now_ms)
        objects.put_partition(replace(objects.map.get(operation.partition), initial=initial))
        return given

    monkeypatch.setitem(_OPERATIONS, operations.BeginMigration, begin_migration)


def _follow_an_older_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is heard of a partition while it is followed overtakes what was heard before."""
    original = Steward._take_changes

    def take_changes(self: Steward, meta: Any, now: Any) -> None:
        before = dict(self.partitions.partitions)
        original(self, meta, now)
        for group, partition in before.items():
            if self.partitions.get(group) not in (None, partition):
                self.partitions.put(partition)

    monkeypatch.setattr(Steward, "_take_changes", take_changes)


def _keep_the_log_of_what_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No `Forgotten` is written, so a replica that is made again goes on in the log of the one before."""
    original = Machine.flush

    def flush(self: Machine) -> int:
        self._records = [record for record in self._records if not isinstance(record, Forgotten)]
        return original(self)

    monkeypatch.setattr(Machine, "flush", flush)


def _remove_by_the_own_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica is removed as soon as a map, however old, does not give it to its node."""

    def is_released(self: Steward, group: Any) -> bool:
        self._farewells[group] = None  # type: ignore[assignment]
        return True

    monkeypatch.setattr(Steward, "_is_released", is_released)


def _follow_meta_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that starts anew acts upon maps that it had left behind long ago."""
    monkeypatch.setattr(Replica, "replay", lambda _self, _index: [])
    _remove_by_the_own_map(monkeypatch)


FOUND_BY_SEED = {
    _remember_the_first_voters: 11,
    _keep_the_log_of_what_is_removed: 11,
    _follow_meta_from_its_beginning: 8,
}
"""The seeds that found what few do, to begin with. Any change of the rules may need others: then all are tried."""
FAULTS = ("migrate", "strike_migration", "crash_for_a_while", "cut_power_of_all", "cut_for_a_while", "pause", "join")


@pytest.mark.parametrize(
    "plant",
    [
        _advance_before_the_change_is_committed,
        _remember_the_first_voters,
        _follow_an_older_map,
        _keep_the_log_of_what_is_removed,
        _follow_meta_from_its_beginning,
    ],
)
def test_a_planted_bug_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in known_first(FOUND_BY_SEED.get(plant, 1), SEEDS_TO_FIND_MAX):
        try:
            world_of(seed).run(fault_names=FAULTS)
        except (SafetyViolation, LivenessViolation, NoctuleError):
            print(plant.__name__, seed)  # With -rP, for `FOUND_BY_SEED`.
            return
    pytest.fail("no seed found it")


def test_a_digest_that_differs_and_is_not_looked_at_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that lost a key on the way becomes a voter; the world sees that states differ."""
    monkeypatch.setattr(mover, "_verify", lambda *_arguments: mover.Advance(Stage.VERIFY, Stage.UPDATE))
    monkeypatch.setitem(mover._STEPS, Stage.VERIFY, lambda *_arguments: mover.Advance(Stage.VERIFY, Stage.UPDATE))
    original = Replica._become

    def become(self: Replica, staged: Any) -> None:
        original(self, staged)
        key = next((key for slot in self.keyspace.slots.values() for key in slot), None)
        if self.group != META_GROUP and key is not None:
            self.keyspace.remove(key)

    monkeypatch.setattr(Replica, "_become", become)
    for seed in range(1, SEEDS_TO_FIND_MAX):
        try:
            world_of(seed).run(fault_names=FAULTS)
        except (SafetyViolation, LivenessViolation, NoctuleError):
            return
    pytest.fail("no seed found it")
