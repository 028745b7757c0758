"""A transaction is one command: it is logged and applied as a whole, or not at all.

What MULTI has gathered and WATCH has seen travels in the payload; all keys stand behind it once more, so that whatever
looks at a command's keys (territories, expiry, the order of a connection) needs to know nothing of transactions.

WATCH remembers a fingerprint of the value, which every replica compares when the transaction is applied, and a token
that is broken at the leader when the key is changed (`watches`). Before it logs a transaction that watches anything,
the leader looks at the tokens (`evaluation`): a value that was changed and changed back stops it, too, as in Redis.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple, TypeAlias

import msgspec

from noctule.core.keyspace.container import Container
from noctule.core.keyspace.crdt import CrdtValue
from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Reply
from noctule.core.keyspace.spec import MANY, NO_KEYS, ONE, READ, WRITE, WRITE_FAST, CommandSpec, Scope, rows
from noctule.core.keyspace.state import FIELD_COST_BYTES, State, Value, value_bytes

WATCHED_BYTES_MAX = 16 * 1024 * 1024
"""The largest value, as `State` counts it, that can be watched: its fingerprint costs all of it."""

FINGERPRINT = b"NOCTULE.FINGERPRINT"
EXEC = b"NOCTULE.EXEC"
EXEC_READ = b"NOCTULE.EXECREAD"
EXEC_EVAL = b"NOCTULE.EXECEVAL"
EXEC_WATCHED = b"NOCTULE.EXECWATCHED"
"""What the leader turns into one of the others, or into a null array."""

ABSENT = b""
"""The fingerprint of a key that is not there."""
TOO_LARGE = Failure(b"ERR a watched value is over WATCHED_BYTES_MAX, %d bytes" % WATCHED_BYTES_MAX)

_PART_BYTES = 64 * 1024
_BAD_PAYLOAD = Failure(b"ERR this is no transaction")


class Watched(NamedTuple):
    """A key, and what WATCH has brought of it."""

    key: bytes
    fingerprint: bytes
    token: bytes = b""
    """Under which the leader knows the watch."""


Payload: TypeAlias = tuple[list[Watched], list[list[bytes]]]
"""What is watched, and the commands."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Payload)


def transaction(
    watched: Sequence[Watched],
    commands: Sequence[Sequence[bytes]],
    keys: Sequence[bytes],
    *,
    is_write: bool,
    has_scripts: bool = False,
) -> list[bytes]:
    """The one command that runs the commands if every watched key still has its fingerprint.

    `keys` are those of the commands; `is_write` tells whether any of these is a write, `has_scripts` whether one is to
    be evaluated before all of it is logged. With watched keys it is for the leader to decide.
    """
    every_key = dict.fromkeys([*(each.key for each in watched), *keys])
    name = EXEC_EVAL if has_scripts else EXEC_WATCHED if watched else EXEC if is_write else EXEC_READ
    return [name, _encoder.encode((watched, commands)), *every_key]


def parse_transaction(args: Sequence[bytes]) -> Payload | Failure:
    """Watched keys and commands of what `transaction` made."""
    try:
        return _decoder.decode(args[1])
    except msgspec.DecodeError:
        return _BAD_PAYLOAD


def execute_all(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """NOCTULE.EXEC payload key…: a list of replies, in which a failure stops nothing, as in Redis.

    The null array, and nothing has happened, when a watched key differs from what was seen of it.
    """
    payload = parse_transaction(args)
    if isinstance(payload, Failure):
        return payload
    watched, commands = payload
    if any(fingerprint(state, each.key) != each.fingerprint for each in watched):
        return NULL_ARRAY
    state.answers_alike = args[0] == EXEC
    replies = [_execute(state, command, now_ms) for command in commands]
    state.answers_alike = False
    return replies


def read_fingerprint(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """NOCTULE.FINGERPRINT key token: what the key holds; its next change breaks the token."""
    state.watch(args[1], args[2])
    return fingerprint(state, args[1])


def end_watches(state: State, watched: Sequence[Watched]) -> bool:
    """Forget these watches, whose transaction has come; whether one of them is broken."""
    is_broken = any(state.watches.is_broken(each.key, each.token) for each in watched)
    for each in watched:
        state.watches.end(each.key, each.token)
    return is_broken


def fingerprint(state: State, key: bytes) -> bytes | Failure:
    """16 bytes that are equal for equal values with equal deadlines, on every replica; `ABSENT` without the key."""
    value = state.get(key)
    if value is None:
        return ABSENT
    if _is_too_large(value):
        return TOO_LARGE
    digest = blake2b(_encoder.encode(state.deadlines.get(key)), digest_size=16)
    if isinstance(value, bytes):
        digest.update(b"string ")
        digest.update(value)
    elif isinstance(value, CrdtValue):
        digest.update(_encoder.encode((value.kind.encode(), value.data)))
    elif isinstance(value, Container):
        digest.update(b"container %d " % value.code)
        for part in value.parts(_PART_BYTES):
            digest.update(part)
    else:
        # Sorted: the order of fields is not the same on every replica.
        digest.update(b"hash" + _encoder.encode(sorted(value.items())))
    return digest.digest()


def _is_too_large(value: Value) -> bool:
    if isinstance(value, dict) and len(value) * FIELD_COST_BYTES > WATCHED_BYTES_MAX:
        return True
    return value_bytes(value) > WATCHED_BYTES_MAX


def _execute(state: State, command: list[bytes], now_ms: int) -> Reply:
    if not command or command[0].upper() in (EXEC, EXEC_READ, EXEC_WATCHED):
        return _BAD_PAYLOAD
    return state.execute(command, now_ms)


_WATCH = (b"noscript", b"loading", b"stale", b"fast")
BEHIND_THE_PAYLOAD = (2, -1, 1)
"""Where the keys of a transaction stand."""

COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.CONNECTION,
        ("MOVE", 3, WRITE_FAST, ONE, None, "Refused: databases have partitions of their own."),
        ("SWAPDB", 3, WRITE_FAST, NO_KEYS, None, "Refused: databases have partitions of their own."),
        ("WATCH", -2, _WATCH, MANY, None, "Lets the next transaction run only if these keys have not changed."),
    ),
    *rows(
        Scope.INTERNAL,
        ("NOCTULE.EXEC", -2, WRITE, BEHIND_THE_PAYLOAD, execute_all, "Runs a transaction."),
        ("NOCTULE.EXECREAD", -2, READ, BEHIND_THE_PAYLOAD, execute_all, "Runs a transaction that only reads."),
        ("NOCTULE.FINGERPRINT", 3, READ, ONE, read_fingerprint, "What WATCH remembers of a key."),
    ),
)
"""The rows of this file."""
