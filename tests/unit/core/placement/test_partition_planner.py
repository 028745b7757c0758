"""The facade: what a new cluster gets, who has what, what would be moved, what an operator may ask for."""

import pytest

from noctule.base.errors import RequestError
from noctule.core.placement.partition_map import PartitionMap
from noctule.core.placement.partition_planner import PartitionPlanner
from noctule.core.placement.picture import NodePicture, PartitionPicture, PlannerLimits
from noctule.core.roster.members import MemberState
from tests.unit.core.placement.clusters import nodes_of


def manager_of(partition_count: int = 12, node_count: int = 3) -> PartitionPlanner:
    empty = PartitionPlanner(PartitionMap(), 3)
    partitions = PartitionMap(empty.allocate_partitions(nodes_of(node_count), partition_count))
    partitions.check()
    return PartitionPlanner(partitions, 3)


def test_a_new_cluster_covers_every_slot_and_begins_with_its_voters() -> None:
    partitions = PartitionPlanner(PartitionMap(), 3).allocate_partitions(nodes_of(5), 7)
    PartitionMap(partitions).check()
    assert [partition.id for partition in partitions] == [1, 2, 3, 4, 5, 6, 7]
    assert all(partition.initial == partition.replicas and len(partition.replicas) == 3 for partition in partitions)


def test_assignments_are_the_maps() -> None:
    assignments = manager_of().partition_assignments()
    assert set(assignments) == set(range(1, 13))
    assert all(set(nodes) == {1, 2, 3} for nodes in assignments.values())


def test_rebalancing_asks_the_planner_with_what_was_reported() -> None:
    manager = manager_of()
    limits = PlannerLimits(moves_max=100)
    plan = manager.rebalance_partitions(nodes_of(4), {}, limits=limits)
    assert {move.target for move in plan.moves} == {4}
    busy = {number: PartitionPicture(id=number, replicas=(), has_operation=True) for number in range(1, 13)}
    assert manager.rebalance_partitions(nodes_of(4), busy, limits=limits).moves == ()
    assert len(manager.rebalance_partitions(nodes_of(4), {}, running=plan.moves[:2]).moves) == 1


def test_what_cannot_be_allocated_or_moved_is_refused_with_the_reason() -> None:
    manager = manager_of()
    with pytest.raises(RequestError, match="already"):
        manager.allocate_partitions(nodes_of(3), 4)
    for count in (0, 16_385):
        with pytest.raises(RequestError, match="between 1 and 16384"):
            PartitionPlanner(PartitionMap(), 3).allocate_partitions(nodes_of(3), count)
    assert manager.migrate_partition(1, 2, NodePicture(id=4)).target == 4
    for partition, source, target, words in (
        (99, 1, NodePicture(id=4), "no partition 99"),
        (1, 9, NodePicture(id=4), "no replica on node 9"),
        (1, 1, NodePicture(id=2), "already"),
        (1, 1, NodePicture(id=4, is_alive=False), "active and alive"),
        (1, 1, NodePicture(id=4, state=MemberState.DRAINING), "active and alive"),
    ):
        with pytest.raises(RequestError, match=words):
            manager.migrate_partition(partition, source, target)
