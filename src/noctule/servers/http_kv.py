"""The keys of the store over HTTP: get, put, delete, list."""

import base64
import math
import re
from dataclasses import replace

from msgspec import Struct

from noctule.base.consistency import ConsistencyLevel
from noctule.base.ensure import ensure
from noctule.base.errors import InternalError, UnavailableError
from noctule.core.keyspace.reply import OK, Reply
from noctule.node.api import Store
from noctule.servers.http_errors import NotFoundError
from noctule.servers.http_parameters import CONSISTENCY, COUNT, CURSOR, KEY, PREFIX, TTL
from noctule.servers.http_route import RAW, Answer, Call, json_answer, shown
from noctule.servers.http_store import read, read_all, write

_GLOB_CHARACTER = re.compile(rb"[*?\[\]\\^]")
_TORN_READS_MAX = 3

STALENESS_HEADER = "Noctule-Staleness-Ms"
"""Of the answer to an eventual read: how old it may be, or ``unknown``."""


class KeyValue(Struct, frozen=True):
    """A key and its value; exactly one of `value` and `value_base64` is not null."""

    key: str
    value: str | None
    """The value when it is UTF-8."""
    value_base64: str | None
    """The value when it is not."""
    ttl_ms: int | None
    """Milliseconds until the key vanishes; null when it stays."""
    staleness_ms: int | None
    """How old the value may be, in milliseconds: 0 unless an eventual read was asked for, null when that is unknown."""


class KeyWritten(Struct, frozen=True):
    """A write that was acknowledged: a quorum has synced it, or its leader where `durability` says so."""

    key: str
    ok: bool


class KeyDeleted(Struct, frozen=True):
    """What became of a key to delete; `deleted` is false when there was none."""

    key: str
    deleted: bool


class KeyPage(Struct, frozen=True):
    """Some keys, in no order, and where to go on; cursor ``0`` means that all have been shown."""

    keys: list[str]
    cursor: str


def key_text(key: bytes) -> str:
    """A key as JSON can show it; bytes that are not UTF-8 appear as ``\\xff``."""
    return key.decode("utf-8", "backslashreplace")


def ttl_ms(ttl_s: float) -> int:
    """Seconds as whole milliseconds, rounded up: a ttl never becomes 0, which the store refuses."""
    return max(1, math.ceil(round(ttl_s * 1000, 6)))


async def get_key(call: Call) -> Answer:
    """The value of a key, as JSON or raw; `NotFoundError` when there is none."""
    key, consistency = call.get(KEY), call.get(CONSISTENCY)
    is_eventual = consistency is ConsistencyLevel.EVENTUAL
    # Asked before the read, so that it is not younger than the answer; should a leader answer, that is only fresher.
    staleness_ms = call.node.staleness_ms(key) if is_eventual else 0
    headers = {STALENESS_HEADER: "unknown" if staleness_ms is None else str(staleness_ms)} if is_eventual else {}
    if call.wants_raw:
        value = await read(call.node.store, b"GET", key, consistency=consistency)
        return Answer(200, _present(key, value), RAW, headers)
    value, remaining_ms = await _read_with_ttl(call.node.store, key, consistency)
    try:
        text, encoded = value.decode(), None
    except UnicodeDecodeError:
        text, encoded = None, base64.b64encode(value).decode("ascii")
    found = KeyValue(key_text(key), text, encoded, remaining_ms, staleness_ms)
    return replace(json_answer(found), headers=headers)


async def put_key(call: Call) -> Answer:
    """Set a key to the body, whatever it held before, a ttl included."""
    key, ttl_s = call.get(KEY), call.get_optional(TTL)
    expiry = () if ttl_s is None else (b"PX", b"%d" % ttl_ms(ttl_s))
    reply = await write(call.node.store, b"SET", key, call.body, *expiry)
    ensure(reply == OK, "SET answers OK", reply=type(reply).__name__)
    return json_answer(KeyWritten(key_text(key), ok=True))


async def delete_key(call: Call) -> Answer:
    """Remove a key of any type; not an error when there is none."""
    key = call.get(KEY)
    reply = await write(call.node.store, b"DEL", key)
    return json_answer(KeyDeleted(key_text(key), deleted=reply == 1))


async def list_keys(call: Call) -> Answer:
    """One page of keys, with the guarantees of SCAN: a key that is there all the time is shown at least once."""
    pattern = _GLOB_CHARACTER.sub(rb"\\\g<0>", call.get(PREFIX)) + b"*"
    count = b"%d" % call.get(COUNT)
    reply = await read(call.node.store, b"SCAN", call.get(CURSOR), b"MATCH", pattern, b"COUNT", count)
    cursor, keys = scan_page(reply)
    return json_answer(KeyPage([key_text(key) for key in keys], cursor.decode("ascii")))


def scan_page(reply: Reply) -> tuple[bytes, list[bytes]]:
    """The reply of SCAN as the next cursor and keys."""
    match reply:
        case [bytes() as cursor, list() as keys]:
            return cursor, [key for key in keys if isinstance(key, bytes)]
        case _:
            raise InternalError("SCAN answers a cursor and keys")


async def _read_with_ttl(store: Store, key: bytes, consistency: ConsistencyLevel) -> tuple[bytes, int | None]:
    """The value and its ttl.

    The two reads travel together, and a write that falls between them would have to arrive in the same turn. Should
    the key vanish there, PTTL answers -2 for a value just read; the pair is then read again rather than shown torn.
    """
    for _ in range(_TORN_READS_MAX):
        value, remaining_ms = await read_all(store, [[b"GET", key], [b"PTTL", key]], consistency=consistency)
        present = _present(key, value)
        if not isinstance(remaining_ms, int):
            raise InternalError("PTTL answers an integer")
        if remaining_ms != -2:
            return present, None if remaining_ms == -1 else remaining_ms
    raise UnavailableError(f"key {shown(key_text(key))} changed at each of {_TORN_READS_MAX} reads; try again")


def _present(key: bytes, value: Reply) -> bytes:
    if value is None:
        raise NotFoundError(f"there is no key {shown(key_text(key))}")
    if not isinstance(value, bytes):
        raise InternalError("GET answers bytes or nothing")
    return value
