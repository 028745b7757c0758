"""Where the keys are, and changing that: the client's calls under the names of a partition manager."""

from noctule.base.errors import RequestError
from noctule.client.admin import AdminClient
from noctule.client.pictures import RebalanceBegun
from noctule.core.meta.views import OperationView
from noctule.core.placement.partition_map import Partition, PartitionMap
from noctule.core.placement.partition_planner import PartitionPlanner
from noctule.core.placement.picture import NodePicture, Plan


class PartitionManager:
    """Over the client of a running cluster, which the caller opens and closes; errors are the client's."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    @staticmethod
    def allocate_partitions(node_count: int, partition_count: int = 16, replication_factor: int = 3) -> list[Partition]:
        """How a new cluster of so many equal nodes lays out its partitions; a cluster does this when it is formed.

        Raises `RequestError` for counts that cannot be.
        """
        nodes = [NodePicture(id=node) for node in range(1, node_count + 1)]
        return PartitionPlanner(PartitionMap(), replication_factor).allocate_partitions(nodes, partition_count)

    async def get_partition_assignments(self) -> dict[int, tuple[int, ...]]:
        """By partition the nodes that hold it, the preferred leader first."""
        found = await self._client.partitions()
        return {each.id: tuple(replica.node for replica in each.replicas) for each in found}

    async def plan_rebalance(self) -> Plan:
        """What `rebalance_partitions` would begin with, and all that would follow."""
        return await self._client.plan()

    async def rebalance_partitions(self) -> RebalanceBegun:
        """Begin to spread replicas and leaders evenly, as much as may be on its way at one time."""
        return await self._client.rebalance()

    async def migrate_partition(self, partition: int, target: int, source: int = 0) -> OperationView:
        """Begin to move a replica to `target`; without a source the one goes that would lead last."""
        if not source:
            replicas = (await self._client.partition(partition)).replicas
            if not replicas:
                raise RequestError(f"partition {partition} has no replica that could be moved")
            source = replicas[-1].node
        return await self._client.migrate(partition, source, target)

    async def split(self, partition: int, at_slot: int | None = None) -> OperationView:
        """Begin to divide it, where its keys halve unless `at_slot` says where."""
        return await self._client.split(partition, at_slot)

    async def merge(self, partition: int) -> OperationView:
        """Begin to merge it with its right neighbour."""
        return await self._client.merge(partition)
