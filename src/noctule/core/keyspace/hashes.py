"""The commands on hashes. A hash without fields does not exist: its key is removed with the last field."""

from collections.abc import Sequence

from noctule.core.keyspace.chance import Chance
from noctule.core.keyspace.failures import (
    NOT_A_FLOAT,
    NOT_AN_INTEGER,
    NOT_FINITE,
    OVERFLOW,
    SYNTAX,
    WRONG_TYPE,
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
from noctule.core.keyspace.reply import OK, Failure, Pairs, Reply
from noctule.core.keyspace.sets import parse_draws
from noctule.core.keyspace.spec import GROW_FAST, ONE, READ, READ_FAST, WRITE_FAST, CommandSpec, Scope, rows
from noctule.core.keyspace.state import NOT_A_HASH, State

_NO_FIELDS: dict[bytes, bytes] = {}


def hset(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HSET key (field value)…; how many fields are new."""
    if len(args) % 2:
        return wrong_arity(args[0])
    fields = state.get(args[1])
    if isinstance(fields, NOT_A_HASH):
        return WRONG_TYPE
    if fields is None:
        new = dict(zip(args[2::2], args[3::2], strict=True))
        state.put(args[1], new)
        return len(new)
    return state.put_fields(args[1], fields, zip(args[2::2], args[3::2], strict=True))


def hmset(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """HMSET key (field value)…"""
    reply = hset(state, args, now_ms)
    return reply if isinstance(reply, Failure) else OK


def hsetnx(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HSETNX key field value."""
    fields = _fields(state, args[1])
    if isinstance(fields, Failure):
        return fields
    if args[2] in fields:
        return 0
    _put(state, args[1], args[2], args[3])
    return 1


def hget(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HGET key field."""
    fields = _fields(state, args[1])
    return fields if isinstance(fields, Failure) else fields.get(args[2])


def hmget(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HMGET key field…"""
    fields = _fields(state, args[1])
    return fields if isinstance(fields, Failure) else [fields.get(field) for field in args[2:]]


def hdel(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HDEL key field…; how many were there."""
    fields = _fields(state, args[1])
    if isinstance(fields, Failure):
        return fields
    return state.remove_fields(args[1], fields, args[2:]) if fields else 0


def hgetall(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HGETALL key; sorted by field, since replicas with the same fields must answer the same."""
    fields = _fields(state, args[1])
    return fields if isinstance(fields, Failure) else dict(sorted(fields.items()))


def hkeys(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HKEYS key, sorted."""
    fields = _fields(state, args[1])
    return fields if isinstance(fields, Failure) else [*sorted(fields)]


def hvals(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HVALS key, in the order of HKEYS."""
    fields = _fields(state, args[1])
    return fields if isinstance(fields, Failure) else [fields[field] for field in sorted(fields)]


def hlen(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HLEN key."""
    fields = _fields(state, args[1])
    return fields if isinstance(fields, Failure) else len(fields)


def hexists(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HEXISTS key field."""
    fields = _fields(state, args[1])
    return fields if isinstance(fields, Failure) else int(args[2] in fields)


def hstrlen(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HSTRLEN key field."""
    fields = _fields(state, args[1])
    return fields if isinstance(fields, Failure) else len(fields.get(args[2], b""))


def hrandfield(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """HRANDFIELD key [count [WITHVALUES]]: fields drawn by lot; below zero: so many, among which one may come again.

    Which ones depends on the order in which the fields came, too, but for logged transactions: replicas may answer
    different ones.
    """
    count = parse_draws(args[2]) if len(args) > 2 else 1
    if isinstance(count, Failure):
        return count
    with_values = len(args) == 4 and args[3].upper() == b"WITHVALUES"
    if len(args) > 3 and not with_values:
        return SYNTAX
    fields = _fields(state, args[1])
    if isinstance(fields, Failure):
        return fields
    if not fields:
        return None if len(args) == 2 else []
    names = sorted(fields) if state.answers_alike else list(fields)
    chance = Chance(now_ms, args[1], len(fields))
    if len(args) == 2:
        return names[chance.below(len(names))]
    if count < 0:
        drawn = [names[chance.below(len(names))] for _ in range(-count)]
    else:
        drawn = names if count >= len(names) else [names[place] for place in chance.some_of(len(names), count)]
    return Pairs([(name, fields[name]) for name in drawn]) if with_values else [*drawn]


def hincrby(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HINCRBY key field increment."""
    amount = parse_int(args[3])
    if amount is None:
        return NOT_AN_INTEGER
    fields = _fields(state, args[1])
    if isinstance(fields, Failure):
        return fields
    start = parse_int(fields.get(args[2], b"0"))
    if start is None:
        return Failure(b"ERR hash value is not an integer")
    total = start + amount
    if not INT_MIN <= total <= INT_MAX:
        return OVERFLOW
    _put(state, args[1], args[2], b"%d" % total)
    return total


def hincrbyfloat(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """HINCRBYFLOAT key field increment; digits as numbers.py tells."""
    if is_infinite(args[3]):
        return Failure(b"ERR value is NaN or Infinity")
    amount = parse_float(args[3])
    if amount is None:
        return NOT_A_FLOAT
    fields = _fields(state, args[1])
    if isinstance(fields, Failure):
        return fields
    old = fields.get(args[2], b"0")
    if is_infinite(old):
        return NOT_FINITE
    start = parse_float(old)
    if start is None:
        return Failure(b"ERR hash value is not a float")
    total = add_floats(start, amount)
    if total is None:
        return NOT_FINITE
    text = format_float(total)
    _put(state, args[1], args[2], text)
    return text


def _fields(state: State, key: bytes) -> dict[bytes, bytes] | Failure:
    """The fields, to be read; none for an absent key."""
    value = state.get(key)
    if value is None:
        return _NO_FIELDS
    return WRONG_TYPE if isinstance(value, NOT_A_HASH) else value


def _put(state: State, key: bytes, field: bytes, text: bytes) -> None:
    """Set one field of a hash that is present or not there yet."""
    fields = state.get(key)
    if isinstance(fields, dict):
        state.put_fields(key, fields, ((field, text),))
    else:
        state.put(key, {field: text})


COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("HDEL", -3, WRITE_FAST, ONE, hdel, "Removes fields of a hash."),
        ("HEXISTS", 3, READ_FAST, ONE, hexists, "Whether a hash has a field."),
        ("HGET", 3, READ_FAST, ONE, hget, "A field of a hash."),
        ("HGETALL", 2, READ, ONE, hgetall, "All fields of a hash with their values."),
        ("HINCRBY", 4, GROW_FAST, ONE, hincrby, "Adds a number to an integer field."),
        ("HINCRBYFLOAT", 4, GROW_FAST, ONE, hincrbyfloat, "Adds a number to a field."),
        ("HKEYS", 2, READ, ONE, hkeys, "All fields of a hash."),
        ("HLEN", 2, READ_FAST, ONE, hlen, "How many fields a hash has."),
        ("HMGET", -3, READ_FAST, ONE, hmget, "Some fields of a hash."),
        ("HMSET", -4, GROW_FAST, ONE, hmset, "Sets fields of a hash; the old form of HSET."),
        ("HRANDFIELD", -2, READ, ONE, hrandfield, "Fields of a hash that are drawn by lot: WITHVALUES."),
        ("HSET", -4, GROW_FAST, ONE, hset, "Sets fields of a hash."),
        ("HSETNX", 4, GROW_FAST, ONE, hsetnx, "Sets a field of a hash if it does not exist."),
        ("HSTRLEN", 3, READ_FAST, ONE, hstrlen, "The length of a field in bytes."),
        ("HVALS", 2, READ, ONE, hvals, "All values of a hash."),
    ),
)
"""The rows of this file."""
