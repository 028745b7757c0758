"""Commands over several partitions: which partition gets what, and one reply out of the replies. Pure.

Each part is a command of its own partition; of one on all keys, it says which slots it is about. A command over
several partitions is atomic in each of them and not across; those that promise more (MSETNX, RENAME, COPY) are
refused as in Redis Cluster.
"""

from binascii import crc32
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from noctule.base.ids import GroupId
from noctule.core.keyspace.failures import CROSS_SLOT, INVALID_CURSOR, wrong_arity
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.keyspace.scan import POSITION_BITS, parse_cursor
from noctule.core.keyspace.spec import CommandSpec, Scope
from noctule.core.keyspace.within import within
from noctule.core.placement.slots import SLOT_COUNT, key_slot

_Merge = Callable[[list[Reply]], Reply]
_Part = TypeVar("_Part")


@dataclass(frozen=True, slots=True)
class FanOut:
    """What to run where; each partition occurs once, and 0 where slots belong to none."""

    parts: list[tuple[GroupId, list[bytes]]]
    merge_replies: _Merge

    def merge(self, replies: list[Reply]) -> Reply:
        """The one reply, from the replies in the order of the parts; the first `Failure` among them wins."""
        for reply in replies:
            if isinstance(reply, Failure):
                return reply
        return self.merge_replies(replies)


def partition_of(spec: CommandSpec, args: Sequence[bytes], slot_table: Sequence[GroupId]) -> GroupId | Failure:
    """The partition of a command in scope KEY; CROSSSLOT for keys of several; without keys, any will do."""
    if spec.has_one_key:
        return slot_table[key_slot(args[1])]
    groups = {slot_table[key_slot(key)] for key in spec.keys(args)}
    if len(groups) > 1:
        return CROSS_SLOT
    return groups.pop() if groups else slot_table[0]


def fan_out(
    spec: CommandSpec,
    args: Sequence[bytes],
    slot_table: Sequence[GroupId],
    first: int = 0,
    last: int = SLOT_COUNT - 1,
) -> FanOut | Failure:
    """The parts of a command in scope SPLIT or ALL (KEY, INTERNAL: its one part), and how to merge their replies.

    In scope ALL it is about the slots from `first` to `last`, and so is each part about some of them (`within`).

    `slot_table` names the partition of each slot (`placement.slots.partition_table`). The command has passed
    `check_command`.
    """
    if spec.scope is Scope.KEY or spec.scope is Scope.INTERNAL:
        group = partition_of(spec, args, slot_table)
        return group if isinstance(group, Failure) else FanOut([(group, list(args))], _only)
    if spec.scope is Scope.SPLIT:
        return _split(spec, args, slot_table)
    if spec.name == b"SCAN":
        return _scan(spec, args, slot_table, first, last)
    parts = []
    while first <= last:
        end = _end_of_run(slot_table, first, last)
        parts.append((slot_table[first], within(spec, first, end, args)))
        first = end + 1
    return FanOut(parts, _MERGES[spec.name])


def fan_out_over(
    spec: CommandSpec, args: Sequence[bytes], slot_table: Sequence[GroupId], runs: Sequence[tuple[int, int]]
) -> FanOut | Failure:
    """As `fan_out`, of a command in scope ALL, about these slots only: ranges in ascending order, both ends inclusive.

    Without any there is no part, and `merge` of nothing is the reply.
    """
    if spec.name == b"SCAN":
        return _scan_over(spec, args, slot_table, runs)
    spreads = [fan_out(spec, args, slot_table, first, last) for first, last in runs]
    return FanOut(
        [part for spread in spreads if isinstance(spread, FanOut) for part in spread.parts], _MERGES[spec.name]
    )


def _scan_over(
    spec: CommandSpec, args: Sequence[bytes], slot_table: Sequence[GroupId], runs: Sequence[tuple[int, int]]
) -> FanOut | Failure:
    """The cursor's slot, or the next one among these; 0 once the last of them is done."""
    cursor = parse_cursor(args[1])
    if cursor is None:
        return INVALID_CURSOR
    here = next(((first, last) for first, last in runs if cursor >> POSITION_BITS <= last), None)
    if here is None:
        return FanOut([], lambda _replies: [b"0", []])
    spread = _scan(spec, args, slot_table, max(here[0], cursor >> POSITION_BITS), here[1])
    if isinstance(spread, Failure) or here[1] == SLOT_COUNT - 1:
        return spread
    end_of_all = b"%d" % (runs[-1][1] + 1 << POSITION_BITS)

    def merge(replies: list[Reply]) -> Reply:
        reply = spread.merge_replies(replies)
        match reply:
            case [cursor, found] if cursor == end_of_all:
                return [b"0", found]
        return reply

    return FanOut(spread.parts, merge)


def _end_of_run(slot_table: Sequence[GroupId], first: int, last: int) -> int:
    """The last slot, up to `last`, that the partition of slot `first` has."""
    group = slot_table[first]
    return next((slot for slot in range(first, last) if slot_table[slot + 1] != group), last)


def _split(spec: CommandSpec, args: Sequence[bytes], slot_table: Sequence[GroupId]) -> FanOut | Failure:
    step = spec.key_step
    if (len(args) - 1) % step:
        return wrong_arity(args[0])
    parts: dict[GroupId, list[bytes]] = {}
    order: list[GroupId] = []
    for position in range(1, len(args), step):
        group = slot_table[key_slot(args[position])]
        part = parts.get(group)
        if part is None:
            part = parts[group] = [args[0]]
        part += args[position : position + step]
        order.append(group)
    if len(parts) == 1:
        return FanOut(list(parts.items()), _only)
    merge = _in_order(list(parts), order) if spec.name == b"MGET" else _MERGES[spec.name]
    return FanOut(list(parts.items()), merge)


def _scan(
    spec: CommandSpec, args: Sequence[bytes], slot_table: Sequence[GroupId], first: int, last: int
) -> FanOut | Failure:
    """One partition, named by the slot in the cursor; at its end the cursor moves on to the next one's first slot."""
    cursor = parse_cursor(args[1])
    if cursor is None:
        return INVALID_CURSOR
    slot = min(max(cursor >> POSITION_BITS, first), last)
    end = _end_of_run(slot_table, slot, last)
    following = end + 1 if end + 1 < SLOT_COUNT else 0

    def merge(replies: list[Reply]) -> Reply:
        match replies:
            case [[b"0", found]]:
                return [b"%d" % (following << POSITION_BITS), found]
        return replies[0]

    return FanOut([(slot_table[slot], within(spec, slot, end, args))], merge)


def _only(replies: list[Reply]) -> Reply:
    return replies[0]


def _sum(replies: list[Reply]) -> Reply:
    return sum(reply for reply in replies if isinstance(reply, int))


def _drawn(replies: list[Reply]) -> Reply:
    """One of the keys; which one depends on all of them, and so on the time at which they were drawn."""
    found = [reply for reply in replies if isinstance(reply, bytes)]
    return found[crc32(b"".join(found)) % len(found)] if found else None


def _ok(_replies: list[Reply]) -> Reply:
    return OK


def _common(replies: list[Reply]) -> Reply:
    """What all maps agree in: a bucket that a partition does not know yet, or knows as another, is none."""
    first, *others = [reply for reply in replies if isinstance(reply, dict)]
    return {name: kind for name, kind in first.items() if all(other.get(name) == kind for other in others)}


def _concatenated(replies: list[Reply]) -> Reply:
    return [item for reply in replies if isinstance(reply, list) for item in reply]


def _in_order(groups: list[GroupId], order: list[GroupId]) -> _Merge:
    """Puts the values back into the order of the keys."""

    def merge(replies: list[Reply]) -> Reply:
        values = {group: iter(reply) for group, reply in zip(groups, replies, strict=True) if isinstance(reply, list)}
        return [next(values[group]) for group in order]

    return merge


_MERGES: dict[bytes, _Merge] = {
    b"DEL": _sum,
    b"UNLINK": _sum,
    b"EXISTS": _sum,
    b"TOUCH": _sum,
    b"BUCKET.CREATE": _ok,
    b"BUCKET.LIST": _common,
    b"DBSIZE": _sum,
    b"RANDOMKEY": _drawn,
    b"MSET": _ok,
    b"FLUSHALL": _ok,
    b"FLUSHDB": _ok,
    b"KEYS": _concatenated,
}
