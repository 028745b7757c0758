"""The map's own check sees what no command may ever make of it."""

import pytest

from noctule.base.errors import InternalError
from noctule.base.ids import GroupId
from noctule.core.placement.partition_map import Partition, PartitionMap
from noctule.core.placement.slots import SLOT_COUNT

MIDDLE = SLOT_COUNT // 2


def partition(number: int, first_slot: int, last_slot: int) -> Partition:
    return Partition(id=number, first_slot=first_slot, last_slot=last_slot, replicas=(1, 2, 3), epoch=number)


def test_a_map_whose_partitions_share_all_slots_is_sound_in_any_order() -> None:
    halves = [partition(2, MIDDLE, SLOT_COUNT - 1), partition(1, 0, MIDDLE - 1), partition(3, 1, 0)]
    PartitionMap(halves).check()
    PartitionMap().check()


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        (partition(2, MIDDLE - 1, SLOT_COUNT - 1), "a slot belongs to one partition"),
        (partition(2, MIDDLE + 1, SLOT_COUNT - 1), "every slot belongs to a partition"),
        (partition(2, MIDDLE, SLOT_COUNT - 2), "every slot belongs to a partition"),
    ],
)
def test_overlaps_and_gaps_are_seen(second: Partition, sentence: str) -> None:
    with pytest.raises(InternalError, match=sentence):
        PartitionMap([partition(1, 0, MIDDLE - 1), second]).check()


def test_a_table_that_is_not_that_of_the_partitions_is_seen() -> None:
    followed = PartitionMap([partition(1, 0, SLOT_COUNT - 1)])
    followed.slot_table[7] = GroupId(2)
    with pytest.raises(InternalError, match="the table of slots is true"):
        followed.check()
