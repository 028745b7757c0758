"""The commands on strings. Handlers meet only keys that live; see keyspace.py for who sees to that."""

from collections.abc import Sequence
from dataclasses import dataclass

from noctule.base.bounds import VALUE_BYTES_MAX
from noctule.core.keyspace.failures import (
    NOT_A_FLOAT,
    NOT_AN_INTEGER,
    NOT_FINITE,
    OVERFLOW,
    STRING_TOO_LONG,
    SYNTAX,
    WRONG_TYPE,
    invalid_expire_time,
    wrong_arity,
)
from noctule.core.keyspace.numbers import (
    INT_MAX,
    INT_MIN,
    add_floats,
    format_float,
    is_infinite,
    parse_float,
    parse_int,
)
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.keyspace.spec import (
    GROW,
    GROW_FAST,
    MANY,
    ONE,
    PAIRS,
    READ,
    READ_FAST,
    WRITE_FAST,
    CommandSpec,
    Scope,
    rows,
)
from noctule.core.keyspace.state import NOT_A_STRING, State


@dataclass
class Options:
    """What follows the value in SET, and the key in GETEX."""

    unit: bytes = b""
    """EX, PX, EXAT or PXAT; empty without a deadline."""
    time: bytes = b""
    only_if: bytes = b""
    """NX or XX."""
    get: bool = False
    keep_deadline: bool = False
    persist: bool = False


def get(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """GET key."""
    value = state.get(args[1])
    return WRONG_TYPE if isinstance(value, NOT_A_STRING) else value


def set_(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """SET key value [NX|XX] [GET] [EX|PX|EXAT|PXAT time|KEEPTTL]; NX together with GET as since Redis 7.0."""
    key, value = args[1], args[2]
    if len(args) == 3:
        state.put(key, value)
        if key in state.deadlines:
            state.clear_deadline(key)
        return OK
    options = parse_options(args, 3, (b"NX", b"XX", b"GET", b"KEEPTTL"))
    if isinstance(options, Failure):
        return options
    deadline = deadline_of(b"set", options.unit, options.time, now_ms) if options.unit else None
    if isinstance(deadline, Failure):
        return deadline
    old = state.get(key)
    if options.get and isinstance(old, NOT_A_STRING):
        return WRONG_TYPE
    answer = old if options.get and isinstance(old, bytes) else None
    if (options.only_if == b"NX" and old is not None) or (options.only_if == b"XX" and old is None):
        return answer
    state.replace(key, value, state.deadlines.get(key) if options.keep_deadline else deadline)
    return answer if options.get else OK


def setnx(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SETNX key value."""
    if state.get(args[1]) is not None:
        return 0
    state.put(args[1], args[2])
    return 1


def setex(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """SETEX key seconds value; PSETEX with milliseconds."""
    unit = b"PX" if args[0][:1] in b"pP" else b"EX"
    deadline = deadline_of(args[0], unit, args[2], now_ms)
    if isinstance(deadline, Failure):
        return deadline
    state.replace(args[1], args[3], deadline)
    return OK


def getset(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """GETSET key value."""
    old = state.get(args[1])
    if isinstance(old, NOT_A_STRING):
        return WRONG_TYPE
    state.replace(args[1], args[2], None)
    return old


def getdel(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """GETDEL key."""
    old = state.get(args[1])
    if isinstance(old, NOT_A_STRING):
        return WRONG_TYPE
    if old is not None:
        state.remove(args[1])
    return old


def getex(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """GETEX key [EX|PX|EXAT|PXAT time|PERSIST]; a time in the past removes the key."""
    options = parse_options(args, 2, (b"PERSIST",))
    if isinstance(options, Failure):
        return options
    value = state.get(args[1])
    if value is None or isinstance(value, NOT_A_STRING):
        return None if value is None else WRONG_TYPE
    if options.unit:
        deadline = deadline_of(b"getex", options.unit, options.time, now_ms)
        if isinstance(deadline, Failure):
            return deadline
        if deadline <= now_ms:
            state.remove(args[1])
        else:
            state.set_deadline(args[1], deadline)
    elif options.persist:
        state.clear_deadline(args[1])
    return value


def append(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """APPEND key value."""
    old = state.get(args[1])
    if isinstance(old, NOT_A_STRING):
        return WRONG_TYPE
    value = args[2] if old is None else old + args[2]
    if len(value) > VALUE_BYTES_MAX:
        return STRING_TOO_LONG
    state.put(args[1], value)
    return len(value)


def strlen(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """STRLEN key."""
    value = state.get(args[1])
    return WRONG_TYPE if isinstance(value, NOT_A_STRING) else len(value or b"")


def getrange(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """GETRANGE and SUBSTR key start end, both inclusive; below zero they count from the end."""
    start, end = parse_int(args[2]), parse_int(args[3])
    if start is None or end is None:
        return NOT_AN_INTEGER
    value = state.get(args[1])
    if value is None or isinstance(value, NOT_A_STRING):
        return b"" if value is None else WRONG_TYPE
    if start < 0 and end < 0 and start > end:
        return b""
    first = max(start + len(value), 0) if start < 0 else start
    last = max(end + len(value), 0) if end < 0 else end
    return value[first : last + 1] if first <= last else b""


def setrange(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SETRANGE key offset value; zero bytes fill what lies before the offset."""
    offset = parse_int(args[2])
    if offset is None:
        return NOT_AN_INTEGER
    if offset < 0:
        return Failure(b"ERR offset is out of range")
    old = state.get(args[1])
    if isinstance(old, NOT_A_STRING):
        return WRONG_TYPE
    old = old or b""
    patch = args[3]
    if not patch:
        return len(old)
    if offset + len(patch) > VALUE_BYTES_MAX:
        return STRING_TOO_LONG
    value = old[:offset].ljust(offset, b"\0") + patch + old[offset + len(patch) :]
    state.put(args[1], value)
    return len(value)


def incr(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """INCR key."""
    return _increment(state, args[1], 1)


def decr(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """DECR key."""
    return _increment(state, args[1], -1)


def incrby(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """INCRBY key increment."""
    amount = parse_int(args[2])
    return NOT_AN_INTEGER if amount is None else _increment(state, args[1], amount)


def decrby(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """DECRBY key decrement."""
    amount = parse_int(args[2])
    if amount is None:
        return NOT_AN_INTEGER
    if amount == INT_MIN:
        return Failure(b"ERR decrement would overflow")
    return _increment(state, args[1], -amount)


def incrbyfloat(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """INCRBYFLOAT key increment; digits as numbers.py tells."""
    old = state.get(args[1])
    if isinstance(old, NOT_A_STRING):
        return WRONG_TYPE
    old = b"0" if old is None else old
    start, amount = parse_float(old), parse_float(args[2])
    if (start is None and not is_infinite(old)) or (amount is None and not is_infinite(args[2])):
        return NOT_A_FLOAT
    total = None if start is None or amount is None else add_floats(start, amount)
    if total is None:
        return NOT_FINITE
    text = format_float(total)
    state.put(args[1], text)
    return text


def mget(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """MGET key…; None for what is absent or not a string."""
    values = map(state.get, args[1:])
    return [value if isinstance(value, bytes) else None for value in values]


def mset(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """MSET (key value)…; atomic within a partition."""
    if len(args) % 2 == 0:
        return wrong_arity(args[0])
    for position in range(1, len(args), 2):
        state.replace(args[position], args[position + 1], None)
    return OK


def msetnx(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """MSETNX (key value)…; all or nothing."""
    if len(args) % 2 == 0:
        return wrong_arity(args[0])
    if any(state.get(key) is not None for key in args[1::2]):
        return 0
    mset(state, args, now_ms)
    return 1


def parse_options(args: Sequence[bytes], first: int, allowed: tuple[bytes, ...]) -> Options | Failure:
    """The options from position `first` on, of which `allowed` and the four deadlines are known.

    Options that exclude each other are a syntax error; a deadline given twice in one unit counts as the last.
    """
    options = Options()
    position = first
    while position < len(args):
        word = args[position].upper()
        has_deadline = options.unit or options.keep_deadline or options.persist
        if word in (b"EX", b"PX", b"EXAT", b"PXAT"):
            others = options.keep_deadline or options.persist or options.unit not in (b"", word)
            if others or position + 1 == len(args):
                return SYNTAX
            options.unit = word
            position += 1
            options.time = args[position]
        elif word not in allowed:
            return SYNTAX
        elif word == b"GET":
            options.get = True
        elif word in (b"NX", b"XX"):
            if options.only_if not in (b"", word):
                return SYNTAX
            options.only_if = word
        elif word == b"KEEPTTL":
            if has_deadline and not options.keep_deadline:
                return SYNTAX
            options.keep_deadline = True
        else:
            if has_deadline and not options.persist:
                return SYNTAX
            options.persist = True
        position += 1
    return options


def deadline_of(name: bytes, unit: bytes, time: bytes, now_ms: int) -> int | Failure:
    """The absolute time in ms that a positive number of this unit (EX, PX, EXAT, PXAT) means."""
    number = parse_int(time)
    if number is None:
        return NOT_AN_INTEGER
    deadline = number if unit in (b"PX", b"PXAT") else number * 1_000
    if unit in (b"EX", b"PX"):
        deadline += now_ms
    return invalid_expire_time(name) if number <= 0 or deadline > INT_MAX else deadline


def _increment(state: State, key: bytes, amount: int) -> Reply:
    old = state.get(key)
    if isinstance(old, NOT_A_STRING):
        return WRONG_TYPE
    start = 0 if old is None else parse_int(old)
    if start is None:
        return NOT_AN_INTEGER
    total = start + amount
    if not INT_MIN <= total <= INT_MAX:
        return OVERFLOW
    state.put(key, b"%d" % total)
    return total


COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("APPEND", 3, GROW_FAST, ONE, append, "Adds to the end of a string."),
        ("DECR", 2, GROW_FAST, ONE, decr, "Takes one from an integer."),
        ("DECRBY", 3, GROW_FAST, ONE, decrby, "Takes a number from an integer."),
        ("GET", 2, READ_FAST, ONE, get, "The string of a key."),
        ("GETDEL", 2, WRITE_FAST, ONE, getdel, "The string of a key, which is removed."),
        ("GETEX", -2, WRITE_FAST, ONE, getex, "The string of a key, whose deadline is set or taken away."),
        ("GETRANGE", 4, READ, ONE, getrange, "Part of a string."),
        ("GETSET", 3, GROW_FAST, ONE, getset, "Sets a string and answers the old one."),
        ("INCR", 2, GROW_FAST, ONE, incr, "Adds one to an integer."),
        ("INCRBY", 3, GROW_FAST, ONE, incrby, "Adds a number to an integer."),
        ("INCRBYFLOAT", 3, GROW_FAST, ONE, incrbyfloat, "Adds a number to a number."),
        ("MSETNX", -3, GROW, PAIRS, msetnx, "Sets strings if none of the keys exists."),
        ("PSETEX", 4, GROW, ONE, setex, "Sets a string that expires in milliseconds."),
        ("SET", -3, GROW, ONE, set_, "Sets a string: NX, XX, GET, EX, PX, EXAT, PXAT, KEEPTTL."),
        ("SETEX", 4, GROW, ONE, setex, "Sets a string that expires in seconds."),
        ("SETNX", 3, GROW_FAST, ONE, setnx, "Sets a string if the key does not exist."),
        ("SETRANGE", 4, GROW, ONE, setrange, "Overwrites part of a string."),
        ("STRLEN", 2, READ_FAST, ONE, strlen, "The length of a string in bytes."),
        ("SUBSTR", 4, READ, ONE, getrange, "Part of a string; the old name of GETRANGE."),
    ),
    *rows(
        Scope.SPLIT,
        ("MGET", -2, READ_FAST, MANY, mget, "The strings of keys."),
        ("MSET", -3, GROW, PAIRS, mset, "Sets strings."),
    ),
)
"""The rows of this file."""
