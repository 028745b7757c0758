"""The cluster in Redis' words, as one node that knows this much of the others sees it."""

from types import SimpleNamespace
from typing import Any

import pytest

from noctule.base.ids import META_GROUP, GroupId
from noctule.core.placement.partition_map import Partition, PartitionMap
from noctule.core.placement.slots import SLOT_COUNT
from noctule.core.roster.members import Member
from noctule.core.wire.messages import Hello
from noctule.node.cluster_view import NOT_SERVED, ClusterView, SlotRange


def hello(node: int, **doors: str) -> Hello:
    return Hello(3, "bats", "", node, node, **doors)


class Sketch:
    """A node with two partitions, of which it follows the one and has no copy of the other."""

    def __init__(self) -> None:
        self.leaders: dict[int, int] = {META_GROUP: 2, 1: 2, 2: 3}
        self.told: dict[int, int] = {}
        """What load reports said, where this node has no copy."""
        self.alive = {1, 2, 3}
        self.members = {node: Member(node, f"10.0.0.{node}:7601") for node in (1, 2, 3)}
        self.hellos = {node: self.usual(node) for node in (1, 2, 3)}
        self.partitions = PartitionMap([Partition(1, 0, 99, (2, 1)), Partition(2, 100, SLOT_COUNT - 1, (3, 2))])
        self.reads: list[list[bytes]] = []
        self.cluster_id = "c1"

    def usual(self, node: int) -> Hello:
        places = {"peer": f"10.0.0.{node}:7601", "resp": f"10.0.0.{node}:7401"}
        return hello(node, **places, resp_cluster=f"10.0.0.{node}:7801")

    def view(self) -> ClusterView:
        node: Any = SimpleNamespace(
            config=SimpleNamespace(
                node_id=1, sentinel_service="noctule", cluster=SimpleNamespace(name="bats", voters={1: "10.0.0.1:7601"})
            ),
            hello_of=self.hellos.get,
            host=SimpleNamespace(
                carrier=SimpleNamespace(replicas={META_GROUP: None, GroupId(1): None}),
                switchboard=SimpleNamespace(
                    leader_of=lambda group: (self.leaders.get(group, 0), 1), read_local=self.read_local
                ),
            ),
            premises=SimpleNamespace(members=self.members, is_alive=lambda node: node in self.alive),
            steward=SimpleNamespace(
                partitions=self.partitions,
                board=SimpleNamespace(leader_of=lambda group: self.told.get(group, 0)),
                meta=SimpleNamespace(cluster_id=self.cluster_id, map=self.partitions),
            ),
            transport=SimpleNamespace(hello=self.hellos[1]),
        )
        return ClusterView(node)

    def read_local(self, group: GroupId, command: list[bytes]) -> object:
        self.reads.append(command)
        return [b"a", b"b", b"c"] if command[3] == b"KEYS" else 3


@pytest.fixture
def sketch() -> Sketch:
    return Sketch()


def test_a_slot_that_is_led_elsewhere_is_moved_there(sketch: Sketch) -> None:
    assert sketch.view().redirect(5).text == b"MOVED 5 10.0.0.2:7801"
    assert sketch.view().redirect(100).text == b"MOVED 100 10.0.0.3:7801"


def test_a_slot_without_a_leader_that_can_be_reached_is_not_served(sketch: Sketch) -> None:
    """MOVED to a dead node would cost the client a connection that fails."""
    sketch.alive.remove(2)
    assert sketch.view().redirect(5) is NOT_SERVED
    sketch.leaders[1] = 0
    assert sketch.view().redirect(5) is NOT_SERVED
    sketch.leaders[1] = 1
    assert sketch.view().redirect(5) is NOT_SERVED, "it leads since this very moment"


def test_load_reports_tell_of_leaders_where_there_is_no_copy(sketch: Sketch) -> None:
    sketch.leaders[2] = 0
    assert sketch.view().redirect(100) is NOT_SERVED
    sketch.told = {1: 3, 2: 3}
    assert sketch.view().redirect(100).text == b"MOVED 100 10.0.0.3:7801"
    sketch.leaders[1] = 0
    assert sketch.view().redirect(5) is NOT_SERVED, "the copy here knows better than a report of the past"


def test_an_earlier_release_is_found_by_its_plain_port(sketch: Sketch) -> None:
    """It answers for every slot, and has no cluster face."""
    sketch.hellos[2] = hello(2, resp="10.0.0.2:7401")
    assert sketch.view().redirect(5).text == b"MOVED 5 10.0.0.2:7401"
    del sketch.hellos[2]
    sketch.members[2] = Member(2, "10.0.0.2:7601", resp="10.0.0.2:7409")
    assert sketch.view().redirect(5).text == b"MOVED 5 10.0.0.2:7409"
    sketch.members[2] = Member(2, "10.0.0.2:7601")
    assert sketch.view().redirect(5) is NOT_SERVED


def test_an_address_of_ipv6_has_no_brackets(sketch: Sketch) -> None:
    sketch.hellos[2] = hello(2, resp_cluster="[2001:db8::2]:7801")
    assert sketch.view().redirect(5).text == b"MOVED 5 2001:db8::2:7801"


def test_a_range_names_its_leader_and_the_copies_that_are_alive(sketch: Sketch) -> None:
    assert sketch.view().ranges() == [SlotRange(0, 99, 2, (1,)), SlotRange(100, SLOT_COUNT - 1, 3, (2,))]
    sketch.alive.remove(1)
    assert sketch.view().ranges()[0] == SlotRange(0, 99, 2, ())


def test_without_a_leader_a_range_names_whoever_will_most_likely_be(sketch: Sketch) -> None:
    """redis-py raises to its caller when slots are nobody's, which an election must not bring about."""
    sketch.leaders[1] = 0
    assert sketch.view().ranges()[0] == SlotRange(0, 99, 2, (1,), is_served=False)
    sketch.alive.remove(2)
    assert sketch.view().ranges()[0] == SlotRange(0, 99, 1, (), is_served=False)
    sketch.alive.clear()
    assert sketch.view().ranges() == []


def test_neighbours_that_differ_in_nothing_are_one_range(sketch: Sketch) -> None:
    sketch.partitions = PartitionMap([Partition(each, 10 * each, 10 * each + 9, (2, 1)) for each in (1, 2, 3)])
    sketch.leaders = {1: 2, 2: 2, 3: 1}
    assert sketch.view().ranges() == [SlotRange(10, 29, 2, (1,)), SlotRange(30, 39, 1, (2,))]
    sketch.leaders = {1: 2, 2: 0, 3: 2}
    assert [each.is_served for each in sketch.view().ranges()] == [True, False, True]


def test_a_child_that_has_no_slots_yet_has_no_range(sketch: Sketch) -> None:
    sketch.partitions.put(Partition(3, 50, 49, (2, 1), parent=1))
    assert [each.first for each in sketch.view().ranges()] == [0, 100]


def test_names_differ_by_cluster_node_and_face(sketch: Sketch) -> None:
    def names() -> set[str]:
        return {name for each in sketch.view().members() for name in (each.cluster.name, each.plain.name)}

    first = names()
    assert len(first) == 6
    assert all(len(name) == 40 for name in first)
    assert names() == first
    sketch.cluster_id = "c2"
    assert not names() & first


def test_before_the_roster_is_known_there_are_those_of_the_settings(sketch: Sketch) -> None:
    sketch.members = {}
    assert [each.id for each in sketch.view().members()] == [1]
    assert sketch.view().master().id == 1, "the leader of meta is none of them yet"
    sketch.members = Sketch().members
    assert sketch.view().master().id == 2


def test_keys_of_a_slot_are_read_here(sketch: Sketch) -> None:
    assert sketch.view().count_keys(5) == 3
    assert sketch.view().keys(5, 2) == [b"a", b"b"]
    assert sketch.reads == [
        [b"NOCTULE.READWITHIN", b"5", b"5", b"DBSIZE"],
        [b"NOCTULE.READWITHIN", b"5", b"5", b"KEYS", b"*"],
    ]
