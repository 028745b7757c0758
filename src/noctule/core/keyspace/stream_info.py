"""XINFO: what a stream, its groups and their consumers look like. Times are the leader's; a stream has no radix tree
here, so what Redis says of that is only about as large as there."""

from collections.abc import Sequence
from itertools import islice

from noctule.core.keyspace.failures import NO_SUCH_KEY, NOT_AN_INTEGER, until_zero
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.spec import NO_KEYS, READ, CommandSpec, Scope, rows
from noctule.core.keyspace.state import State
from noctule.core.keyspace.stream_ids import LARGEST_ID, format_id
from noctule.core.keyspace.stream_lag import lag
from noctule.core.keyspace.stream_value import Consumer, ConsumerGroup, StreamValue
from noctule.core.keyspace.streams import entries_reply
from noctule.core.keyspace.subcommands import Dispatcher, Subcommand, key_after_subcommand, syntax_problem

_ENTRIES_OF_A_NODE = 100
_FULL_COUNT = 10
"""Entries that FULL shows of each kind unless it says how many; 0 means all."""


def xinfo_stream(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XINFO STREAM key [FULL [COUNT count]]."""
    held = _find(state, args)
    if isinstance(held, Failure):
        return held
    if len(args) > 3:
        return _full(held, args)
    first = entries_reply(islice(held.entries.between(0, LARGEST_ID), 1))
    last = entries_reply(islice(held.entries.between_reversed(0, LARGEST_ID), 1))
    return {
        **_numbers(held),
        b"groups": len(held.groups),
        b"first-entry": first[0] if first else None,
        b"last-entry": last[0] if last else None,
    }


def xinfo_groups(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XINFO GROUPS key."""
    held = _find(state, args)
    if isinstance(held, Failure):
        return held
    return [
        {
            b"name": name,
            b"consumers": len(group.consumers),
            b"pending": len(group.pending),
            b"last-delivered-id": format_id(group.last_id),
            b"entries-read": group.entries_read,
            b"lag": lag(held, group),
        }
        for name, group in sorted(held.groups.items())
    ]


def xinfo_consumers(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """XINFO CONSUMERS key group."""
    held = _find(state, args)
    if isinstance(held, Failure):
        return held
    group = held.groups.get(args[3])
    if group is None:
        return Failure(
            b"NOGROUP No such consumer group '%b' for key name '%b'" % (until_zero(args[3]), until_zero(args[2]))
        )
    return [
        {b"name": name, b"pending": len(consumer.pending), b"idle": max(now_ms - consumer.seen_ms, 0)}
        for name, consumer in sorted(group.consumers.items())
    ]


def _find(state: State, args: Sequence[bytes]) -> StreamValue | Failure:
    held = state.find(args[2], StreamValue)
    return NO_SUCH_KEY if held is None else held


def _numbers(held: StreamValue) -> dict[bytes, Reply]:
    nodes = -(-len(held) // _ENTRIES_OF_A_NODE)
    return {
        b"length": len(held),
        b"radix-tree-keys": nodes,
        b"radix-tree-nodes": nodes + 1,
        b"last-generated-id": format_id(held.last_id),
        b"max-deleted-entry-id": format_id(held.max_deleted_id),
        b"entries-added": held.entries_added,
        b"recorded-first-entry-id": format_id(held.first_id),
    }


def _full(held: StreamValue, args: Sequence[bytes]) -> Reply:
    if len(args) not in (4, 6) or args[3].upper() != b"FULL":
        return syntax_problem(args)
    count: int | None = _FULL_COUNT
    if len(args) == 6:
        if args[4].upper() != b"COUNT":
            return syntax_problem(args)
        count = parse_int(args[5])
        if count is None:
            return NOT_AN_INTEGER
        count = _FULL_COUNT if count < 0 else count or None
    groups: list[Reply] = [_full_group(held, name, group, count) for name, group in sorted(held.groups.items())]
    return {
        **_numbers(held),
        b"entries": entries_reply(islice(held.entries.between(0, LARGEST_ID), count)),
        b"groups": groups,
    }


def _full_group(held: StreamValue, name: bytes, group: ConsumerGroup, count: int | None) -> Reply:
    pending: list[Reply] = []
    for id_, consumer_name in islice(group.pending.between(0, LARGEST_ID), count):
        given = group.consumers[consumer_name].pending.get(id_)
        assert given is not None
        pending.append([format_id(id_), consumer_name, *given])
    consumers: list[Reply] = [
        _full_consumer(name, consumer, count) for name, consumer in sorted(group.consumers.items())
    ]
    return {
        b"name": name,
        b"last-delivered-id": format_id(group.last_id),
        b"entries-read": group.entries_read,
        b"lag": lag(held, group),
        b"pel-count": len(group.pending),
        b"pending": pending,
        b"consumers": consumers,
    }


def _full_consumer(name: bytes, consumer: Consumer, count: int | None) -> Reply:
    pending: list[Reply] = [
        [format_id(id_), *given] for id_, given in islice(consumer.pending.between(0, LARGEST_ID), count)
    ]
    return {
        b"name": name,
        b"seen-time": consumer.seen_ms,
        b"pel-count": len(consumer.pending),
        b"pending": pending,
    }


_XINFO = Dispatcher(
    b"XINFO",
    {
        b"CONSUMERS": Subcommand(4, xinfo_consumers),
        b"GROUPS": Subcommand(3, xinfo_groups),
        b"STREAM": Subcommand(-3, xinfo_stream),
    },
    (
        "CONSUMERS <key> <groupname>",
        "    Show consumers of <groupname>.",
        "GROUPS <key>",
        "    Show the stream consumer groups.",
        "STREAM <key> [FULL [COUNT <count>]",
        "    Show information about the stream.",
    ),
)

COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("XINFO", -2, READ, NO_KEYS, _XINFO, "About a stream: STREAM, GROUPS, CONSUMERS."),
        find_keys=key_after_subcommand,
    ),
)
"""The rows of this file."""
