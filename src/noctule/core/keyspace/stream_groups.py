"""The commands on the groups of a stream: who reads it together, and what each was given and has not acknowledged."""

from collections.abc import Sequence
from dataclasses import dataclass

from noctule.core.keyspace.failures import NOT_AN_INTEGER, SYNTAX, until_zero
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import NULL_ARRAY, OK, Failure, Reply
from noctule.core.keyspace.spec import GROW, NO_KEYS, ONE, READ, WRITE, WRITE_FAST, CommandSpec, Scope, rows
from noctule.core.keyspace.state import State
from noctule.core.keyspace.stream_ids import INVALID_ID, LARGEST_ID, format_id, parse_end, parse_id, parse_start
from noctule.core.keyspace.stream_value import ConsumerGroup, StreamValue
from noctule.core.keyspace.streams import parse_ids
from noctule.core.keyspace.subcommands import Dispatcher, Subcommand, key_after_subcommand, syntax_problem

_NO_STREAM = Failure(
    b"ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM "
    b"option to create an empty stream automatically."
)


@dataclass(slots=True)
class _GroupOptions:
    make_stream: bool = False
    entries_read: int | None = None


def xgroup_create(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XGROUP CREATE key group id|$ [MKSTREAM] [ENTRIESREAD count]."""
    options = _parse_options(args, can_make=True)
    if isinstance(options, Failure):
        return options
    held = state.find(args[2], StreamValue)
    if isinstance(held, Failure):
        return held
    if held is None and not options.make_stream:
        return _NO_STREAM
    if len(args) > 8:
        return syntax_problem(args)
    last_id = _group_id(args[4], held)
    if last_id is None:
        return INVALID_ID
    if held is not None and args[3] in held.groups:
        return Failure(b"BUSYGROUP Consumer Group name already exists")
    stream = StreamValue() if held is None else state.change(args[2], held)
    stream.add_group(args[3], ConsumerGroup(last_id, options.entries_read))
    if held is None:
        state.put(args[2], stream)
    else:
        state.changed(args[2], stream)
    return OK


def xgroup_setid(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XGROUP SETID key group id|$ [ENTRIESREAD count]."""
    options = _parse_options(args, can_make=False)
    if isinstance(options, Failure):
        return options
    held = _stream_with_group(state, args)
    if isinstance(held, Failure):
        return held
    if len(args) > 7:
        return syntax_problem(args)
    # Redis reads ``-`` and ``+`` here, and nowhere else where one id is asked for.
    last_id = {b"-": 0, b"+": LARGEST_ID}.get(args[4], _group_id(args[4], held))
    if last_id is None:
        return INVALID_ID
    stream = state.change(args[2], held)
    stream.set_group(stream.groups[args[3]], last_id, options.entries_read)
    state.changed(args[2], stream)
    return OK


def xgroup_destroy(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XGROUP DESTROY key group; whether it was there."""
    held = state.find(args[2], StreamValue)
    if not isinstance(held, StreamValue):
        return held or _NO_STREAM
    if args[3] not in held.groups:
        return 0
    stream = state.change(args[2], held)
    stream.drop_group(args[3])
    state.changed(args[2], stream)
    return 1


def xgroup_createconsumer(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """XGROUP CREATECONSUMER key group consumer; whether it is new."""
    held = _stream_with_group(state, args)
    if isinstance(held, Failure):
        return held
    if args[4] in held.groups[args[3]].consumers:
        return 0
    stream = state.change(args[2], held)
    stream.see(stream.groups[args[3]], args[4], now_ms)
    state.changed(args[2], stream)
    return 1


def xgroup_delconsumer(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XGROUP DELCONSUMER key group consumer; how many entries were pending with it."""
    held = _stream_with_group(state, args)
    if isinstance(held, Failure):
        return held
    if args[4] not in held.groups[args[3]].consumers:
        return 0
    stream = state.change(args[2], held)
    count = stream.drop_consumer(stream.groups[args[3]], args[4])
    state.changed(args[2], stream)
    return count


def xack(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XACK key group id…; how many were pending."""
    held = state.find(args[1], StreamValue)
    if isinstance(held, Failure):
        return held
    if held is None or args[2] not in held.groups:
        return 0
    ids = parse_ids(args[3:])
    if isinstance(ids, Failure):
        return ids
    stream = state.change(args[1], held)
    group = stream.groups[args[2]]
    count = sum(stream.release(group, id_) for id_ in ids)
    state.changed(args[1], stream)
    return count


def xpending(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """XPENDING key group [[IDLE min-idle-ms] start end count [consumer]]."""
    if len(args) != 3 and not 6 <= len(args) <= 9:
        return SYNTAX
    query = _parse_pending(args) if len(args) > 3 else None
    if isinstance(query, Failure):
        return query
    held = state.find(args[1], StreamValue)
    if isinstance(held, Failure):
        return held
    if held is None or args[2] not in held.groups:
        return no_group(args)
    group = held.groups[args[2]]
    return _summary(group) if query is None else query.answer(group, now_ms)


@dataclass(frozen=True, slots=True)
class _PendingQuery:
    start: int
    end: int
    count: int
    idle_ms_min: int
    consumer: bytes | None

    def answer(self, group: ConsumerGroup, now_ms: int) -> list[Reply]:
        if self.consumer is None:
            found = (
                (id_, name, group.consumers[name].pending.get(id_))
                for id_, name in group.pending.between(self.start, self.end)
            )
        else:
            if self.consumer not in group.consumers:
                return []
            own = group.consumers[self.consumer].pending
            found = ((id_, self.consumer, pending) for id_, pending in own.between(self.start, self.end))
        replies: list[Reply] = []
        for id_, name, pending in found:
            if len(replies) == self.count:
                break
            assert pending is not None
            idle_ms = max(now_ms - pending.given_ms, 0)
            if idle_ms >= self.idle_ms_min:
                replies.append([format_id(id_), name, idle_ms, pending.times])
        return replies


def no_group(args: Sequence[bytes]) -> Failure:
    """For a command whose first two arguments are a key and a group that are not there."""
    return Failure(b"NOGROUP No such key '%b' or consumer group '%b'" % (until_zero(args[1]), until_zero(args[2])))


def _summary(group: ConsumerGroup) -> Reply:
    if not group.pending:
        return [0, None, None, NULL_ARRAY]
    consumers: list[Reply] = [
        [name, b"%d" % len(consumer.pending)] for name, consumer in sorted(group.consumers.items()) if consumer.pending
    ]
    first, last = group.pending.first_id or 0, group.pending.last_id or 0
    return [len(group.pending), format_id(first), format_id(last), consumers]


def _parse_pending(args: Sequence[bytes]) -> _PendingQuery | Failure:
    position, idle_ms = 3, 0
    if args[3].upper() == b"IDLE":
        minimum = parse_int(args[4])
        if minimum is None:
            return NOT_AN_INTEGER
        if len(args) < 8:
            return SYNTAX
        position, idle_ms = 5, minimum
    count = parse_int(args[position + 2])
    if count is None:
        return NOT_AN_INTEGER
    start = parse_start(args[position])
    if isinstance(start, Failure):
        return start
    end = parse_end(args[position + 1])
    if isinstance(end, Failure):
        return end
    consumer = args[position + 3] if position + 3 < len(args) else None
    return _PendingQuery(start, end, max(count, 0), idle_ms, consumer)


def _stream_with_group(state: State, args: Sequence[bytes]) -> StreamValue | Failure:
    """The stream of an XGROUP subcommand whose group must be there."""
    held = state.find(args[2], StreamValue)
    if not isinstance(held, StreamValue):
        return held or _NO_STREAM
    if args[3] not in held.groups:
        return Failure(
            b"NOGROUP No such consumer group '%b' for key name '%b'" % (until_zero(args[3]), until_zero(args[2]))
        )
    return held


def _group_id(text: bytes, held: StreamValue | None) -> int | None:
    if text == b"$":
        return 0 if held is None else held.last_id
    return parse_id(text)


def _parse_options(args: Sequence[bytes], *, can_make: bool) -> _GroupOptions | Failure:
    options = _GroupOptions()
    position = 5
    while position < len(args):
        word = args[position].upper()
        if can_make and word == b"MKSTREAM":
            options.make_stream = True
            position += 1
        elif word == b"ENTRIESREAD" and position + 1 < len(args):
            count = parse_int(args[position + 1])
            if count is None:
                return NOT_AN_INTEGER
            if count < -1:
                return Failure(b"ERR value for ENTRIESREAD must be positive or -1")
            options.entries_read = None if count < 0 else count
            position += 2
        else:
            return syntax_problem(args)
    return options


_XGROUP = Dispatcher(
    b"XGROUP",
    {
        b"CREATE": Subcommand(-5, xgroup_create, GROW),
        b"CREATECONSUMER": Subcommand(5, xgroup_createconsumer, GROW),
        b"DELCONSUMER": Subcommand(5, xgroup_delconsumer, WRITE),
        b"DESTROY": Subcommand(4, xgroup_destroy, WRITE),
        b"SETID": Subcommand(-5, xgroup_setid, WRITE),
    },
    (
        "CREATE <key> <groupname> <id|$> [option]",
        "    Create a new consumer group. Options are:",
        "    * MKSTREAM",
        "      Create the empty stream if it does not exist.",
        "    * ENTRIESREAD entries_read",
        "      Set the group's entries_read counter (internal use).",
        "CREATECONSUMER <key> <groupname> <consumer>",
        "    Create a new consumer in the specified group.",
        "DELCONSUMER <key> <groupname> <consumer>",
        "    Remove the specified consumer.",
        "DESTROY <key> <groupname>",
        "    Remove the specified group.",
        "SETID <key> <groupname> <id|$> [ENTRIESREAD entries_read]",
        "    Set the current group ID and entries_read counter.",
    ),
)

COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("XACK", -4, WRITE_FAST, ONE, xack, "Takes entries as done that were given to a group."),
        ("XPENDING", -3, READ, ONE, xpending, "What a group was given and has not acknowledged: IDLE."),
    ),
    *rows(
        Scope.KEY,
        (
            "XGROUP",
            -2,
            GROW,
            NO_KEYS,
            _XGROUP,
            "Groups of a stream: CREATE, SETID, DESTROY, CREATECONSUMER, DELCONSUMER.",
        ),
        find_keys=key_after_subcommand,
    ),
)
"""The rows of this file."""
