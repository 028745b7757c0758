"""What the leader of *meta* begins, and what it leaves alone: the real state of *meta*, and a real leader of it."""

import logging
from dataclasses import dataclass, field

import pytest

from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.keyspace.reply import Reply
from noctule.core.meta import operations
from noctule.core.meta.operations import (
    BeginMigration,
    BeginSplit,
    ChangeSettings,
    Form,
    OpenFeature,
    Operation,
    SetMemberState,
    UpdateMember,
    decode_operation,
    encode_operation,
)
from noctule.core.meta.state import MetaState
from noctule.core.raft.events import ChangeMembership, Transition
from noctule.core.raft.membership import Change, ChangeKind
from noctule.core.replica.events import Event
from noctule.core.replica.replica import Replica
from noctule.core.roster.loads import GroupLoad, LoadBoard, LoadReport
from noctule.core.roster.members import Member, MemberState
from noctule.core.wire.frames import PROTOCOL_VERSION
from noctule.core.wire.messages import Hello
from noctule.node.api import ReplySink
from noctule.node.governor import FORM_WAIT_S, PLAN_S, Founding, Governor
from noctule.node.proposals import Proposals
from tests.unit.core.meta.formed import FORM, NOW_MS, ask
from tests.unit.core.replica.colony import Colony

FOUNDING = Founding("c1", (Member(1, "h1:1"), Member(2, "h2:1"), Member(3, "h3:1")), 4, 3)
OWN = Member(1, "h1:1", http="h1:2", labels={"rack": "r1"})


@dataclass
class Stewardship:
    """What a governor asks its steward for."""

    own: Member | None = OWN
    board: LoadBoard = field(default_factory=LoadBoard)


class Node:
    """Node 1, which leads a *meta* of the voters 1 to 3; what it asks for is kept, and done when a test says so."""

    def __init__(self, form: Form | None = FORM) -> None:
        self.colony = Colony(3, groups=(META_GROUP,))
        self.replicas: dict[GroupId, Replica] = self.colony.elect(1).replicas
        self.meta = MetaState()
        if form is not None:
            ask(self.meta, form)
        self.now = Instant(self.colony.now)
        self.away: set[int] = set()
        self.taken: list[Event] = []
        self.asked: list[tuple[Operation, ReplySink]] = []
        self.steward = Stewardship()
        self.proposals = Proposals(self._submit, lambda: self.now)
        self.governor = Governor(1, self.steward, self, self.proposals)  # type: ignore[arg-type]

    def _submit(self, args: list[bytes], sink: ReplySink) -> None:
        self.asked.append((decode_operation(args[1]), sink))

    def is_alive(self, node: int) -> bool:
        return node not in self.away

    def wall_ms(self) -> int:
        return 1_700_000_000_000

    def take(self, group: GroupId, event: Event) -> None:
        assert group == META_GROUP
        self.taken.append(event)

    def wait(self, seconds: float) -> list[Operation]:
        """Let time pass, a second at a time; what was asked for meanwhile, each done at once."""
        found: list[Operation] = []
        end = self.now + seconds
        while self.now < end:
            self.now = Instant(min(self.now + PLAN_S, end))
            self.governor.tick(self.meta, self.now)
            asked, self.asked = self.asked, []
            for operation, sink in asked:
                reply: Reply = self.meta.execute(encode_operation(operation), NOW_MS)
                sink.deliver(reply)
            found += [operation for operation, _ in asked]
        return found


def hello(node: int) -> Hello:
    return Hello(PROTOCOL_VERSION, "bats", "", node, 7, http=f"h{node}:2", labels={"rack": f"r{node}"})


# Formation ------------------------------------------------------------------------------------------------------------


def test_the_first_members_are_placed_by_what_they_have_said_of_themselves() -> None:
    node = Node(form=None)
    node.governor.founding = FOUNDING
    assert node.wait(0.1) == []
    for other in (2, 3):
        node.governor.met[other] = hello(other)
    (form,) = node.wait(0.2)
    assert isinstance(form, Form)
    assert [(member.id, member.peer, member.http, member.labels) for member in form.members] == [
        (each, f"h{each}:1", f"h{each}:2", {"rack": f"r{each}"}) for each in (1, 2, 3)
    ]
    assert (form.cluster_id, len(form.replicas), form.replication_factor) == ("c1", 4, 3)
    assert node.meta.cluster_id == "c1"


def test_who_says_nothing_is_not_waited_for_long() -> None:
    node = Node(form=None)
    node.governor.founding = FOUNDING
    node.wait(0.1)
    (form,) = node.wait(FORM_WAIT_S)
    assert isinstance(form, Form)
    assert [member.id for member in form.members] == [1, 2, 3]


def test_a_node_that_joined_forms_nothing() -> None:
    assert Node(form=None).wait(5.0) == []


def test_whoever_does_not_lead_meta_does_nothing() -> None:
    node = Node(form=None)
    node.governor.founding = FOUNDING
    node.replicas = node.colony.machines[2].replicas
    assert node.wait(5.0) == []


# The membership of meta -----------------------------------------------------------------------------------------------


def test_members_come_into_meta_one_at_a_time_as_learners() -> None:
    node = Node()
    node.wait(0.1)
    assert node.taken == [ChangeMembership((Change(ChangeKind.LEARNER, 4),), Transition.SIMPLE)]


def test_nothing_is_changed_while_a_change_is_under_way() -> None:
    node = Node()
    machine = node.colony.machines[1]
    machine.take(ChangeMembership((Change(ChangeKind.LEARNER, 4),), Transition.SIMPLE), group=META_GROUP)
    machine.turn()
    assert machine.replicas[META_GROUP].raft.log.membership.learners == (4,)
    node.wait(0.3)
    assert node.taken == []


# The plan -------------------------------------------------------------------------------------------------------------


def test_a_feature_is_opened_once_every_member_has_it() -> None:
    node = Node()
    features = FORM.members[0].features
    for member in (1, 2, 3, 4):
        ask(node.meta, UpdateMember(member, features=(*features, "newest")))
    assert OpenFeature("newest") not in node.wait(2.0)
    ask(node.meta, UpdateMember(5, features=(*features, "newest")))
    assert OpenFeature("newest") in node.wait(2.0)
    assert "newest" in node.meta.features


def test_what_was_on_a_dead_node_is_made_anew_elsewhere_and_the_node_is_taken_out_when_it_holds_nothing() -> None:
    node = Node()
    ask(node.meta, ChangeSettings({"node_replace_after_s": 60.0, "migrations_concurrent_max": 100}))
    node.away = {5}
    early = node.wait(55.0)
    assert not any(isinstance(each, BeginMigration) and each.source == 5 for each in early)
    moves = [each for each in node.wait(10.0) if isinstance(each, BeginMigration)]
    assert {each.partition for each in moves if each.source == 5} == set(node.meta.held_by[5])
    assert node.meta.roster[5].state is MemberState.ACTIVE


def test_a_member_that_stays_away_and_holds_nothing_is_taken_out() -> None:
    spread = [(1, 2, 3)] * 4
    node = Node(operations.Form("bats", FORM.members, spread, 3))
    ask(node.meta, ChangeSettings({"node_replace_after_s": 60.0, "rebalance_enabled": False}))
    node.away = {5}
    removed = SetMemberState(5, MemberState.REMOVED)
    assert removed not in node.wait(58.0)
    assert removed in node.wait(5.0)
    assert node.meta.roster[5].state is MemberState.REMOVED


def test_with_no_limit_nobody_is_taken_out() -> None:
    node = Node(operations.Form("bats", FORM.members, [(1, 2, 3)] * 4, 3))
    ask(node.meta, ChangeSettings({"node_replace_after_s": 0.0, "rebalance_enabled": False}))
    node.away = {5}
    assert not any(isinstance(each, SetMemberState) for each in node.wait(1_000.0))


def test_an_absence_is_counted_by_those_who_do_not_lead_too() -> None:
    """Else each change of the leader of *meta* would put off the repair by as long again."""
    node = Node(operations.Form("bats", FORM.members, [(1, 2, 3)] * 4, 3))
    ask(node.meta, ChangeSettings({"node_replace_after_s": 60.0, "rebalance_enabled": False}))
    node.away = {5}
    leading, node.replicas = node.replicas, node.colony.machines[2].replicas
    assert node.wait(58.0) == []
    node.replicas = leading
    assert SetMemberState(5, MemberState.REMOVED) in node.wait(5.0)


def test_a_partition_that_is_too_large_for_long_is_split_where_its_leader_says() -> None:
    node = Node()
    sizes = {"split_bytes": 2_000_000, "merge_bytes": 1_000_000}
    ask(node.meta, ChangeSettings({**sizes, "split_after_s": 10.0, "rebalance_enabled": False}))
    load = GroupLoad(2, 1, bytes_used=3_000_000, split_slot=6_000, split_note="half of the bytes")
    node.steward.board.take(2, LoadReport([load]))
    assert not any(isinstance(each, BeginSplit) for each in node.wait(9.0))
    (split,) = [each for each in node.wait(20.0) if isinstance(each, BeginSplit)]
    assert (split.partition, split.at_slot) == (2, 6_000)
    assert split.reason.endswith("; half of the bytes")


def test_where_no_split_helps_it_is_told_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    node = Node()
    ask(node.meta, ChangeSettings({"split_requests_per_s": 100.0, "split_after_s": 10.0, "rebalance_enabled": False}))
    load = GroupLoad(2, 1, requests_per_s=500, split_note="one key has most of it")
    node.steward.board.take(2, LoadReport([load]))
    with caplog.at_level(logging.WARNING, logger="noctule.node"):
        asked = node.wait(60.0)
    assert not any(isinstance(each, BeginSplit) for each in asked)
    (record,) = [record for record in caplog.records if record.message == "partition_hot"]
    fields = vars(record)["fields"]
    assert (fields["group"], fields["note"]) == (2, "one key has most of it")
