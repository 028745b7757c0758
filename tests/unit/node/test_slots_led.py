"""Which slots a node leads, as elections and the map change."""

from hypothesis import given
from hypothesis import strategies as st

from noctule.base.ids import META_GROUP, GroupId
from noctule.core.placement.partition_map import Partition, PartitionMap
from noctule.core.placement.slots import SLOT_COUNT, slot_range
from noctule.node.slots_led import SlotsLed


def partition(number: int, first: int, last: int) -> Partition:
    return Partition(number, first, last, (1, 2, 3))


def halves() -> PartitionMap:
    return PartitionMap([partition(1, 0, 8_191), partition(2, 8_192, SLOT_COUNT - 1)])


def test_what_is_led_is_known_slot_by_slot() -> None:
    led = SlotsLed(halves())
    assert led.runs() == []
    led.change(GroupId(2), is_led=True)
    assert (led.flags[8_191], led.flags[8_192]) == (0, 1)
    assert led.runs() == [(8_192, SLOT_COUNT - 1)]
    led.change(GroupId(1), is_led=True)
    assert led.runs() == [(0, SLOT_COUNT - 1)]
    led.change(GroupId(2), is_led=False)
    assert led.runs() == [(0, 8_191)]


def test_meta_has_no_slots() -> None:
    led = SlotsLed(halves())
    led.change(META_GROUP, is_led=True)
    assert led.runs() == []


def test_a_split_child_is_led_before_or_after_the_map_knows_it() -> None:
    """A replica may be elected by the log of its parent, which runs ahead of the map here."""
    partitions = halves()
    led = SlotsLed(partitions)
    led.change(GroupId(3), is_led=True)
    assert led.runs() == []
    partitions.put(partition(1, 0, 99))
    partitions.put(partition(3, 100, 8_191))
    led.map_changed()
    assert led.runs() == [(100, 8_191)]


def test_a_node_whose_disk_failed_leads_nothing_whatever_is_heard_later() -> None:
    led = SlotsLed(halves())
    led.change(GroupId(1), is_led=True)
    led.close()
    led.change(GroupId(2), is_led=True)
    led.map_changed()
    assert led.runs() == []


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=60))
def test_the_flags_are_those_of_the_groups_led_last(count: int, changes: list[tuple[int, bool]]) -> None:
    partitions = PartitionMap([partition(each, *slot_range(GroupId(each), count)) for each in range(1, count + 1)])
    led, wanted = SlotsLed(partitions), set()
    for group, is_led in changes:
        led.change(GroupId(group), is_led=is_led)
        (wanted.add if is_led else wanted.discard)(group)
    flags = bytearray(int(group in wanted) for group in partitions.slot_table)
    assert led.flags == flags
    led.map_changed()
    assert led.flags == flags
    assert [slot for first, last in led.runs() for slot in range(first, last + 1)] == [
        slot for slot, flag in enumerate(flags) if flag
    ]
    assert all(before[1] + 1 < after[0] for before, after in zip(led.runs(), led.runs()[1:], strict=False))
