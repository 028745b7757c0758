"""The commands that walk over many keys or fields, in an order that follows from the keys alone.

A scan's cursor is a place and not a session: the slot in the upper bits, the position (CRC32) in the lower 32. Since
a key never changes its place, one that is present during the whole scan is met, whatever comes and goes, on whichever
replica, and across a split of the partition. Keys that share a position are returned together.
"""

from binascii import crc32
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias, TypeVar

from noctule.base.bounds import SCAN_COUNT_MAX
from noctule.core.keyspace.databases import DATABASE_SLOTS, database_prefix, membership
from noctule.core.keyspace.failures import INVALID_CURSOR, NOT_AN_INTEGER, SYNTAX, WRONG_TYPE
from noctule.core.keyspace.glob import PATTERN_BYTES_MAX, glob_matcher
from noctule.core.keyspace.keys import type_name
from noctule.core.keyspace.merging import bucket_create, bucket_list
from noctule.core.keyspace.numbers import format_score, parse_int
from noctule.core.keyspace.random_key import random_key
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.keyspace.set_value import SetValue
from noctule.core.keyspace.sorted_set_value import SortedSet
from noctule.core.keyspace.spec import NO_KEYS, ONE, READ, READ_FAST, WRITE, CommandSpec, Scope, rows
from noctule.core.keyspace.state import NOT_A_HASH, State, scan_order
from noctule.core.placement.slots import SLOT_COUNT, key_slot

POSITION_BITS = 32
"""The lower bits of a SCAN cursor; what is above them is the slot."""
SMALL_SLOT_KEYS = 256
"""A slot with more keys has its order kept between the pieces of a scan."""
PIECES_MAX = 64
"""HSCAN and ZSCAN need no more calls than this: they return more than COUNT at a time of what is large."""

_POSITIONS = 2**POSITION_BITS
_NOTHING: tuple[()] = ()
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What follows the cursor."""

    matches: Callable[[bytes], bool] | None = None
    count: int = 10
    type_wanted: bytes = b""


def keys(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """KEYS pattern, sorted."""
    return _keys(state, args, now_ms, 0, SLOT_COUNT - 1)


def dbsize(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """DBSIZE; keys that have expired count until they are purged, as in Redis."""
    return _dbsize(state, args, now_ms, 0, SLOT_COUNT - 1)


def randomkey(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """RANDOMKEY: nil without keys."""
    return _randomkey(state, args, now_ms, 0, SLOT_COUNT - 1)


def flush(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """FLUSHALL and FLUSHDB [ASYNC|SYNC]; the latter leaves the other databases as they are."""
    return _flush(state, args, 0, SLOT_COUNT - 1)


def scan(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """SCAN cursor [MATCH pattern] [COUNT count] [TYPE type] over this partition; cursor 0 after its last key."""
    return _scan(state, args, now_ms, 0, SLOT_COUNT - 1)


def read_within(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """NOCTULE.READWITHIN first last command…: KEYS, DBSIZE, RANDOMKEY, SCAN or BUCKET.LIST of these slots only."""
    return _READS[args[3].upper()](state, args[3:], now_ms, int(args[1]), int(args[2]), b"")


def write_within(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """NOCTULE.WRITEWITHIN first last command…: FLUSHALL or FLUSHDB as if there were these slots only.

    BUCKET.CREATE is about the partition that has them, and so once for each part of it.
    """
    if args[3].upper() == b"BUCKET.CREATE":
        return bucket_create(state, args[3:], now_ms)
    return _flush(state, args[3:], int(args[1]), int(args[2]))


def read_database(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """NOCTULE.READDATABASE prefix command…: KEYS, DBSIZE, RANDOMKEY or SCAN as if there were this database only.

    The prefix, which stands where a key would, is not part of the names answered.
    """
    slot = key_slot(args[1])
    return _READS[args[2].upper()](state, args[2:], now_ms, slot, slot, args[1])


def write_database(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """NOCTULE.WRITEDATABASE prefix command…: FLUSHDB as if there were this database only."""
    slot = key_slot(args[1])
    return _flush(state, args[2:], slot, slot, args[1])


def _keys(state: State, args: Sequence[bytes], now_ms: int, first: int, last: int, prefix: bytes = b"") -> Reply:
    matches = _matcher(args[1])
    if isinstance(matches, Failure):
        return matches
    names = (key[len(prefix) :] for key in filter(membership(prefix), state.live_keys(now_ms, first, last)))
    return [*sorted(filter(matches, names))]


def _buckets(state: State, args: Sequence[bytes], now_ms: int, _first: int, _last: int, _prefix: bytes = b"") -> Reply:
    return bucket_list(state, args, now_ms)


def _randomkey(state: State, _args: Sequence[bytes], now_ms: int, first: int, last: int, prefix: bytes = b"") -> Reply:
    key = random_key(state, now_ms, first, last, membership(prefix))
    return None if key is None else key[len(prefix) :]


def _dbsize(state: State, _args: Sequence[bytes], _now_ms: int, first: int, last: int, prefix: bytes = b"") -> Reply:
    if prefix:
        return _count(state, first, prefix)
    count = sum(len(values) for slot, values in state.slots.items() if first <= slot <= last)
    databases = [(slot, number) for slot, number in DATABASE_SLOTS.items() if first <= slot <= last]
    return count - sum(_count(state, slot, database_prefix(number)) for slot, number in databases)


def _count(state: State, slot: int, prefix: bytes) -> int:
    """The keys of the database that has this slot."""
    return sum(map(membership(prefix), state.slots.get(slot, _NOTHING)))


def _flush(state: State, args: Sequence[bytes], first: int, last: int, prefix: bytes = b"") -> Reply:
    if len(args) > 2 or (len(args) == 2 and args[1].upper() not in (b"ASYNC", b"SYNC")):
        return SYNTAX
    shared = [slot for slot in DATABASE_SLOTS if first <= slot <= last and slot in state.slots]
    if args[0].upper() == b"FLUSHALL" or not shared:
        state.clear_slots(first, last)
        return OK
    for slot in [slot for slot in state.slots if first <= slot <= last]:
        for key in list(filter(membership(prefix), state.slots[slot])):
            state.remove(key)
    return OK


def _scan(state: State, args: Sequence[bytes], now_ms: int, first: int, last: int, prefix: bytes = b"") -> Reply:
    """Cursor 0 after the last key of the slots from `first` to `last`.

    Looks at no more than COUNT keys (and those that share the last one's position), SCAN_COUNT_MAX at most.
    """
    cursor = parse_cursor(args[1])
    if cursor is None:
        return INVALID_CURSOR
    options = _parse_options(args, 2, knows_type=True)
    if isinstance(options, Failure):
        return options
    found, after = _collect(state, max(cursor, first << POSITION_BITS), last, options.count)
    deadlines, is_member, cut = state.deadlines, membership(prefix), len(prefix)
    live: list[Reply] = [
        key[cut:]
        for key in found
        if is_member(key)
        and (options.matches is None or options.matches(key[cut:]))
        and (key not in deadlines or deadlines[key] > now_ms)
        and (not options.type_wanted or type_name(state.get(key) or b"") == options.type_wanted)
    ]
    return [b"%d" % after, live]


def hscan(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HSCAN key cursor [MATCH pattern] [COUNT count]; fields and values in turn. The cursor is a position."""
    cursor = parse_cursor(args[2])
    if cursor is None:
        return INVALID_CURSOR
    fields = state.get(args[1])
    if fields is None or isinstance(fields, NOT_A_HASH):
        return WRONG_TYPE if fields is not None else [b"0", []]
    return _scan_items(args, cursor, fields, _as_is)


def sscan(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SSCAN key cursor [MATCH pattern] [COUNT count]. Costs what it looks at, whatever the size of the set."""
    cursor = parse_cursor(args[2])
    if cursor is None:
        return INVALID_CURSOR
    held = state.find(args[1], SetValue)
    if held is None or isinstance(held, Failure):
        return [b"0", []] if held is None else held
    options = _parse_options(args, 3, knows_type=False)
    if isinstance(options, Failure):
        return options
    found: list[bytes] = []
    after = 0
    last = None
    for position, member in held.walk(cursor):
        if len(found) >= options.count and position != last:
            after = position
            break
        found.append(member)
        last = position
    return [b"%d" % after, [member for member in found if options.matches is None or options.matches(member)]]


def zscan(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """ZSCAN key cursor [MATCH pattern] [COUNT count]; members and scores in turn, as HSCAN has fields and values."""
    cursor = parse_cursor(args[2])
    if cursor is None:
        return INVALID_CURSOR
    held = state.find(args[1], SortedSet)
    if held is None or isinstance(held, Failure):
        return [b"0", []] if held is None else held
    return _scan_items(args, cursor, held.scores, format_score)


def parse_cursor(text: bytes) -> int | None:
    """A decimal number of 64 bits without a sign, or None; no digits at all are zero, as Redis reads them."""
    if not text:
        return 0
    if not text.isdigit() or len(text) > 20:
        return None
    cursor = int(text)
    return cursor if cursor < 2**64 else None


def _scan_items(args: Sequence[bytes], cursor: int, items: Mapping[bytes, _V], shown: Callable[[_V], bytes]) -> Reply:
    """A piece of a hash or a sorted set from the cursor on."""
    options = _parse_options(args, 3, knows_type=False)
    if isinstance(options, Failure):
        return options
    piece, after = _piece_of(items, cursor, max(options.count, len(items) // PIECES_MAX))
    found: list[Reply] = []
    for name in piece:
        if options.matches is None or options.matches(name):
            found += (name, shown(items[name]))
    return [b"%d" % after, found]


def _as_is(text: bytes) -> bytes:
    return text


def _collect(state: State, cursor: int, last: int, count: int) -> tuple[list[bytes], int]:
    """The next keys from the cursor on, and the cursor after them; 0 after the last key of slot `last`."""
    found: list[bytes] = []
    first = cursor >> POSITION_BITS
    position = cursor & (2**POSITION_BITS - 1)
    for slot in range(first, last + 1):
        values = state.slots.get(slot, _NOTHING)
        if not values:
            continue
        if len(found) >= count:
            return found, slot << POSITION_BITS
        order = state.slot_order(slot) if len(values) > SMALL_SLOT_KEYS else scan_order(state.slots[slot])
        piece, after = _piece(order, position if slot == first else 0, count - len(found))
        found += piece
        if after:
            return found, slot << POSITION_BITS | after
    return found, 0


def _piece(order: list[tuple[int, bytes]], position: int, count: int) -> tuple[list[bytes], int]:
    """At least `count` names from a position on, and the position after them; 0 after the last."""
    start = bisect_left(order, (position, b""))
    end = start + count
    while 0 < end < len(order) and order[end][0] == order[end - 1][0]:
        end += 1
    return [name for _, name in islice(order, start, end)], order[end][0] if end < len(order) else 0


def _piece_of(names: Collection[bytes], position: int, count: int) -> tuple[list[bytes], int]:
    """As `_piece`, of names that nobody keeps in order: looks at all of them, and sorts about those it returns."""
    width = 2 * (count + 1) * _POSITIONS // len(names)
    while True:
        end = position + width
        order = sorted((place, name) for name in names if position <= (place := crc32(name)) < end)
        piece, after = _piece(order, position, count)
        if after or end >= _POSITIONS:
            return piece, after
        width *= 4


def _parse_options(args: Sequence[bytes], first: int, *, knows_type: bool) -> ScanOptions | Failure:
    matches: Callable[[bytes], bool] | None = None
    count, type_wanted = 10, b""
    for position in range(first, len(args), 2):
        word = args[position].upper()
        if position + 1 == len(args):
            return SYNTAX
        argument = args[position + 1]
        if word == b"COUNT":
            number = parse_int(argument)
            if number is None:
                return NOT_AN_INTEGER
            if number < 1:
                return SYNTAX
            count = min(number, SCAN_COUNT_MAX)
        elif word == b"MATCH":
            matcher = _matcher(argument)
            if isinstance(matcher, Failure):
                return matcher
            matches = matcher
        elif word == b"TYPE" and knows_type:
            type_wanted = argument.lower()
        else:
            return SYNTAX
    return ScanOptions(matches, count, type_wanted)


def _matcher(pattern: bytes) -> Callable[[bytes], bool] | Failure:
    if len(pattern) > PATTERN_BYTES_MAX:
        return Failure(b"ERR pattern exceeds PATTERN_BYTES_MAX (%d bytes)" % PATTERN_BYTES_MAX)
    return glob_matcher(pattern)


_Reader: TypeAlias = Callable[[State, Sequence[bytes], int, int, int, bytes], Reply]
"""With the first and the last slot, both inclusive, and the prefix of the database."""

_READS: dict[bytes, _Reader] = {
    b"BUCKET.LIST": _buckets,
    b"KEYS": _keys,
    b"DBSIZE": _dbsize,
    b"RANDOMKEY": _randomkey,
    b"SCAN": _scan,
}


COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("HSCAN", -3, READ, ONE, hscan, "Walks over the fields of a hash: MATCH, COUNT."),
        ("SSCAN", -3, READ, ONE, sscan, "Walks over the members of a set: MATCH, COUNT."),
        ("ZSCAN", -3, READ, ONE, zscan, "Walks over the members of a sorted set: MATCH, COUNT."),
    ),
    *rows(
        Scope.ALL,
        ("DBSIZE", 1, READ_FAST, NO_KEYS, dbsize, "How many keys there are."),
        ("FLUSHALL", -1, WRITE, NO_KEYS, flush, "Removes everything: ASYNC, SYNC."),
        ("FLUSHDB", -1, WRITE, NO_KEYS, flush, "Removes the keys of the database: ASYNC, SYNC."),
        ("KEYS", 2, READ, NO_KEYS, keys, "All keys that match a pattern."),
        ("RANDOMKEY", 1, READ, NO_KEYS, randomkey, "A key that is drawn by lot."),
        ("SCAN", -2, READ, NO_KEYS, scan, "Walks over the keys: MATCH, COUNT, TYPE."),
    ),
    *rows(
        Scope.INTERNAL,
        ("NOCTULE.READDATABASE", -3, READ, ONE, read_database, "KEYS, DBSIZE, RANDOMKEY or SCAN of one database."),
        ("NOCTULE.WRITEDATABASE", -3, WRITE, ONE, write_database, "FLUSHDB of one database."),
        (
            "NOCTULE.READWITHIN",
            -4,
            READ,
            NO_KEYS,
            read_within,
            "KEYS, DBSIZE or SCAN of some slots; BUCKET.LIST.",
        ),
        (
            "NOCTULE.WRITEWITHIN",
            -4,
            WRITE,
            NO_KEYS,
            write_within,
            "FLUSHALL or FLUSHDB of some slots; BUCKET.CREATE.",
        ),
    ),
)
"""The rows of this file."""
