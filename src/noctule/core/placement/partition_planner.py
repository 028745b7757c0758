"""The partition planner: map, placement and planner behind four questions. It decides; nothing here carries out.

What it answers is asked of *meta* as operations by whoever has it; what runs is told in `core.migration`. The states
of a partition are those of `PartitionState`.
"""

from collections.abc import Iterable, Mapping, Sequence

from noctule.base.errors import RequestError
from noctule.base.ids import GroupId
from noctule.core.placement.domains import Site
from noctule.core.placement.partition_map import Partition, PartitionMap
from noctule.core.placement.picture import (
    ClusterPicture,
    Move,
    NodePicture,
    PartitionPicture,
    Plan,
    PlannerLimits,
    is_living,
)
from noctule.core.placement.planner import plan
from noctule.core.placement.replicas import place_replicas
from noctule.core.placement.slots import SLOT_COUNT, slot_range
from noctule.core.roster.members import MemberState


class PartitionPlanner:
    """Looks at a map, which others change, and at nodes as they are handed in."""

    def __init__(self, partitions: PartitionMap, replication_factor: int) -> None:
        self._map = partitions
        self._factor = replication_factor

    def allocate_partitions(self, sites: Sequence[Site], partition_count: int) -> list[Partition]:
        """The partitions of a new cluster of these nodes, in slot order, with ids from 1 on and all slots covered.

        `RequestError` when there are partitions already, when the count is not 1…16,384, or when no node has a weight.
        """
        if len(self._map):
            raise RequestError(f"there are {len(self._map)} partitions already; split or merge them instead")
        if not 1 <= partition_count <= SLOT_COUNT:
            raise RequestError(f"{partition_count} partitions were asked for; it must be between 1 and {SLOT_COUNT}")
        ids = [GroupId(number) for number in range(1, partition_count + 1)]
        placed = place_replicas(ids, sites, self._factor)
        ranges = [slot_range(group, partition_count) for group in ids]
        return [
            Partition(id=group, first_slot=first, last_slot=last, replicas=replicas, initial=replicas)
            for group, (first, last), replicas in zip(ids, ranges, placed, strict=True)
        ]

    def rebalance_partitions(
        self,
        nodes: Iterable[NodePicture],
        loads: Mapping[int, PartitionPicture],
        *,
        running: Iterable[Move] = (),
        limits: PlannerLimits | None = None,
    ) -> Plan:
        """What to move next. `loads` has what was reported of partitions, by id; replicas and state are the map's."""
        return plan(self._picture(nodes, loads, running), limits or PlannerLimits())

    def migrate_partition(self, partition: int, source: int, target: NodePicture) -> Move:
        """The move of one replica that an operator asks for. `RequestError`, with the reason, when it does not fit."""
        found = self._map.get(partition)
        if found is None:
            raise RequestError(f"there is no partition {partition}")
        if source not in found.replicas:
            raise RequestError(
                f"partition {partition} has no replica on node {source}; it has them on {found.replicas}"
            )
        if target.id in found.replicas:
            raise RequestError(f"partition {partition} has a replica on node {target.id} already")
        if not is_living(target) or target.state is not MemberState.ACTIVE:
            raise RequestError(f"node {target.id} cannot take a replica: it must be active and alive")
        return Move(partition=partition, source=source, target=target.id, reason="asked for by an operator")

    def partition_assignments(self) -> dict[int, tuple[int, ...]]:
        """By partition the nodes that hold it, the preferred leader first."""
        return {partition.id: partition.replicas for partition in self._map}

    def _picture(
        self, nodes: Iterable[NodePicture], loads: Mapping[int, PartitionPicture], running: Iterable[Move]
    ) -> ClusterPicture:
        return ClusterPicture(
            nodes=tuple(nodes),
            partitions=tuple(_with_load(partition, loads.get(partition.id)) for partition in self._map),
            replication_factor=self._factor,
            running=tuple(running),
        )


def _with_load(partition: Partition, load: PartitionPicture | None) -> PartitionPicture:
    if load is None:
        load = PartitionPicture(id=partition.id, replicas=partition.replicas)
    return PartitionPicture(
        id=partition.id,
        replicas=partition.replicas,
        leader=load.leader,
        bytes=load.bytes,
        keys=load.keys,
        requests_per_s=load.requests_per_s,
        state=partition.state,
        has_operation=load.has_operation,
    )
