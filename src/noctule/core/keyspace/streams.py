"""The commands on streams, but for those on their groups (stream_groups.py) and XREAD (stream_reads.py).

Ids come from the leader's stamp and never go back, so all replicas give the same ones. Trimming with ``~`` is exact
here, up to its LIMIT: that is what it may leave at the least, and Redis leaves up to a node of its tree more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from noctule.core.keyspace.failures import NO_SUCH_KEY, NOT_AN_INTEGER, SYNTAX, wrong_arity
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import NULL_ARRAY, OK, Failure, Reply
from noctule.core.keyspace.spec import GROW_FAST, ONE, READ, READ_FAST, WRITE, WRITE_FAST, CommandSpec, Scope, rows
from noctule.core.keyspace.state import State
from noctule.core.keyspace.stream_ids import (
    INVALID_ID,
    LARGEST_ID,
    LARGEST_PART,
    SEQUENCE_BITS,
    format_id,
    next_id,
    parse_end,
    parse_id,
    parse_start,
)
from noctule.core.keyspace.stream_value import Fields, StreamValue

TRIM_LIMIT = 10_000
"""Entries that a trim with ``~`` removes at most unless it says otherwise; Redis' default."""

NOT_ABOVE_TOP = Failure(b"ERR The ID specified in XADD is equal or smaller than the target stream top item")
EXHAUSTED = Failure(b"ERR The stream has exhausted the last possible ID, unable to add more items")


@dataclass(slots=True)
class _Options:
    """What stands before the id in XADD, and behind the key in XTRIM."""

    id_position: int = 0
    id_: int | None = None
    """None for ``*``."""
    is_sequence_given: bool = True
    make_stream: bool = True
    length_max: int | None = None
    smallest_id: int | None = None
    is_approximate: bool = False
    limit: int | None = None

    @property
    def trims(self) -> bool:
        return self.length_max is not None or self.smallest_id is not None


def xadd(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """XADD key [NOMKSTREAM] [MAXLEN|MINID [=|~] threshold [LIMIT count]] *|id|ms-* (field value)…; the id."""
    options = _parse_options(args, is_add=True)
    if isinstance(options, Failure):
        return options
    fields = tuple(args[options.id_position + 1 :])
    if not fields or len(fields) % 2:
        return wrong_arity(args[0])
    if options.id_ == 0 and options.is_sequence_given:
        return Failure(b"ERR The ID specified in XADD must be greater than 0-0")
    held = state.find(args[1], StreamValue)
    if isinstance(held, Failure):
        return held
    if held is None and not options.make_stream:
        return None
    last_id = 0 if held is None else held.last_id
    if last_id == LARGEST_ID:
        return EXHAUSTED
    id_ = options.id_
    if id_ is None:
        id_ = next_id(last_id, now_ms)
    elif not options.is_sequence_given and id_ >> SEQUENCE_BITS == last_id >> SEQUENCE_BITS:
        if last_id & LARGEST_PART == LARGEST_PART:
            return Failure(b"ERR Elements are too large to be stored")  # Redis' words for a millisecond that is full.
        id_ = last_id + 1
    if id_ <= last_id:
        return NOT_ABOVE_TOP
    stream = StreamValue() if held is None else state.change(args[1], held)
    stream.append(id_, fields)
    _trim(stream, options)
    if held is None:
        state.put(args[1], stream)
    else:
        state.changed(args[1], stream)
    return format_id(id_)


def xtrim(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XTRIM key MAXLEN|MINID [=|~] threshold [LIMIT count]; how many entries were removed."""
    options = _parse_options(args, is_add=False)
    if isinstance(options, Failure):
        return options
    held = state.find(args[1], StreamValue)
    if not isinstance(held, StreamValue):
        return held or 0
    stream = state.change(args[1], held)
    removed = _trim(stream, options)
    state.changed(args[1], stream)
    return removed


def xlen(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XLEN key."""
    held = state.find(args[1], StreamValue)
    return held if isinstance(held, Failure) else 0 if held is None else len(held)


def xrange(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XRANGE key start end [COUNT count]."""
    return _range(state, args, args[2], args[3], is_reversed=False)


def xrevrange(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XREVRANGE key end start [COUNT count]."""
    return _range(state, args, args[3], args[2], is_reversed=True)


def xdel(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XDEL key id…; how many were there."""
    held = state.find(args[1], StreamValue)
    if not isinstance(held, StreamValue):
        return held or 0
    ids = parse_ids(args[2:])
    if isinstance(ids, Failure):
        return ids
    stream = state.change(args[1], held)
    deleted = [id_ for id_ in ids if stream.delete(id_)]
    if deleted:
        stream.set_numbers(stream.last_id, max(stream.max_deleted_id, *deleted), stream.entries_added)
    state.changed(args[1], stream)
    return len(deleted)


def xsetid(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """XSETID key last-id [ENTRIESADDED count] [MAXDELETEDID id]."""
    last_id = parse_id(args[2])
    if last_id is None:
        return INVALID_ID
    given = _parse_numbers(args, last_id)
    if isinstance(given, Failure):
        return given
    entries_added, max_deleted_id = given
    held = state.find(args[1], StreamValue)
    if not isinstance(held, StreamValue):
        return held or NO_SUCH_KEY
    if held.entries:
        if last_id < (held.entries.last_id or 0):
            return Failure(b"ERR The ID specified in XSETID is smaller than the target stream top item")
        if entries_added is not None and entries_added < len(held):
            return Failure(b"ERR The entries_added specified in XSETID is smaller than the target stream length")
    stream = state.change(args[1], held)
    stream.set_numbers(
        last_id,
        max_deleted_id or stream.max_deleted_id,
        stream.entries_added if entries_added is None else entries_added,
    )
    state.changed(args[1], stream)
    return OK


def parse_ids(texts: Sequence[bytes]) -> list[int] | Failure:
    """Ids whose sequence is 0 when it is missing."""
    ids = []
    for text in texts:
        id_ = parse_id(text)
        if id_ is None:
            return INVALID_ID
        ids.append(id_)
    return ids


def entries_reply(entries: Iterable[tuple[int, Fields]]) -> list[Reply]:
    """Each entry as its id and the flat array of its fields and values."""
    return [[format_id(id_), list(fields)] for id_, fields in entries]


def _range(state: State, args: Sequence[bytes], first: bytes, last: bytes, *, is_reversed: bool) -> Reply:
    start = parse_start(first)
    if isinstance(start, Failure):
        return start
    end = parse_end(last)
    if isinstance(end, Failure):
        return end
    count: int | None = None
    for position in range(4, len(args), 2):
        if args[position].upper() != b"COUNT" or position + 1 == len(args):
            return SYNTAX
        count = parse_int(args[position + 1])
        if count is None:
            return NOT_AN_INTEGER
    held = state.find(args[1], StreamValue)
    if not isinstance(held, StreamValue):
        return held or []
    if count is not None and count <= 0:
        return NULL_ARRAY
    found = held.entries.between_reversed(start, end) if is_reversed else held.entries.between(start, end)
    return entries_reply(islice(found, count))


def _trim(stream: StreamValue, options: _Options) -> int:
    """Remove the oldest entries as far as the options say; how many."""
    excess = 0
    if options.length_max is not None:
        excess = max(len(stream) - options.length_max, 0)
    elif options.smallest_id is None:
        return 0
    limit = (options.limit if options.limit is not None else TRIM_LIMIT) if options.is_approximate else 0
    if options.smallest_id is not None:
        found = stream.entries.between(0, options.smallest_id - 1)
        ids = [id_ for id_, _ in (islice(found, limit) if limit else found)]
    else:
        ids = [id_ for id_, _ in islice(stream.entries.between(0, LARGEST_ID), min(excess, limit or excess))]
    for id_ in ids:
        stream.delete(id_)
    return len(ids)


def _parse_options(args: Sequence[bytes], *, is_add: bool) -> _Options | Failure:
    """In the order in which Redis finds what is wrong."""
    options = _Options()
    position = 2
    while position < len(args):
        word = args[position].upper()
        has_more = position + 1 < len(args)
        if is_add and word == b"*":
            break
        if word in (b"MAXLEN", b"MINID") and has_more:
            if options.trims:
                return Failure(b"ERR syntax error, MAXLEN and MINID options at the same time are not compatible")
            if args[position + 1] in (b"~", b"=") and position + 2 < len(args):
                options.is_approximate = args[position + 1] == b"~"
                position += 1
            position += 1
            problem = _parse_threshold(options, word, args[position])
        elif word == b"LIMIT" and has_more:
            position += 1
            options.limit = parse_int(args[position])
            problem = _not_below_zero(options.limit, b"LIMIT")
        elif is_add and word == b"NOMKSTREAM":
            options.make_stream = False
            problem = None
        elif is_add:
            problem = _parse_new_id(options, args[position])
            if problem is None:
                break
        else:
            return SYNTAX
        if problem is not None:
            return problem
        position += 1
    options.id_position = position
    if not options.trims:
        if options.limit:
            return Failure(b"ERR syntax error, LIMIT cannot be used without specifying a trimming strategy")
        if not is_add:
            return Failure(b"ERR syntax error, XTRIM must be called with a trimming strategy")
    if options.limit is not None and not options.is_approximate:
        return Failure(b"ERR syntax error, LIMIT cannot be used without the special ~ option")
    return options


def _parse_threshold(options: _Options, word: bytes, text: bytes) -> Failure | None:
    if word == b"MAXLEN":
        options.length_max = parse_int(text)
        return _not_below_zero(options.length_max, word)
    options.smallest_id = parse_id(text)
    return INVALID_ID if options.smallest_id is None else None


def _parse_new_id(options: _Options, text: bytes) -> Failure | None:
    """An id whose sequence may be a star."""
    if text.endswith(b"-*"):
        options.is_sequence_given = False
        text = text[:-2]
        if b"-" in text:
            return INVALID_ID
    options.id_ = parse_id(text)
    return INVALID_ID if options.id_ is None else None


def _not_below_zero(number: int | None, name: bytes) -> Failure | None:
    if number is None:
        return NOT_AN_INTEGER
    return Failure(b"ERR The %b argument must be >= 0." % name) if number < 0 else None


def _parse_numbers(args: Sequence[bytes], last_id: int) -> tuple[int | None, int] | Failure:
    """The options of XSETID: how many entries there ever were, if that is given, and the largest deleted id or 0."""
    entries_added, max_deleted_id = None, 0
    for position in range(3, len(args), 2):
        word = args[position].upper()
        if position + 1 == len(args) or word not in (b"ENTRIESADDED", b"MAXDELETEDID"):
            return SYNTAX
        if word == b"ENTRIESADDED":
            entries_added = parse_int(args[position + 1])
            if entries_added is None:
                return NOT_AN_INTEGER
            if entries_added < 0:
                return Failure(b"ERR entries_added must be positive")
        else:
            id_ = parse_id(args[position + 1])
            if id_ is None:
                return INVALID_ID
            if last_id < id_:
                return Failure(b"ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id")
            max_deleted_id = id_
    return entries_added, max_deleted_id


COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("XADD", -5, GROW_FAST, ONE, xadd, "Adds an entry to a stream: NOMKSTREAM, MAXLEN, MINID, LIMIT."),
        ("XDEL", -3, WRITE_FAST, ONE, xdel, "Removes entries of a stream."),
        ("XLEN", 2, READ_FAST, ONE, xlen, "How many entries a stream has."),
        ("XRANGE", -4, READ, ONE, xrange, "Entries of a stream from one id to another: COUNT."),
        ("XREVRANGE", -4, READ, ONE, xrevrange, "Entries of a stream from one id back to another: COUNT."),
        ("XSETID", -3, GROW_FAST, ONE, xsetid, "Sets the last id of a stream: ENTRIESADDED, MAXDELETEDID."),
        ("XTRIM", -4, WRITE, ONE, xtrim, "Removes the oldest entries of a stream: MAXLEN, MINID, LIMIT."),
    ),
)
"""The rows of this file."""
