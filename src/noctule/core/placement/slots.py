"""Keys to slots, slots to partitions: exactly Redis Cluster's slots, in contiguous ranges.

Source: the Redis Cluster specification, "Key distribution model" and "Hash tags".
"""

from binascii import crc_hqx
from typing import Final

from noctule.base.ids import GroupId

SLOT_COUNT: Final = 16_384
SLOT_MASK: Final = SLOT_COUNT - 1
BRACE: Final = 0x7B
"""A ``{``. A key without it is hashed as a whole. As a number it is found five times as fast as ``b"{"``."""

_crc16: Final = crc_hqx


def key_slot(key: bytes) -> int:
    """The slot of a key, 0…16383: CRC16 of the part in the first non-empty ``{…}``, or of the whole key."""
    if BRACE in key:
        start = key.index(BRACE)
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return _crc16(key, 0) & SLOT_MASK


def slot_range(group: GroupId, partition_count: int) -> tuple[int, int]:
    """The first and last slot (both inclusive) of a partition, whose ids run from 1 to `partition_count`.

    Ranges are contiguous, in order, cover every slot once, and differ by one slot in length at most.
    """
    first = (group - 1) * SLOT_COUNT // partition_count
    last = group * SLOT_COUNT // partition_count - 1
    return first, last


def partition_table(partition_count: int) -> list[GroupId]:
    """For each slot the partition that holds it; the inverse of `slot_range`."""
    table: list[GroupId] = []
    for number in range(1, partition_count + 1):
        group = GroupId(number)
        first, last = slot_range(group, partition_count)
        table.extend([group] * (last - first + 1))
    return table
