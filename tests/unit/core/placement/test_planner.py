"""What one plan says: the order of what is urgent, what is blocked and why, and what it must never do."""

import time

from msgspec.structs import replace

from noctule.core.placement.partition_map import PartitionState
from noctule.core.placement.picture import ClusterPicture, Move, NodePicture, PartitionPicture, PlannerLimits
from noctule.core.placement.planner import plan
from noctule.core.roster.members import MemberState
from tests.unit.core.placement.clusters import cluster_of, converge, nodes_of, with_nodes

ALL = PlannerLimits(moves_max=10_000, leader_moves_max=10_000)
GONE = NodePicture(id=1, is_alive=False, away_s=400.0)


def test_an_even_cluster_is_left_alone() -> None:
    answer = plan(cluster_of(nodes_of(5), 40), ALL)
    assert (answer.moves, answer.leader_moves, answer.blocked) == ((), (), ())


def test_a_node_that_is_away_for_long_is_replaced_and_one_that_is_not_is_waited_for() -> None:
    picture = cluster_of(nodes_of(4), 8)
    held = {partition.id for partition in picture.partitions if 1 in partition.replicas}
    short = plan(with_nodes(picture, replace(GONE, away_s=299.0)), ALL)
    assert short.moves == ()
    long = plan(with_nodes(picture, GONE), ALL)
    assert {move.partition for move in long.moves if move.source == 1} == held
    assert {move.reason for move in long.moves} == {"node 1 is away for 400 s"}


def test_a_removed_node_is_replaced_though_the_roster_has_forgotten_it() -> None:
    picture = cluster_of(nodes_of(4), 8)
    forgotten = replace(picture, nodes=picture.nodes[1:])
    removed = with_nodes(picture, NodePicture(id=1, state=MemberState.REMOVED, is_alive=False))
    for changed in (forgotten, removed):
        answer = plan(changed, ALL)
        assert answer.moves
        assert {(move.source, move.reason) for move in answer.moves} == {(1, "node 1 was removed")}


def test_the_most_endangered_partition_comes_first() -> None:
    nodes = (GONE, NodePicture(id=2, is_alive=False, away_s=1.0), *nodes_of(5, first=3))
    partitions = (
        PartitionPicture(id=1, replicas=(1, 3, 4), leader=3),
        PartitionPicture(id=2, replicas=(1, 2, 3, 4, 5), leader=3),
    )
    picture = ClusterPicture(nodes=nodes, partitions=partitions, replication_factor=5)
    # Both keep exactly a majority; the first by id, then, but a third one with more in hand is last.
    more = PartitionPicture(id=0, replicas=(1, 3, 4, 5, 6), leader=3)
    answer = plan(replace(picture, partitions=(more, *partitions)), ALL)
    assert [move.partition for move in answer.moves] == [1, 2, 0]


def test_restore_goes_before_drain_before_factor() -> None:
    nodes = (GONE, NodePicture(id=2, state=MemberState.DRAINING), *nodes_of(4, first=3))
    partitions = (
        PartitionPicture(id=1, replicas=(3, 4), leader=3),
        PartitionPicture(id=2, replicas=(2, 3, 4), leader=3),
        PartitionPicture(id=3, replicas=(1, 3, 4), leader=3),
    )
    answer = plan(ClusterPicture(nodes=nodes, partitions=partitions, replication_factor=3), ALL)
    assert [(move.partition, move.source) for move in answer.moves] == [(3, 1), (2, 2), (1, 0)]
    assert [move.reason for move in answer.moves] == ["node 1 is away for 400 s", "node 2 drains", "2 replicas of 3"]


def test_moves_and_running_ones_stay_within_the_limit() -> None:
    picture = with_nodes(cluster_of(nodes_of(5), 50), replace(GONE, id=5))
    assert len(plan(picture, PlannerLimits(moves_max=3)).moves) == 3
    first = plan(picture, PlannerLimits(moves_max=3)).moves
    running = replace(picture, running=first[:2])
    third = plan(running, PlannerLimits(moves_max=3)).moves
    assert len(third) == 1
    assert third[0].partition not in {move.partition for move in first[:2]}
    assert plan(replace(picture, running=first), PlannerLimits(moves_max=3)).moves == ()


def test_a_running_move_is_counted_as_done() -> None:
    """Or each plan would send one more to the empty node than it should have."""
    picture = replace(cluster_of(nodes_of(2), 4, factor=1), replication_factor=1)
    picture = with_nodes(picture, NodePicture(id=3))
    (move,) = plan(picture, ALL).moves
    assert (move.target, plan(replace(picture, running=(move,)), ALL).moves) == (3, ())


def test_a_partition_with_an_operation_is_left_alone() -> None:
    picture = with_nodes(cluster_of(nodes_of(4), 4), GONE)
    for change in ({"has_operation": True}, {"state": PartitionState.SPLITTING}, {"state": PartitionState.MIGRATING}):
        busy = replace(picture, partitions=tuple(replace(each, **change) for each in picture.partitions))
        answer = plan(busy, ALL)
        assert answer.moves == ()


def test_two_nodes_for_factor_three() -> None:
    picture = cluster_of(nodes_of(2), 3, factor=2)
    answer = plan(replace(picture, replication_factor=3), ALL)
    assert answer.moves == ()
    (blocked,) = answer.blocked
    assert blocked.partitions == (1, 2, 3)
    assert blocked.sentence == ("3 partitions must stay at 2 replicas: 2 nodes for factor 3; add a node, or lower it")


def test_without_a_majority_nothing_is_moved() -> None:
    nodes = (GONE, replace(GONE, id=2), *nodes_of(4, first=3))
    partitions = (PartitionPicture(id=7, replicas=(1, 2, 3), leader=0, state=PartitionState.OFFLINE),)
    answer = plan(ClusterPicture(nodes=nodes, partitions=partitions, replication_factor=3), ALL)
    assert answer.moves == ()
    assert [each.sentence for each in answer.blocked] == [
        "1 partition cannot change: no majority of living replicas until one of 1, 2 is back"
    ]


def test_a_drop_never_takes_the_last_majority() -> None:
    """Factor 3 to 2 while a replica is briefly away: that one may go, a living one may not."""
    away = NodePicture(id=1, is_alive=False, away_s=1.0)
    partitions = (PartitionPicture(id=1, replicas=(1, 2, 3), leader=2),)
    picture = ClusterPicture(nodes=(away, *nodes_of(2, first=2)), partitions=partitions, replication_factor=2)
    assert [(move.source, move.target) for move in plan(picture, ALL).moves] == [(1, 0)]
    one = replace(picture, replication_factor=1, partitions=(PartitionPicture(id=1, replicas=(1, 2, 3, 4), leader=2),))
    one = with_nodes(one, NodePicture(id=4))
    assert [move.source for move in plan(one, ALL).moves] == [1]


def test_a_removed_node_nobody_can_stand_in_for_is_dropped() -> None:
    nodes = (NodePicture(id=1, state=MemberState.REMOVED, is_alive=False), *nodes_of(2, first=2))
    partitions = (PartitionPicture(id=1, replicas=(1, 2, 3), leader=2),)
    done = converge(ClusterPicture(nodes=nodes, partitions=partitions, replication_factor=3), ALL)
    assert [(move.source, move.target) for move in done.moves] == [(1, 0)]
    assert [each.sentence for each in done.blocked] == [
        "1 partition must stay at 2 replicas: 2 nodes for factor 3; add a node, or lower it"
    ]


def test_a_draining_node_is_emptied_leaders_first() -> None:
    picture = with_nodes(cluster_of(nodes_of(4), 12), NodePicture(id=1, state=MemberState.DRAINING))
    led = {partition.id for partition in picture.partitions if partition.leader == 1}
    answer = plan(picture, PlannerLimits(moves_max=0))
    assert {move.partition for move in answer.leader_moves if move.reason == "node 1 drains"} == led
    done = converge(picture)
    assert done.held()[1] == done.led()[1] == 0
    assert done.moves_of_a_partition_max() == 1


def test_a_drain_without_another_node_says_so() -> None:
    picture = with_nodes(cluster_of(nodes_of(3), 5), NodePicture(id=1, state=MemberState.DRAINING))
    (blocked,) = converge(picture, ALL).blocked
    assert blocked.sentence == "5 partitions cannot leave node 1: 2 nodes for factor 3; add a node, or lower it"


def test_replicas_in_one_rack_are_parted() -> None:
    nodes = nodes_of(6, racks=3)  # nodes 1 and 4 are in one rack, and so on
    partitions = (PartitionPicture(id=1, replicas=(1, 4, 2), leader=1),)
    (move,) = plan(ClusterPicture(nodes=nodes, partitions=partitions, replication_factor=3), ALL).moves
    assert (move.source in (1, 4), move.target in (3, 6), move.reason) == (True, True, "replicas share a rack")


def test_paused_balancing_still_repairs() -> None:
    paused = PlannerLimits(moves_max=100, is_balancing=False)
    picture = cluster_of(nodes_of(3), 30)
    assert plan(with_nodes(picture, NodePicture(id=4)), paused).moves == ()
    assert plan(with_nodes(picture, NodePicture(id=4)), ALL).moves != ()
    assert plan(with_nodes(picture, NodePicture(id=4), GONE), paused).moves != ()


def test_a_full_node_takes_nothing() -> None:
    picture = cluster_of(nodes_of(3), 6)
    picture = replace(picture, partitions=tuple(replace(each, bytes=100) for each in picture.partitions))
    full = NodePicture(id=4, memory_bytes=800, memory_bytes_max=1_000)
    assert plan(with_nodes(picture, full), ALL).moves == ()
    answer = plan(with_nodes(picture, full, GONE), ALL)
    assert [each.sentence for each in answer.blocked] == [
        "6 partitions cannot leave node 1: the other nodes have no memory left; add a node"
    ]
    some = NodePicture(id=4, memory_bytes=600, memory_bytes_max=1_000)
    assert len(plan(with_nodes(picture, some, GONE), ALL).moves) == 2


def test_leaders_follow_requests() -> None:
    """Node 1 leads the two busy partitions, so it gives one of them away; the reason tells figures."""
    nodes = nodes_of(3)
    partitions = tuple(
        PartitionPicture(id=number, replicas=(1, 2, 3), leader=leader, requests_per_s=rate)
        for number, leader, rate in ((1, 1, 900.0), (2, 1, 900.0), (3, 2, 10.0), (4, 3, 10.0))
    )
    answer = plan(ClusterPicture(nodes=nodes, partitions=partitions, replication_factor=3), ALL)
    assert answer.moves == ()
    (first, *_) = answer.leader_moves
    assert first.partition in (1, 2)
    assert first.reason.startswith("leaders: node 1 has ")


def test_what_a_node_without_weight_holds_is_moved_off() -> None:
    picture = with_nodes(cluster_of(nodes_of(4), 12), NodePicture(id=1, weight=0.0))
    done = converge(picture, ALL)
    assert done.held()[1] == 0


def test_a_moves_reason_tells_both_sides() -> None:
    picture = with_nodes(cluster_of(nodes_of(3), 30), NodePicture(id=4))
    (move, *_) = plan(picture, ALL).moves
    assert isinstance(move, Move)
    assert move.reason == f"node {move.source} has 33% more than its share, node 4 has 100% less than its share"


def test_a_plan_for_a_hundred_nodes_is_quick() -> None:
    """Aim: 200 ms for 100 nodes and 10,000 partitions; CPU time, and a margin for whatever else runs here."""
    nodes = nodes_of(100, racks=10)
    partitions = tuple(
        PartitionPicture(
            id=number,
            replicas=tuple(1 + (number * 7 + step * 33) % 100 for step in range(3)),
            leader=1 + number * 7 % 100,
            bytes=number % 97 << 18,
            requests_per_s=float(number % 89),
        )
        for number in range(1, 10_001)
    )
    picture = ClusterPicture(nodes=nodes, partitions=partitions, replication_factor=3)
    for changed in (
        picture,
        with_nodes(picture, *nodes_of(20, first=101)),
        with_nodes(picture, replace(GONE, id=50)),
        replace(picture, replication_factor=5),
        replace(picture, replication_factor=1),
    ):
        begun = time.process_time()
        plan(changed, PlannerLimits())
        assert time.process_time() - begun < 1.0
