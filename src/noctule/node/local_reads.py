"""Reads of single keys from this node's own replicas, many at once: the hot path of eventual reads."""

from noctule.base.bounds import KEY_BYTES_MAX
from noctule.base.ids import GroupId
from noctule.core.keyspace.commands import KEY_READS
from noctule.core.keyspace.keyspace import MUST_LOG
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.placement.slots import key_slot
from noctule.core.replica.replica import Replica
from noctule.node.api import READ_BYTES_MAX


def read_local_keys(
    replicas: dict[GroupId, Replica],
    slot_table: list[GroupId],
    commands: list[list[bytes] | Failure],
    start: int,
    wall_ms: int,
) -> list[Reply]:
    """As `Dialogue.read_keys`, where each slot belongs to the partition in the table."""
    replies: list[Reply] = []
    size = 0
    for position in range(start, len(commands)):
        args = commands[position]
        if not isinstance(args, list):
            break
        count = len(args)
        row = KEY_READS.get(args[0])
        if row is None or not row.count_min <= count <= row.count_max:
            break
        key = args[1]
        if len(key) > KEY_BYTES_MAX:
            break
        slot = key_slot(key)
        group = slot_table[slot]
        replica = replicas.get(group) if group else None
        if replica is None:
            break
        stamp_ms = replica.stamp_ms
        reply = replica.keyspace.read_key(row, slot, args, wall_ms if wall_ms > stamp_ms else stamp_ms)
        if reply is MUST_LOG:
            break
        replies.append(reply)
        if isinstance(reply, bytes):
            size += len(reply)
            if size > READ_BYTES_MAX:
                break
        elif reply is not None and not isinstance(reply, (int, float)):
            break
    return replies
