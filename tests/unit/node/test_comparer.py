"""A leader has the replicas of its groups compared: real replicas, and what each of them tells."""

import logging
from typing import Any

import msgspec
import pytest

from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.meta.operations import BeginMigration, ChangeSettings, UpdateMember
from noctule.core.meta.state import MetaState
from noctule.core.replica import sampling
from noctule.core.replica.comparison import PATIENCE_S
from noctule.core.replica.digests import DIGEST
from noctule.core.replica.events import DigestReady, Event, Order
from noctule.core.replica.replica import Replica
from noctule.core.roster.loads import Compared
from noctule.core.wire.messages import DigestTold
from noctule.node.comparer import CHECK, LOOK_S, Comparer
from tests.unit.core.meta.formed import ask, formed
from tests.unit.core.replica.colony import GROUP, Colony, Machine, write

INTERVAL_S = 10.0


class Leader:
    """Node 1 of three, which leads `GROUP`, and its comparer; time goes on when it is told to."""

    def __init__(self) -> None:
        self.colony = Colony(3)
        self.machine: Machine = self.colony.elect(1)
        self.replicas: dict[GroupId, Replica] = self.machine.replicas
        self.meta: MetaState = formed()
        self.set_interval(INTERVAL_S)
        self.comparer = Comparer(self)  # type: ignore[arg-type]
        self.taken: list[Event] = []
        self.silent: set[int] = set()
        self._told: dict[int, int] = {}

    def take(self, group: GroupId, event: Event) -> None:
        self.taken.append(event)
        self.machine.take(event, group=group)

    def set_interval(self, seconds: float) -> None:
        ask(self.meta, ChangeSettings({"digest_interval_s": seconds}))

    def write(self, number: int) -> None:
        self.machine.take(write(1, number, b"SET key %d" % number))
        self.colony.settle()
        self.colony.heartbeat(1)

    def go_on(self, seconds: float) -> None:
        """Look at it every quarter of a second."""
        for _ in range(round(seconds * 4)):
            self.colony.now = Instant(self.colony.now + 0.25)
            self.comparer.tick(self.meta, self.colony.now)
            self.colony.settle()
            self.colony.heartbeat(1)
            for node, machine in self.colony.machines.items():
                for digest in machine.digests[self._told.get(node, 0) :]:
                    if node not in self.silent:
                        self.tell(node, digest)
                self._told[node] = len(machine.digests)
        self.comparer.tick(self.meta, self.colony.now)

    def tell(self, node: int, digest: DigestReady) -> bool:
        told = DigestTold(digest.nonce, digest.index, digest.digest)
        return self.comparer.told(GROUP, node, told, self.colony.now)

    @property
    def found(self) -> Compared | None:
        return self.comparer.compared.get(GROUP)


@pytest.fixture
def leader() -> Leader:
    leader = Leader()
    leader.write(1)
    return leader


def corrupt(machine: Machine) -> None:
    keyspace = machine.replica.keyspace
    assert isinstance(keyspace, Keyspace)
    keyspace.execute([b"SET", b"key", b"another"], 1_000)


def test_equal_replicas_are_compared_once_in_an_interval_while_they_change(leader: Leader) -> None:
    leader.go_on(INTERVAL_S + LOOK_S)
    assert leader.found is not None
    assert (leader.found.equal, leader.found.different, leader.found.silent) == ((1, 2, 3), (), ())
    assert leader.comparer.counters() == {"noctule_digests_compared_total": 1, "noctule_replicas_differ_total": 0}
    assert leader.comparer.fresh == {GROUP}
    leader.go_on(3 * INTERVAL_S)
    assert leader.comparer.compared_total == 1, "nothing has changed"
    leader.write(2)
    leader.go_on(INTERVAL_S + LOOK_S)
    assert leader.comparer.compared_total == 2


def test_a_replica_that_differs_is_found_and_told(leader: Leader, caplog: pytest.LogCaptureFixture) -> None:
    corrupt(leader.colony.machines[3])
    with caplog.at_level(logging.ERROR):
        leader.go_on(INTERVAL_S + LOOK_S)
    assert leader.found is not None
    assert (leader.found.equal, leader.found.different) == ((1, 2), (3,))
    assert leader.comparer.counters() == {"noctule_digests_compared_total": 0, "noctule_replicas_differ_total": 1}
    [record] = [record for record in caplog.records if record.message == "replicas_differ"]
    fields: dict[str, Any] = record.fields  # type: ignore[attr-defined]
    assert (fields["group"], fields["index"], fields["different"]) == (GROUP, leader.found.index, (3,))
    digests = fields["digests"]
    assert digests[1] == digests[2] != digests[3]


def test_a_leader_that_differs_itself_finds_that_out(leader: Leader) -> None:
    corrupt(leader.machine)
    leader.go_on(INTERVAL_S + LOOK_S)
    assert leader.found is not None
    assert leader.found.different == (1,)


def test_a_silent_replica_is_neither_equal_nor_different_and_is_asked_again(leader: Leader) -> None:
    leader.silent = {2}
    leader.go_on(INTERVAL_S + PATIENCE_S + 2 * LOOK_S)
    assert leader.found is not None
    assert (leader.found.equal, leader.found.silent) == ((1, 3), (2,))
    assert leader.comparer.counters() == {"noctule_digests_compared_total": 0, "noctule_replicas_differ_total": 0}
    leader.silent = set()
    leader.go_on(2 * INTERVAL_S)
    assert leader.comparer.compared_total == 1


def test_nothing_is_compared_where_it_is_off_or_too_large(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    leader.set_interval(0)
    leader.go_on(2 * INTERVAL_S)
    assert leader.taken == []
    leader.set_interval(INTERVAL_S)
    monkeypatch.setattr(sampling, "SAMPLED_BYTES_MAX", 1)
    leader.go_on(2 * INTERVAL_S)
    assert leader.taken == []


def test_a_migration_of_the_partition_has_its_own_comparison(leader: Leader) -> None:
    ask(leader.meta, BeginMigration(GROUP, 1, 5))
    leader.go_on(2 * INTERVAL_S)
    assert leader.taken == []


def test_replicas_of_different_releases_are_not_compared(leader: Leader) -> None:
    """Each may have its own way to write down one and the same state."""
    for node in (3, 1, 2):
        assert leader.taken == []
        member = leader.meta.roster[node]
        facts = (member.peer, member.control, member.http, member.resp)
        ask(leader.meta, UpdateMember(node, *facts, "99.0", member.features, None, -1.0))
        leader.go_on(2 * INTERVAL_S)
    assert len(leader.taken) == 1


def test_what_an_operator_ordered_past_the_leader_is_compared_too(leader: Leader) -> None:
    leader.set_interval(0)
    leader.machine.take(Order([DIGEST, CHECK + b"1"]))
    leader.colony.settle()
    leader.go_on(1.0)
    assert leader.found is not None
    assert (leader.found.nonce, leader.found.equal) == (CHECK + b"1", (1, 2, 3))
    late = msgspec.structs.replace(leader.machine.digests[-1], digest=b"late")
    assert leader.tell(2, late)
    leader.go_on(PATIENCE_S + 1)
    assert leader.found.different == (), "it was over by then"


def test_what_a_migration_asked_for_is_not_its_business(leader: Leader) -> None:
    assert not leader.tell(2, DigestReady(b"migration 1 1 1", 7, b"x"))
    assert leader.tell(2, DigestReady(b"sample of another life", 7, b"x"))
    leader.set_interval(0)
    leader.go_on(PATIENCE_S + 1)
    assert leader.found is None


def test_who_leads_no_more_forgets(leader: Leader) -> None:
    leader.go_on(INTERVAL_S + LOOK_S)
    assert leader.found is not None
    leader.colony.elect(2)
    leader.comparer.tick(leader.meta, Instant(leader.colony.now + LOOK_S))
    assert leader.found is None
