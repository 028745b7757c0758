"""The registry in a faulty world: no update of a key is lost or doubled, a lock has one holder, leases end."""

from collections.abc import Callable
from typing import Any

import pytest

from noctule.base.errors import RequestError
from noctule.base.ids import META_GROUP
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.meta import objects
from noctule.core.meta.operations import Answer, ChangeRegistry, decode_answer
from noctule.core.registry.changes import (
    AcquireKey,
    Change,
    CreateSession,
    PutCheck,
    PutNode,
    ReleaseKey,
    RenewSession,
    SetKey,
)
from noctule.core.registry.kv import KeyValues
from noctule.core.registry.objects import NODE_CHECK, Check, CheckStatus, RegistryNode, Session
from noctule.core.registry.registry import Registry
from noctule.core.roster.features import REGISTRY
from noctule.verify.sim.invariants import SafetyViolation
from noctule.verify.sim.run import world_of
from noctule.verify.sim.world import World
from tests.simulation.planted import known_first

CLIENTS = 4
TTL_MS = 250
"""A session ends after half a second without a renewal."""
FAULTS_S = 6.0
CLOCKS_DIFFER_S_MAX = 0.1
"""Where a new leader's clock is an hour behind, stamps stand still, and no lease ends for an hour."""
SEEDS_TO_FIND_MAX = 60
HERE: list[Change] = [
    PutNode(RegistryNode("a", "10.0.0.1")),
    PutCheck(Check("a", NODE_CHECK, "alive", CheckStatus.PASSING)),
]


class Registrars:
    """Clients of the registry in one world: each counts a key up by cas, and holds a lock now and then."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.counted: list[int] = []
        """The numbers that were acknowledged."""
        self.unknown = self.acquired = self.expired = 0
        self.is_over = False
        world.time.after(0.1, self._begin)

    def _begin(self) -> None:
        meta = self.world.meta
        if meta is None or REGISTRY not in meta.features or "a" not in meta.registry.nodes:
            if meta is not None and REGISTRY in meta.features:
                self.ask(HERE, lambda _answer: None)
            self.world.time.after(0.1, self._begin)
            return
        self._keep()
        for number in range(CLIENTS):
            self._count()
            self._lock(number, 0)

    def ask(self, changes: list[Change], done: Callable[[Answer | None], None]) -> None:
        """`done` gets what it answered, None when it was refused; nothing when nobody knows."""

        def judge(reply: Reply) -> None:
            try:
                done(decode_answer(reply))
            except RequestError:
                if isinstance(reply, Failure) and not reply.text.startswith(b"UNKNOWN"):
                    done(None)

        self.world.operators.ask(ChangeRegistry(changes), judge)

    def later(self, act: Callable[[], None]) -> None:
        if not self.is_over:
            self.world.time.after(self.world.chance.uniform(0.01, 0.1), act)

    def _keep(self) -> None:
        """What the leader of *meta* does, and whoever believes that he leads."""
        for machine in self.world.machines.values():
            if machine.alive and machine.replicas[META_GROUP].raft.is_leader():
                stamp_ms = machine.replicas[META_GROUP].stamp_ms
                due = machine.meta.registry.due(max(machine.wall_ms(), stamp_ms))
                if due:
                    self.expired += len(due)
                    self.world.operators.ask(ChangeRegistry(due), at=machine)
        self.later(self._keep)

    def _count(self) -> None:
        """From what any machine shows, which may be old."""
        running = [machine for machine in self.world.machines.values() if machine.alive]
        if not running:
            self.later(self._count)
            return
        entry = self.world.chance.choice(running).meta.registry.key("count")
        number = 1 + (int(entry.value) if entry is not None else 0)
        change = SetKey("count", b"%d" % number, cas=entry.modify_index if entry is not None else 0)
        self.unknown += 1

        def counted(answer: Answer | None) -> None:
            self.unknown -= 1
            if answer == [True]:
                if number in self.counted:
                    raise SafetyViolation(f"two clients were told that they had counted to {number}")
                self.counted.append(number)

        self.ask([change], counted)
        self.later(self._count)

    def _lock(self, number: int, life: int) -> None:
        """With a session of its own, which is renewed a few times and then forgotten, lock held or not."""
        session = f"s{number}-{life}"

        def hold(times: int) -> None:
            if times:
                self.ask([RenewSession(session), AcquireKey("lock", session.encode(), session)], acquired)
                self.later(lambda: hold(times - 1))
            else:
                if self.world.chance.random() < 0.3:
                    self.ask([ReleaseKey("lock", b"", session)], lambda _answer: None)
                self.later(lambda: self._lock(number, life + 1))

        def acquired(answer: Answer | None) -> None:
            self.acquired += isinstance(answer, list) and answer[-1] is True

        self.ask([CreateSession(Session(session, "a", ttl_ms=TTL_MS, lock_delay_ms=50))], lambda _answer: None)
        self.later(lambda: hold(5))

    def check_end(self) -> None:
        """Every number was counted to once, and no lock outlives its session."""
        meta = self.world.meta
        assert meta is not None
        entry = meta.registry.key("count")
        last = int(entry.value) if entry is not None else 0
        if not len(self.counted) <= last <= len(self.counted) + self.unknown or max(self.counted, default=0) > last:
            raise SafetyViolation(f"the count is {last}: {len(self.counted)} were acknowledged, {self.unknown} unknown")
        meta.check()


def run(world: World) -> Registrars:
    for node in world.founders:
        world.clock_offsets_s[node] = world.chance.uniform(0, CLOCKS_DIFFER_S_MAX)
    registrars = Registrars(world)
    world.run(FAULTS_S)
    registrars.is_over = True
    registrars.check_end()
    return registrars


@pytest.mark.parametrize("seed", range(1, 9))
def test_faults_lose_no_update_and_double_none(seed: int) -> None:
    registrars = run(world_of(seed))
    assert len(registrars.counted) > 5
    assert registrars.acquired
    assert registrars.expired


def _ignore_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    original = KeyValues.set

    def set_always(self: KeyValues, change: SetKey, at: Any) -> bool:
        return original(self, SetKey(change.key, change.value), at)

    monkeypatch.setattr(KeyValues, "set", set_always)


def _forget_lock_delays_in_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    original = objects.read_registry

    def read(state: Any) -> Registry:
        registry = original(state)
        for key in list(registry._kv.delays.rows):
            registry._kv.delays.remove(key)
        return registry

    monkeypatch.setattr(objects, "read_registry", read)


@pytest.mark.parametrize(("plant", "known"), [(_ignore_the_index, 1), (_forget_lock_delays_in_snapshots, 9)])
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], known: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    for seed in known_first(known, SEEDS_TO_FIND_MAX):
        try:
            run(world_of(seed))
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}")
            return
    pytest.fail("the bug was not found")
