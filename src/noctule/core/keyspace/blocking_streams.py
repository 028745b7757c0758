"""XREAD and XREADGROUP with BLOCK: what they wait for, and when a stream has it. What they then do: stream_reads.py.

Who waits behind ``$`` waits behind the id that this was when the command came. A consumer that waits is told of a group
that is gone when there is news of the stream; Redis tells it of a stream that was removed, too, and here it waits on.
"""

from collections.abc import Sequence
from functools import partial
from itertools import islice

from noctule.core.keyspace.awaited import READINESS
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.spec import MANY, NO_KEYS, READ_FAST, CommandSpec, Scope, rows
from noctule.core.keyspace.state import State, Value
from noctule.core.keyspace.stream_ids import LARGEST_ID, format_id, parse_id
from noctule.core.keyspace.stream_reads import ReadOptions, find_stream_keys, parse_read, xread, xreadgroup
from noctule.core.keyspace.stream_value import StreamValue
from noctule.core.keyspace.waits import Question, Try, Wait

_TOPS = b"NOCTULE.TOPS"
_READY_MAX = 100
"""A group's new entries are counted up to here."""


def wait_for_streams(args: list[bytes]) -> Wait | Question | None:
    """XREAD or XREADGROUP with BLOCK: once one of the streams is ready, the whole is tried.

    What is wrong, and what a consumer reads again, is answered at once.
    """
    options = parse_read(args)
    if isinstance(options, Failure) or options.block_ms is None:
        return None
    details = [_detail(options, text) for text in options.ids]
    known = [detail for detail in details if detail is not None]
    if len(known) < len(details):
        return None
    if b"$" in options.ids:
        return Question([_TOPS, *options.keys], partial(_with_tops, args))
    tries = [Try(key, args, detail) for key, detail in zip(options.keys, known, strict=True)]
    return Wait(options.block_ms, tries, StreamValue.type_name, takes=options.group is not None)


def _detail(options: ReadOptions, text: bytes) -> bytes | None:
    """What a stream must have: entries behind an id, or new ones for a group. None when that is no reason to wait."""
    if options.group is not None:
        return b">" + options.group if text == b">" else None
    return b"(" + text if text == b"$" or parse_id(text) is not None else None


def stream_readiness(value: Value | None, detail: bytes) -> int:
    """How many of those who wait for this can be served, some at the most; 1, too, where the command would fail."""
    if not isinstance(value, StreamValue):
        return int(value is not None or detail[:1] == b">")
    if detail[:1] == b"(":
        return int((value.entries.last_id or 0) > (parse_id(detail[1:]) or 0))
    group = value.groups.get(detail[1:])
    if group is None:
        return 1
    return sum(1 for _ in islice(value.entries.between(group.last_id + 1, LARGEST_ID), _READY_MAX))


def tops(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """NOCTULE.TOPS key…: the last id of each stream, which is what XREAD means by ``$``."""
    ids: list[Reply] = []
    for key in args[1:]:
        held = state.find(key, StreamValue)
        if isinstance(held, Failure):
            return held
        ids.append(format_id(0 if held is None else held.last_id))
    return ids


def _with_tops(args: list[bytes], ids: Reply) -> list[bytes] | Failure:
    """The command with ids in place of ``$``."""
    if isinstance(ids, Failure):
        return ids
    assert isinstance(ids, list)
    tops = [top for top in ids if isinstance(top, bytes)]
    first = len(args) - len(tops)
    return [*args[:first], *(top if text == b"$" else text for text, top in zip(args[first:], tops, strict=True))]


READINESS[StreamValue.type_name] = stream_readiness

_READ = (b"readonly", b"blocking", b"movablekeys")
_WRITE = (b"write", b"blocking", b"movablekeys")

COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("XREAD", -4, _READ, NO_KEYS, xread, "Entries behind an id, of several streams: COUNT, BLOCK."),
        ("XREADGROUP", -7, _WRITE, NO_KEYS, xreadgroup, "Entries for a consumer of a group: COUNT, BLOCK, NOACK."),
        find_keys=find_stream_keys,
        blocking=wait_for_streams,
    ),
    *rows(Scope.INTERNAL, ("NOCTULE.TOPS", -2, READ_FAST, MANY, tops, "The last ids of streams.")),
)
"""The rows of this file."""
