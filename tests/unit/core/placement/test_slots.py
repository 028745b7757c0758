"""Keys to slots as in the Redis Cluster specification, slots to partitions without a gap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.bounds import PARTITIONS_MAX
from noctule.base.ids import GroupId
from noctule.core.placement.slots import SLOT_COUNT, key_slot, partition_table, slot_range


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        (b"123456789", 0x31C3 % 16_384),  # The specification's own check value, "Appendix A".
        (b"123456789", 12_739),
        (b"foo", 12_182),
        (b"bar", 5_061),
        (b"hello", 866),
        (b"", 0),
    ],
)
def test_slots_are_those_of_redis(key: bytes, slot: int) -> None:
    assert key_slot(key) == slot


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"{user1000}.following", b"user1000"),
        (b"{user1000}.followers", b"user1000"),
        (b"foo{bar}{zap}", b"bar"),  # Only the first pair counts.
        (b"foo{{bar}}zap", b"{bar"),  # It ends at the first closing brace.
        (b"foo{bar", None),
        (b"foo}bar{", None),
        (b"foo{}{bar}", None),  # An empty one means the whole key, not the next one.
        (b"{}", None),
        (b"}{a}", b"a"),
    ],
)
def test_hash_tags_are_those_of_the_specification(key: bytes, hashed: bytes | None) -> None:
    """Redis Cluster specification, "Hash tags": a client that hashes otherwise asks the wrong node for ever."""
    if hashed is not None:
        assert key_slot(key) == key_slot(hashed)
        assert key_slot(key) == bitwise_slot(hashed)
    else:
        assert key_slot(key) == bitwise_slot(key)


def bitwise_slot(data: bytes) -> int:
    """CRC16/XMODEM, bit by bit, as "Appendix A" defines it: polynomial 0x1021, initial value 0."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
            crc &= 0xFFFF
    return crc % 16_384


@given(st.binary(max_size=80))
def test_every_key_has_the_slot_of_its_tag_by_the_specification_s_own_rule(key: bytes) -> None:
    start = key.find(b"{")
    end = key.find(b"}", start + 1) if start >= 0 else -1
    hashed = key[start + 1 : end] if start >= 0 and end > start + 1 else key
    assert key_slot(key) == bitwise_slot(hashed)


@given(st.integers(1, PARTITIONS_MAX))
def test_ranges_are_contiguous_complete_and_nearly_equal(count: int) -> None:
    ranges = [slot_range(GroupId(number), count) for number in range(1, count + 1)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == SLOT_COUNT - 1
    assert [first for first, _ in ranges[1:]] == [last + 1 for _, last in ranges[:-1]]
    lengths = [last - first + 1 for first, last in ranges]
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 1_000, 9_999, PARTITIONS_MAX])
def test_the_table_and_the_ranges_agree_for_every_slot(count: int) -> None:
    table = partition_table(count)
    assert len(table) == SLOT_COUNT
    for number in range(1, count + 1):
        first, last = slot_range(GroupId(number), count)
        assert table[first] == table[last] == number
    assert table == sorted(table)
    assert set(table) == set(range(1, count + 1))
