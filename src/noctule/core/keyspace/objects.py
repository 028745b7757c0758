"""OBJECT and MEMORY: what a client may ask of the inside of a key.

Nothing here is kept as Redis keeps it. OBJECT ENCODING answers what Redis would by its default thresholds, for programs
that look at it; nobody counts when a key was last used, so it always was just now; and MEMORY USAGE is the estimate
that `memory_bytes_max` goes by.
"""

from collections.abc import Sequence

from noctule.core.keyspace.crdt import CrdtValue
from noctule.core.keyspace.failures import NOT_AN_INTEGER, SYNTAX
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.spec import NO_KEYS, READ, CommandSpec, Scope, rows
from noctule.core.keyspace.state import DEADLINE_COST_BYTES, KEY_COST_BYTES, State, Value, value_bytes
from noctule.core.keyspace.subcommands import Dispatcher, Subcommand, key_after_subcommand

_EMBEDDED_BYTES_MAX = 44
_LISTPACK_FIELDS_MAX = 512
_LISTPACK_BYTES_MAX = 64
_ENCODINGS = {b"list": b"quicklist", b"set": b"hashtable", b"zset": b"skiplist"}
"""Of a large one; other types are called as they are."""


def object_encoding(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """OBJECT ENCODING key."""
    value = state.get(args[2])
    return None if value is None else encoding_of(value)


def object_refcount(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """OBJECT REFCOUNT key: 1."""
    return None if state.get(args[2]) is None else 1


def object_idletime(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """OBJECT IDLETIME key: 0."""
    return None if state.get(args[2]) is None else 0


def object_freq(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """OBJECT FREQ key: what Redis answers that does not track it."""
    if state.get(args[2]) is None:
        return None
    return Failure(
        b"ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching "
        b"between policies at runtime LRU and LFU data will take some time to adjust."
    )


def memory_usage(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """MEMORY USAGE key [SAMPLES count]: bytes, of all that is nested whatever the count."""
    for position in range(3, len(args), 2):
        if args[position].upper() != b"SAMPLES" or position + 1 == len(args):
            return SYNTAX
        count = parse_int(args[position + 1])
        if count is None:
            return NOT_AN_INTEGER
        if count < 0:
            return SYNTAX
    key = args[2]
    value = state.get(key)
    if value is None:
        return None
    return KEY_COST_BYTES + len(key) + value_bytes(value) + (DEADLINE_COST_BYTES if key in state.deadlines else 0)


def encoding_of(value: Value) -> bytes:
    """How Redis would keep a value that was set as it is, with its default settings."""
    if isinstance(value, bytes):
        if parse_int(value) is not None:
            return b"int"
        return b"embstr" if len(value) <= _EMBEDDED_BYTES_MAX else b"raw"
    if isinstance(value, dict):
        is_small = len(value) <= _LISTPACK_FIELDS_MAX and all(
            max(len(field), len(text)) <= _LISTPACK_BYTES_MAX for field, text in value.items()
        )
        return b"listpack" if is_small else b"hashtable"
    if isinstance(value, CrdtValue):
        return b"raw"
    return _ENCODINGS.get(value.type_name, value.type_name)


_OBJECT = Dispatcher(
    b"OBJECT",
    {
        b"ENCODING": Subcommand(3, object_encoding),
        b"FREQ": Subcommand(3, object_freq),
        b"IDLETIME": Subcommand(3, object_idletime),
        b"REFCOUNT": Subcommand(3, object_refcount),
    },
    (
        "ENCODING <key>",
        "    Return the kind of internal representation used in order to store the value",
        "    associated with a <key>.",
        "FREQ <key>",
        "    Return the access frequency index of the <key>. The returned integer is",
        "    proportional to the logarithm of the recent access frequency of the key.",
        "IDLETIME <key>",
        "    Return the idle time of the <key>, that is the approximated number of",
        "    seconds elapsed since the last access to the key.",
        "REFCOUNT <key>",
        "    Return the number of references of the value associated with the specified",
        "    <key>.",
    ),
)

_MEMORY = Dispatcher(
    b"MEMORY",
    {b"USAGE": Subcommand(-3, memory_usage)},
    (
        "USAGE <key> [SAMPLES <count>]",
        "    Return memory in bytes used by <key> and its value. Nested values are",
        "    sampled up to <count> times (default: 5, 0 means sample all).",
    ),
)

COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("MEMORY", -2, READ, NO_KEYS, _MEMORY, "USAGE: the memory that a key takes, about."),
        ("OBJECT", -2, READ, NO_KEYS, _OBJECT, "How a key is kept: ENCODING, FREQ, IDLETIME, REFCOUNT."),
        find_keys=key_after_subcommand,
    ),
)
"""The rows of this file."""
