"""A node makes itself equal to what *meta* says: the real state of *meta*, real replicas, and a node that is not."""

import random
from collections.abc import Mapping
from itertools import pairwise

import msgspec
import pytest

from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.keyspace.reply import Failure
from noctule.core.keyspace.territory import Territory
from noctule.core.meta.operations import (
    AbortSplit,
    AdvanceMigration,
    BeginMigration,
    BeginSplit,
    FinishSplit,
    Form,
    OpenFeature,
    Operation,
    ReleaseReplica,
    SetMemberState,
    UpdateMember,
    decode_operation,
    encode_operation,
)
from noctule.core.meta.state import MetaState
from noctule.core.migration.mover import Progress
from noctule.core.migration.stages import Stage
from noctule.core.placement.hotspots import SplitAdvice
from noctule.core.placement.partition_map import Partition, PartitionMap, Promise
from noctule.core.raft.config import RaftConfig
from noctule.core.replica.events import Event
from noctule.core.replica.replica import Replica, SnapshotPolicy
from noctule.core.roster.features import FEATURES
from noctule.core.roster.loads import LoadReport
from noctule.core.roster.members import Member, MemberState
from noctule.core.wire.messages import DigestTold, Hello
from noctule.node import steward as steward_module
from noctule.node.api import ReplySink
from noctule.node.proposals import Proposals
from noctule.node.recovery import ReplicaSettings, make_replica
from noctule.node.steward import CHILD_S, REPLICAS_PER_TICK_MAX, REPORT_S, Steward, load_of, move_of
from tests.unit.core.meta.formed import FORM, NEWER, NOW_MS, ask, part
from tests.unit.core.replica.colony import Colony, write

NODE = 2
"""Of the cluster that `formed` has: it holds partitions 1 and 2, and not 3 and 4."""
SETTINGS = ReplicaSettings(
    node_id=NODE, voters=(1, 2, 3), raft=RaftConfig(), policy=SnapshotPolicy(), first_timeout_s=9.0, first_partitions=4
)


class Node:
    """A `Premises` that does what it is told at once, and writes it down."""

    def __init__(self, form: Form | None = FORM) -> None:
        self.now = Instant(100.0)
        self.replicas: dict[GroupId, Replica] = {}
        self.active: set[GroupId] = set()
        self.requests: dict[GroupId, int] = {}
        self.digests: Mapping[GroupId, Mapping[int, DigestTold]] = {}
        self.done: list[str] = []
        self.members: list[tuple[str, list[int]]] = []
        self.changed: list[list[GroupId]] = []
        self.features: list[frozenset[str]] = []
        self.reports: list[LoadReport] = []
        self.retired: list[str] = []
        self.muted: set[GroupId] = set()
        self.asked: list[tuple[Operation, ReplySink]] = []
        self.meta = MetaState()
        self._make(Partition(META_GROUP, 0, -1, ()))
        self.replicas[META_GROUP].keyspace = self.meta
        if form is not None:
            ask(self.meta, form)
        self.proposals = Proposals(self._submit, lambda: self.now)
        self.steward = Steward(
            NODE,
            PartitionMap(),
            self,
            self.proposals,
            lambda groups: self.changed.append(list(groups)),
            self.features.append,
            random.Random(1),
        )

    def _submit(self, args: list[bytes], sink: ReplySink) -> None:
        self.asked.append((decode_operation(args[1]), sink))

    def _make(self, partition: Partition) -> None:
        self.replicas[GroupId(partition.id)] = make_replica(partition, SETTINGS, self.now, random.Random(1))[0]

    def tick(self, seconds: float = 0.01) -> list[str]:
        """What this look led to."""
        self.now = Instant(self.now + seconds)
        self.steward.tick(self.now)
        done, self.done = self.done, []
        return done

    def answer_all(self) -> list[Operation]:
        """Have *meta* do what was asked for; its own state follows at once."""
        asked, self.asked = self.asked, []
        for operation, sink in asked:
            sink.deliver(self.meta.execute(encode_operation(operation), NOW_MS))
        return [operation for operation, _ in asked]

    @property
    def groups(self) -> list[int]:
        return sorted(self.replicas)

    # Premises ---------------------------------------------------------------------------------------------------------

    def add_replica(self, partition: Partition) -> None:
        self._make(partition)
        self.done.append(f"add {partition.id}{' new' if partition.initial else ''}")

    def mute_replica(self, group: GroupId, is_mute: bool) -> None:
        (self.muted.add if is_mute else self.muted.discard)(group)

    def remove_replica(self, group: GroupId) -> None:
        del self.replicas[group]
        self.done.append(f"remove {group}")

    def take(self, group: GroupId, event: Event) -> None:
        self.done.append(f"{type(event).__name__} {group}")

    def set_members(self, cluster_id: str, members: Mapping[int, Member]) -> None:
        self.members.append((cluster_id, sorted(members)))

    def is_alive(self, node: int) -> bool:
        return True

    def order(self, group: GroupId, args: list[bytes], sink: ReplySink) -> None:
        raise AssertionError("nothing is merged here")

    def broadcast(self, report: LoadReport) -> None:
        self.reports.append(report)

    def add_peer(self, member: Member) -> None:
        self.done.append(f"meet {member.id}")

    def memory_bytes(self) -> int:
        return 77

    def wall_ms(self) -> int:
        return 1_700_000_000_000

    def retire(self, reason: str) -> None:
        self.retired.append(reason)


@pytest.fixture
def node() -> Node:
    """It follows the map by now."""
    node = Node()
    assert node.tick() == ["add 1 new", "add 2 new"]
    return node


def move(state: MetaState, source: int, target: int, partition: int = 1) -> None:
    """Have a migration done from beginning to end."""
    given = ask(state, BeginMigration(partition, source, target))
    assert isinstance(given, int)
    way = (Stage.PREPARE, Stage.TRANSFER, Stage.VERIFY, Stage.UPDATE, Stage.CLEANUP, Stage.DONE)
    for stage, to in pairwise(way):
        ask(state, AdvanceMigration(given, stage, to))


# Replicas -------------------------------------------------------------------------------------------------------------


def test_it_makes_the_replicas_that_the_map_gives_it_and_follows_the_map(node: Node) -> None:
    assert node.groups == [0, 1, 2]
    assert node.steward.is_settled
    assert node.changed == [[1, 2, 3, 4]]
    assert list(node.steward.partitions) == list(node.meta.map)
    assert node.members == [("bats", [1, 2, 3, 4, 5])]
    assert node.tick() == []


def test_what_may_be_used_is_told_with_the_map_and_when_it_changes(node: Node) -> None:
    node.tick()
    assert node.features == [frozenset(FEATURES)]
    ask(node.meta, UpdateMember(5, features=NEWER))
    ask(node.meta, OpenFeature("new"))
    node.tick()
    assert node.features == [frozenset(FEATURES), frozenset(NEWER)]


def test_before_there_is_a_cluster_there_is_nothing_to_do() -> None:
    node = Node(form=None)
    assert node.tick() == []
    assert (node.groups, node.members, node.asked) == ([0], [], [])


def test_a_node_is_not_settled_before_it_has_looked_at_the_map_once() -> None:
    """It said to be ready for the moment between the cluster's formation and the making of its replicas."""
    node = Node()
    assert node.meta.cluster_id
    assert not node.steward.is_settled
    node.tick()
    assert node.steward.is_settled


def test_a_replica_for_a_group_that_has_changed_begins_empty(node: Node) -> None:
    ask(node.meta, BeginMigration(3, 5, NODE))
    assert node.tick() == ["add 3"]
    assert node.replicas[GroupId(3)].raft.log.last_index == 0


def test_a_replica_is_silent_until_meta_says_that_it_may_go(node: Node) -> None:
    """By a newer map it may be wanted again. What it has promised is kept in the map for the next one made here."""
    move(node.meta, NODE, 5)
    assert node.tick() == []
    assert (node.muted, node.steward.is_settled) == ({1}, False)
    assert node.answer_all() == [ReleaseReplica(1, Promise(NODE, term=1, vote=0, last_term=1, last_index=1))]
    assert node.tick() == ["remove 1"]
    assert part(node.meta, 1).promise_of(NODE) is not None
    assert (node.groups, node.steward.is_settled) == ([0, 2], True)


def test_a_replica_that_the_map_gives_back_speaks_again(node: Node) -> None:
    move(node.meta, NODE, 5)
    node.tick()
    ask(node.meta, BeginMigration(1, 0, NODE))
    (refused,) = node.asked
    node.answer_all()
    assert isinstance(refused[0], ReleaseReplica)
    assert node.tick() == []
    assert (node.muted, node.groups, node.steward.is_settled) == (set(), [0, 1, 2], True)


def test_whether_it_may_go_is_asked_again_while_that_is_refused_or_unknown(node: Node) -> None:
    move(node.meta, NODE, 5)
    node.tick()
    node.asked.pop()[1].deliver(Failure(b"UNKNOWN no answer"))
    assert node.tick(1.0) == []
    assert [type(operation) for operation, _ in node.asked if isinstance(operation, ReleaseReplica)] == [ReleaseReplica]
    assert 1 in node.groups


def test_so_many_replicas_are_made_in_one_go_that_the_loop_goes_on() -> None:
    count = 2 * REPLICAS_PER_TICK_MAX + 5
    form = msgspec.structs.replace(FORM, replicas=[(1, 2, 3)] * count)
    node = Node(form)
    assert [len(node.tick()) for _ in range(4)] == [REPLICAS_PER_TICK_MAX, REPLICAS_PER_TICK_MAX, 5, 0]
    assert len(node.groups) == count + 1


def test_after_a_snapshot_of_meta_all_is_compared_anew(node: Node) -> None:
    """Whatever came and went in between, no list of changes tells of."""
    split(node)
    node.tick(CHILD_S + 1.0)
    node.tick(CHILD_S + 1.0)
    assert 5 in node.groups
    other = Node()
    ask(other.meta, AbortSplit(split(other)))
    move(other.meta, NODE, 5)
    ask(other.meta, BeginMigration(3, 5, NODE))
    node.meta = MetaState.load(other.meta.picture().chunks(1 << 16))
    node.replicas[META_GROUP].keyspace = node.meta
    assert node.tick() == ["add 3"]
    node.answer_all()
    assert node.tick() == ["remove 1", "remove 5"]
    assert list(node.steward.partitions) == list(node.meta.map)


# Children -------------------------------------------------------------------------------------------------------------


def split(node: Node) -> GroupId:
    """Partition 2 is being divided; the child."""
    child = ask(node.meta, BeginSplit(2, 6_000))
    assert child == 5
    return GroupId(child)


def test_a_child_is_left_to_the_parent_that_is_here(node: Node) -> None:
    """Made empty by the map it would have to be sent all that is here already."""
    child = split(node)
    ask(node.meta, FinishSplit(child))
    assert node.tick() == []
    assert not node.steward.is_settled
    node._make(part(node.meta, child))  # As the parent's replica does it.
    assert node.tick() == []
    assert node.steward.is_settled


def test_a_parent_that_makes_none_is_not_waited_for_for_ever(node: Node) -> None:
    """It got a snapshot past the split, say."""
    split(node)
    assert node.tick() == []
    assert node.tick(CHILD_S - 0.1) == []
    assert node.tick(0.2) == ["add 5"]


def test_a_child_whose_split_is_long_done_here_is_made_at_once(node: Node) -> None:
    """It comes as any other replica does, and each move of one would begin with five lost seconds."""
    split(node)
    node.replicas[GroupId(2)].keyspace.hold(Territory(4_096, 5_999, newest_child=5))
    assert node.tick() == ["add 5"]


def test_a_group_that_this_node_s_meta_has_not_heard_of_is_not_removed(node: Node) -> None:
    """The parent's log came first, and the child has made promises already."""
    node._make(Partition(5, 6_000, 8_191, (1, 2, 3)))
    node.steward._pending[GroupId(5)] = node.now
    assert node.tick() == []
    assert (5 in node.groups, node.muted) == (True, set())
    split(node)
    assert node.tick() == []
    assert node.steward.is_settled


# The roster -----------------------------------------------------------------------------------------------------------


def test_a_node_that_is_no_member_any_more_retires(node: Node) -> None:
    ask(node.meta, SetMemberState(4, MemberState.REMOVED))
    node.tick()
    assert (node.members[-1], node.retired) == (("bats", [1, 2, 3, 5]), [])
    ask(node.meta, SetMemberState(NODE, MemberState.REMOVED))
    node.tick()
    assert node.retired == ["node 2 was removed from the cluster: it may join anew, with an empty data folder"]


OWN = Member(
    NODE,
    "host2:7601",
    "host2:7701",
    "host2:7501",
    "host2:7401",
    {"rack": "r1"},
    version="1",
    features=FORM.members[0].features,
)


def test_it_has_the_roster_say_what_is_so_of_itself_until_it_does(node: Node) -> None:
    node.steward.own = OWN
    node.tick(REPORT_S)
    (told,) = node.answer_all()
    assert told == UpdateMember(
        NODE, OWN.peer, OWN.control, OWN.http, OWN.resp, OWN.version, OWN.features, OWN.labels, OWN.weight
    )
    node.tick(REPORT_S)
    assert node.answer_all() == []


def test_labels_and_weight_are_the_operator_s_once_the_roster_has_them(node: Node) -> None:
    node.steward.own = OWN
    node.tick(REPORT_S)
    node.answer_all()
    ask(node.meta, UpdateMember(NODE, labels={"rack": "r9"}, weight=3.0))
    node.steward.own = msgspec.structs.replace(OWN, http="host2:9999")
    node.tick(REPORT_S)
    node.answer_all()
    known = node.meta.roster[NODE]
    assert (known.http, known.labels, known.weight) == ("host2:9999", {"rack": "r9"}, 3.0)


def test_it_says_nothing_before_its_doors_are_open(node: Node) -> None:
    node.tick(REPORT_S)
    assert node.answer_all() == []


def test_strangers_with_ids_yet_to_be_given_are_met_and_only_so_many(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steward_module, "NEWCOMERS_MAX", 2)
    given = node.meta.counters.member_id_next
    hellos = [Hello(1, "bats", "", given + number, 7, peer=f"host:{number}") for number in range(3)]
    assert [node.steward.meet(hello) for hello in hellos] == [True, True, False]
    assert node.steward.meet(hellos[0]), "one that is known is let in again"
    assert not node.steward.meet(Hello(1, "bats", "", given - 1, 7, peer="host:9")), "that id was given to another"
    assert node.done == [f"meet {given}", f"meet {given + 1}", f"meet {given}"]


# Reports --------------------------------------------------------------------------------------------------------------


def test_it_empties_what_it_has_counted_and_tells_only_news(node: Node) -> None:
    node.active, node.requests = {GroupId(1)}, {GroupId(1): 5}
    node.tick(REPORT_S)
    assert (node.active, node.requests) == (set(), {})
    assert node.reports == [LoadReport([], 77)], "it leads nothing, and what it takes was told at once"
    assert node.steward.board.memory_bytes == {NODE: 77}


def test_who_connects_hears_of_a_group_in_which_nothing_happens(node: Node) -> None:
    node.replicas[GroupId(7)] = Colony(3).elect(1).replica
    told = len(node.reports)
    node.tick(REPORT_S)
    assert node.reports[told:] == []
    node.steward.peer_connected(Hello(1, "bats", "", 3, 7))
    for _ in range(3):
        node.tick(REPORT_S)
    assert [len(report.loads) for report in node.reports[told:]] == [1]


def test_whoever_is_told_that_meta_has_changed_finds_the_map_followed(node: Node) -> None:
    seen: list[int] = []
    node.steward.changed = lambda: seen.append(len(node.steward.partitions))
    node.tick()
    assert seen == []
    split(node)
    node.tick()
    assert seen == [5]


def test_the_first_replica_should_lead_and_of_meta_the_first_voter(node: Node) -> None:
    assert [node.steward.preferred_leader(GroupId(group)) for group in (1, 3, 9)] == [1, 3, 0]
    assert node.steward.preferred_leader(META_GROUP) == 0


def test_a_leader_tells_what_its_group_costs_who_is_in_it_and_who_is_behind() -> None:
    colony = Colony(3)
    leader = colony.elect(1)
    leader.take(write(1, 1, b"SET a 1"))
    colony.settle_between(1, 2)
    advice = SplitAdvice(at_slot=9, lower_share=0.5, sentence="there")
    load = load_of(leader.replica, 7, advice=advice)
    assert (load.group, load.term, load.keys, load.requests_per_s) == (1, leader.replica.raft.term, 1, 7)
    assert (load.voters, load.learners, load.lag_entries) == ((1, 2, 3), (), {3: 1})
    assert (load.split_slot, load.split_note, load.move) == (9, "there", None)


def test_a_rate_that_wavers_is_no_news() -> None:
    progress = Progress(4, Stage.TRANSFER, Instant(1.0), Instant(2.0), bytes_done=10, seconds_left=1.234)
    told = [
        move_of(msgspec.structs.replace(progress, bytes_per_s=rate, seconds_left=left))
        for rate, left in ((100.2, 1.21), (99.8, 1.19))
    ]
    assert told[0] == told[1]
    assert (told[0].stage, told[0].bytes_done, told[0].seconds_left) == ("transfer", 10, 1.2)
    assert move_of(msgspec.structs.replace(progress, seconds_left=None)).seconds_left is None
