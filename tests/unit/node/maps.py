"""Maps for tests that need some map and do not care which."""

from noctule.base.ids import GroupId
from noctule.core.placement.partition_map import Partition, PartitionMap
from noctule.core.placement.slots import slot_range


def even_map(partition_count: int, replicas: tuple[int, ...] = ()) -> PartitionMap:
    """Partitions 1 to `partition_count` of nearly equal size, each held by the same nodes."""
    groups = [GroupId(number) for number in range(1, partition_count + 1)]
    return PartitionMap(Partition(group, *slot_range(group, partition_count), replicas) for group in groups)
