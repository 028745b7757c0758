"""What the registry says of the members, and what the leader of *meta* has ended."""

from collections.abc import Sequence

import msgspec
import pytest

from noctule.core.meta.operations import ChangeRegistry, Operation, SetMemberState
from noctule.core.meta.state import MetaState
from noctule.core.registry.changes import Change, CreateSession, PutCheck, PutNode, PutService, RemoveNode, TellCheck
from noctule.core.registry.objects import NODE_CHECK, Check, CheckStatus, RegistryNode, ServiceInstance, Session
from noctule.core.roster.features import REGISTRY
from noctule.core.roster.members import MemberState
from noctule.node.registry_keeper import ALIVE, SILENT, end_what_is_due, keep_members, member_changes
from tests.unit.core.meta.formed import ask, formed

NOW_MS = 1_700_000_000_000


class FakeProposals:
    """Has *meta* do at once what is proposed."""

    def __init__(self, meta: MetaState, now_ms: int = NOW_MS) -> None:
        self.meta = meta
        self.now_ms = now_ms
        self.proposed: list[Operation] = []

    def propose(self, purpose: object, operation: Operation, done: object = None) -> bool:
        self.proposed.append(operation)
        ask(self.meta, operation, now_ms=self.now_ms)
        return True


@pytest.fixture
def meta() -> MetaState:
    return formed()


def kept(meta: MetaState, silent: Sequence[int] = ()) -> MetaState:
    """After the keeper has looked until there was nothing to do."""
    proposals = FakeProposals(meta)
    for _ in range(3):
        keep_members(meta, lambda node: node not in silent, proposals)  # type: ignore[arg-type]
    assert not list(member_changes(meta, lambda node: node not in silent))
    return meta


def health(meta: MetaState, node: int) -> tuple[CheckStatus, str]:
    check = meta.registry.checks[f"node-{node}", NODE_CHECK]
    return check.status, check.output


def change(meta: MetaState, *changes: Change, now_ms: int = NOW_MS) -> None:
    ask(meta, ChangeRegistry(list(changes)), now_ms=now_ms)


def test_every_member_is_there_with_its_check(meta: MetaState) -> None:
    kept(meta, silent=[2])
    assert set(meta.registry.nodes) == {f"node-{node}" for node in meta.roster}
    assert health(meta, 1) == (CheckStatus.PASSING, ALIVE)
    assert health(meta, 2) == (CheckStatus.CRITICAL, SILENT)
    node = meta.registry.nodes["node-1"]
    assert (node.address, node.meta) == ("host1", dict(meta.roster[1].labels))
    assert len({each.id for each in meta.registry.nodes.values()}) == len(meta.roster)


def test_who_falls_silent_is_critical_and_who_is_back_passes(meta: MetaState) -> None:
    kept(meta)
    assert list(member_changes(meta, lambda node: node != 3)) == [
        TellCheck("node-3", NODE_CHECK, CheckStatus.CRITICAL, SILENT)
    ]
    kept(meta, silent=[3])
    kept(meta)
    assert health(meta, 3) == (CheckStatus.PASSING, ALIVE)


def test_nothing_is_asked_for_while_nothing_changes(meta: MetaState) -> None:
    kept(meta)
    proposals = FakeProposals(meta)
    keep_members(meta, lambda _: True, proposals)  # type: ignore[arg-type]
    end_what_is_due(meta, NOW_MS, proposals)  # type: ignore[arg-type]
    assert proposals.proposed == []


def test_who_left_is_taken_out_with_everything_on_it(meta: MetaState) -> None:
    kept(meta)
    change(meta, PutService(ServiceInstance("node-4", "web-1", "web")))
    ask(meta, SetMemberState(4, MemberState.REMOVED))
    assert list(member_changes(meta, lambda _: True)) == [RemoveNode("node-4")]
    kept(meta)
    assert "node-4" not in meta.registry.nodes
    assert not meta.registry.instances


def test_other_nodes_and_what_others_say_of_members_are_left_alone(meta: MetaState) -> None:
    kept(meta)
    change(meta, PutNode(RegistryNode("database", "10.0.0.9")))
    known = meta.registry.nodes["node-1"]
    change(meta, PutNode(RegistryNode("node-1", "elsewhere", id=known.id, datacenter="dc1")))
    kept(meta)
    assert meta.registry.nodes["database"].address == "10.0.0.9"
    assert meta.registry.nodes["node-1"].address == known.address


def test_what_has_ended_is_ended_and_what_was_renewed_is_not(meta: MetaState) -> None:
    kept(meta)
    change(
        meta,
        PutService(ServiceInstance("node-1", "web-1", "web")),
        PutCheck(Check("node-1", "ttl", "ttl", CheckStatus.PASSING, service_id="web-1", ttl_ms=1000)),
        CreateSession(Session("s", "node-1", ttl_ms=10_000)),
    )
    proposals = FakeProposals(meta, NOW_MS + 1000)
    end_what_is_due(meta, NOW_MS + 999, proposals)  # type: ignore[arg-type]
    assert proposals.proposed == []
    due = meta.registry.due(NOW_MS + 1000)
    change(meta, TellCheck("node-1", "ttl", CheckStatus.PASSING), now_ms=NOW_MS + 500)
    change(meta, *due, now_ms=NOW_MS + 1000)
    assert meta.registry.checks["node-1", "ttl"].status is CheckStatus.PASSING, "it came after the renewal"
    proposals.now_ms = NOW_MS + 30_000
    end_what_is_due(meta, NOW_MS + 30_000, proposals)  # type: ignore[arg-type]
    assert meta.registry.checks["node-1", "ttl"].status is CheckStatus.CRITICAL
    assert not meta.registry.sessions


def test_before_every_member_has_a_registry_nothing_is_asked_for(meta: MetaState) -> None:
    features = tuple(name for name in meta.counters.features if name != REGISTRY)
    meta.set_counters(msgspec.structs.replace(meta.counters, features=features))
    proposals = FakeProposals(meta)
    keep_members(meta, lambda _: True, proposals)  # type: ignore[arg-type]
    end_what_is_due(meta, NOW_MS, proposals)  # type: ignore[arg-type]
    assert proposals.proposed == []
