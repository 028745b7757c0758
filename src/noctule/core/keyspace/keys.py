"""The commands on keys of any type: presence, deadlines, names."""

from collections.abc import Sequence

from noctule.core.keyspace.container import Container
from noctule.core.keyspace.crdt import CrdtValue
from noctule.core.keyspace.failures import (
    NO_SUCH_KEY,
    NOT_AN_INTEGER,
    SYNTAX,
    invalid_expire_time,
    until_zero,
)
from noctule.core.keyspace.numbers import INT_MAX, INT_MIN, parse_int
from noctule.core.keyspace.reply import OK, Failure, Reply, Status
from noctule.core.keyspace.spec import (
    GROW,
    MANY,
    NO_KEYS,
    ONE,
    READ_FAST,
    TWO,
    WRITE,
    WRITE_FAST,
    CommandSpec,
    Scope,
    rows,
)
from noctule.core.keyspace.state import State, Value


def del_(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """DEL and UNLINK key…; how many were there."""
    return sum(map(state.remove, args[1:]))


def exists(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """EXISTS and TOUCH key…; a key given twice counts twice."""
    return sum(state.get(key) is not None for key in args[1:])


def type_(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """TYPE key."""
    value = state.get(args[1])
    return Status(b"none" if value is None else type_name(value))


def type_name(value: Value) -> bytes:
    """How TYPE calls it: string, hash, list, set, zset, stream, or the kind of a value that can be joined."""
    if isinstance(value, CrdtValue):
        return value.kind.encode()
    if isinstance(value, Container):
        return value.type_name
    return b"string" if isinstance(value, bytes) else b"hash"


def expire(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """EXPIRE key seconds [NX|XX|GT|LT]."""
    return _expire(state, args, 1_000, now_ms, now_ms)


def pexpire(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """PEXPIRE key milliseconds [NX|XX|GT|LT]."""
    return _expire(state, args, 1, now_ms, now_ms)


def expireat(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """EXPIREAT key unix-seconds [NX|XX|GT|LT]."""
    return _expire(state, args, 1_000, 0, now_ms)


def pexpireat(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """PEXPIREAT key unix-milliseconds [NX|XX|GT|LT]."""
    return _expire(state, args, 1, 0, now_ms)


def ttl(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """TTL key: seconds left, rounded; -1 without a deadline, -2 without the key."""
    return _time_left(state, args[1], 1_000, now_ms)


def pttl(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """PTTL key: milliseconds left."""
    return _time_left(state, args[1], 1, now_ms)


def expiretime(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """EXPIRETIME key: the deadline in unix seconds, rounded."""
    return _time_left(state, args[1], 1_000, 0)


def pexpiretime(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """PEXPIRETIME key: the deadline in unix milliseconds."""
    return _time_left(state, args[1], 1, 0)


def persist(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """PERSIST key; whether it had a deadline."""
    return int(state.clear_deadline(args[1]))


def rename(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """RENAME key newkey, with its deadline, over whatever was there."""
    value = state.get(args[1])
    if value is None:
        return NO_SUCH_KEY
    if args[1] != args[2]:
        deadline = state.deadlines.get(args[1])
        state.remove(args[1])
        state.replace(args[2], value, deadline)
    return OK


def renamenx(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """RENAMENX key newkey; nothing happens when the new key is there."""
    if state.get(args[1]) is not None and state.get(args[2]) is not None:
        return 0
    reply = rename(state, args, now_ms)
    return reply if isinstance(reply, Failure) else 1


def copy(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """COPY source destination [DB 0] [REPLACE]; there is one database."""
    replace = False
    position = 3
    while position < len(args):
        word = args[position].upper()
        if word == b"REPLACE":
            replace = True
        elif word == b"DB" and position + 1 < len(args):
            position += 1
            database = parse_int(args[position])
            if database is None:
                return NOT_AN_INTEGER
            if database != 0:
                return Failure(b"ERR DB index is out of range")
        else:
            return SYNTAX
        position += 1
    if args[1] == args[2]:
        return Failure(b"ERR source and destination objects are the same")
    value = state.get(args[1])
    if value is None or (not replace and state.get(args[2]) is not None):
        return 0
    copied = value.copy() if isinstance(value, (dict, Container)) else value
    state.replace(args[2], copied, state.deadlines.get(args[1]))
    return 1


def purge(_state: State, _args: Sequence[bytes], _now_ms: int) -> Reply:
    """NOCTULE.PURGE key…: removes those that have expired by the leader's stamp.

    There is nothing left to do here: every command's expired keys are removed before its handler runs.
    """
    return OK


def digest(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """NOCTULE.DIGEST nonce: the replica that applies it digests the state behind this batch; no data changes."""
    state.digests_asked.append(args[1])
    return OK


def _expire(state: State, args: Sequence[bytes], unit_ms: int, base_ms: int, now_ms: int) -> Reply:
    condition = _expire_condition(args[3:])
    if isinstance(condition, Failure):
        return condition
    number = parse_int(args[2])
    if number is None:
        return NOT_AN_INTEGER
    deadline = number * unit_ms
    if not INT_MIN <= deadline <= INT_MAX - base_ms:
        return invalid_expire_time(args[0])
    deadline += base_ms
    key = args[1]
    if state.get(key) is None:
        return 0
    old = state.deadlines.get(key)
    if (
        (b"NX" in condition and old is not None)
        or (b"XX" in condition and old is None)
        or (b"GT" in condition and (old is None or deadline <= old))
        or (b"LT" in condition and old is not None and deadline >= old)
    ):
        return 0
    if deadline <= now_ms:
        state.remove(key)
    else:
        state.set_deadline(key, deadline)
    return 1


def _expire_condition(words: Sequence[bytes]) -> set[bytes] | Failure:
    condition: set[bytes] = set()
    for word in words:
        if word.upper() not in (b"NX", b"XX", b"GT", b"LT"):
            return Failure(b"ERR Unsupported option %b" % until_zero(word))
        condition.add(word.upper())
    if b"NX" in condition and len(condition) > 1:
        return Failure(b"ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= condition:
        return Failure(b"ERR GT and LT options at the same time are not compatible")
    return condition


def _time_left(state: State, key: bytes, unit_ms: int, base_ms: int) -> int:
    if state.get(key) is None:
        return -2
    deadline = state.deadlines.get(key)
    return -1 if deadline is None else (deadline - base_ms + unit_ms // 2) // unit_ms


COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("COPY", -3, GROW, TWO, copy, "Copies a key with its deadline: REPLACE."),
        ("EXPIRE", -3, WRITE_FAST, ONE, expire, "Lets a key expire in seconds: NX, XX, GT, LT."),
        ("EXPIREAT", -3, WRITE_FAST, ONE, expireat, "Lets a key expire at a unix time in seconds."),
        ("EXPIRETIME", 2, READ_FAST, ONE, expiretime, "When a key expires, in unix seconds."),
        ("PERSIST", 2, WRITE_FAST, ONE, persist, "Takes a key's deadline away."),
        ("PEXPIRE", -3, WRITE_FAST, ONE, pexpire, "Lets a key expire in milliseconds: NX, XX, GT, LT."),
        ("PEXPIREAT", -3, WRITE_FAST, ONE, pexpireat, "Lets a key expire at a unix time in milliseconds."),
        ("PEXPIRETIME", 2, READ_FAST, ONE, pexpiretime, "When a key expires, in unix milliseconds."),
        ("PTTL", 2, READ_FAST, ONE, pttl, "The time a key has left, in milliseconds."),
        ("RENAME", 3, WRITE, TWO, rename, "Renames a key, over what was there."),
        ("RENAMENX", 3, WRITE_FAST, TWO, renamenx, "Renames a key if the new name is free."),
        ("TTL", 2, READ_FAST, ONE, ttl, "The time a key has left, in seconds."),
        (
            "TYPE",
            2,
            READ_FAST,
            ONE,
            type_,
            "The type of a key: string, list, hash, set, zset, stream, lww, counter, orset or none.",
        ),
    ),
    *rows(
        Scope.SPLIT,
        ("DEL", -2, WRITE, MANY, del_, "Removes keys."),
        ("EXISTS", -2, READ_FAST, MANY, exists, "How many of the keys exist."),
        ("TOUCH", -2, READ_FAST, MANY, exists, "How many of the keys exist."),
        ("UNLINK", -2, WRITE_FAST, MANY, del_, "Removes keys; the same as DEL."),
    ),
    *rows(
        Scope.INTERNAL,
        ("NOCTULE.DIGEST", 2, WRITE, NO_KEYS, digest, "Has every replica digest its state at this entry."),
        ("NOCTULE.PURGE", -2, WRITE, MANY, purge, "Removes those of the keys that have expired."),
    ),
)
"""The rows of this file."""
