"""The parameters that the routes of the HTTP API take, each with its bounds, once."""

import math
import re
from typing import Literal

from noctule.base.bounds import KEY_BYTES_MAX, SCAN_COUNT_MAX
from noctule.base.consistency import ConsistencyLevel
from noctule.base.errors import RequestError, TooLargeError
from noctule.core.keyspace.glob import PATTERN_BYTES_MAX
from noctule.core.meta.tokens import is_token_hash
from noctule.core.registry.bounds import NAME_CHARS_MAX
from noctule.servers.http_route import Parameter

WAIT_S_MAX = 600.0
"""The longest that a list may be waited for."""

TTL_S_MAX = 100 * 365 * 86_400.0
"""A hundred years; a key meant to live longer has no need of a ttl."""

SCAN_COUNT_DEFAULT = 100

PREFIX_BYTES_MAX = (PATTERN_BYTES_MAX - 1) // 2
"""A prefix becomes a pattern: each byte may need escaping, and a star follows."""

PARTITIONS_PAGE_MAX = 2_000
"""Partitions in one answer: the loop is not to stand still for more."""

_NUMBER = re.compile(rb"\d{1,20}(\.\d{1,20})?(e[+-]?\d{1,3})?", re.IGNORECASE)
_INTEGER = re.compile(rb"\d{1,20}")
_FLAGS = {b"true": True, b"1": True, b"": True, b"false": False, b"0": False}
_INSTANCE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


def _parse_key(raw: bytes) -> bytes:
    if not raw:
        raise RequestError('path parameter "key": the key is empty; GET /api/kv lists keys')
    return _bounded(raw, "path", "key", KEY_BYTES_MAX)


def _parse_prefix(raw: bytes) -> bytes:
    return _bounded(raw, "query", "prefix", PREFIX_BYTES_MAX)


def _bounded(raw: bytes, place: str, name: str, bytes_max: int) -> bytes:
    if len(raw) > bytes_max:
        raise TooLargeError(f'{place} parameter "{name}": {len(raw)} bytes, and the limit is {bytes_max}')
    return raw


def _parse_ttl_s(raw: bytes) -> float:
    if not _NUMBER.fullmatch(raw):
        raise ValueError
    ttl_s = float(raw)
    if not 0 < ttl_s <= TTL_S_MAX or math.isinf(ttl_s):
        raise ValueError
    return ttl_s


def _parse_count(raw: bytes) -> int:
    if not _INTEGER.fullmatch(raw) or not 1 <= int(raw) <= SCAN_COUNT_MAX:
        raise ValueError
    return int(raw)


def _parse_cursor(raw: bytes) -> bytes:
    # The cursor of SCAN is an unsigned 64-bit number in decimal; which ones mean something is for the store to say.
    if not _INTEGER.fullmatch(raw) or int(raw) >= 1 << 64:
        raise ValueError
    return raw


def _parse_consistency(raw: bytes) -> ConsistencyLevel:
    return ConsistencyLevel(raw.decode())


def _parse_instance_id(raw: bytes) -> str:
    if not _INSTANCE_ID.fullmatch(raw):
        raise ValueError
    return raw.decode()


def _parse_id(raw: bytes) -> int:
    if not _INTEGER.fullmatch(raw) or not 1 <= int(raw) < 1 << 53:
        raise ValueError
    return int(raw)


def _parse_position(raw: bytes) -> int:
    if not _INTEGER.fullmatch(raw) or int(raw) >= 1 << 53:
        raise ValueError
    return int(raw)


def _parse_page(raw: bytes) -> int:
    if not _INTEGER.fullmatch(raw) or not 1 <= int(raw) <= PARTITIONS_PAGE_MAX:
        raise ValueError
    return int(raw)


def _parse_flag(raw: bytes) -> bool:
    if raw not in _FLAGS:
        raise ValueError
    return _FLAGS[raw]


def _parse_token_hash(raw: bytes) -> str:
    text = raw.decode()
    if not is_token_hash(text):
        raise ValueError
    return text


def _parse_printable(raw: bytes) -> str:
    text = raw.decode()
    if not text or len(text) > NAME_CHARS_MAX or not text.isprintable():
        raise ValueError
    return text


def _parse_wait_s(raw: bytes) -> float:
    if not _NUMBER.fullmatch(raw) or not 0 < float(raw) <= WAIT_S_MAX:
        raise ValueError
    return float(raw)


def _named(name: str, place: Literal["path", "query"], summary: str, default: str | None = None) -> Parameter[str]:
    return Parameter(
        name=name,
        place=place,
        summary=summary,
        schema={"type": "string", "minLength": 1, "maxLength": NAME_CHARS_MAX},
        allowed=f"1 to {NAME_CHARS_MAX} printable characters",
        parse=_parse_printable,
        default=default,
    )


def _id(what: str) -> Parameter[int]:
    return Parameter(
        name="id",
        place="path",
        summary=f"The id of the {what}.",
        schema={"type": "integer", "minimum": 1},
        allowed="a whole number from 1",
        parse=_parse_id,
    )


KEY: Parameter[bytes] = Parameter(
    name="key",
    place="path",
    summary="The key, percent-encoded; it may contain slashes, and bytes that are not UTF-8.",
    schema={"type": "string", "minLength": 1},
    allowed=f"1 to {KEY_BYTES_MAX} bytes",
    parse=_parse_key,
)

CONSISTENCY: Parameter[ConsistencyLevel] = Parameter(
    name="consistency",
    place="query",
    summary="How fresh the value must be.",
    schema={"type": "string", "enum": [str(level) for level in ConsistencyLevel]},
    allowed="one of " + ", ".join(ConsistencyLevel),
    parse=_parse_consistency,
    default=ConsistencyLevel.LINEARIZABLE,
)

TTL: Parameter[float] = Parameter(
    name="ttl",
    place="query",
    summary="Seconds until the key vanishes, rounded up to a millisecond; without it the key stays.",
    schema={"type": "number", "exclusiveMinimum": 0, "maximum": TTL_S_MAX},
    allowed=f"a number of seconds above 0 and at most {TTL_S_MAX:.0f}",
    parse=_parse_ttl_s,
)

PREFIX: Parameter[bytes] = Parameter(
    name="prefix",
    place="query",
    summary="Only keys that begin with this, percent-encoded; every key when empty.",
    schema={"type": "string"},
    allowed=f"at most {PREFIX_BYTES_MAX} bytes",
    parse=_parse_prefix,
    default=b"",
)

CURSOR: Parameter[bytes] = Parameter(
    name="cursor",
    place="query",
    summary="The cursor of the answer before; 0 to begin.",
    schema={"type": "string", "pattern": "^[0-9]{1,20}$"},
    allowed='"0", or the cursor of the answer before',
    parse=_parse_cursor,
    default=b"0",
)

COUNT: Parameter[int] = Parameter(
    name="count",
    place="query",
    summary="About how many keys to look at in this call; the answer may hold fewer, or none.",
    schema={"type": "integer", "minimum": 1, "maximum": SCAN_COUNT_MAX},
    allowed=f"a whole number from 1 to {SCAN_COUNT_MAX}",
    parse=_parse_count,
    default=SCAN_COUNT_DEFAULT,
)

INSTANCE_ID: Parameter[str] = Parameter(
    name="id",
    place="path",
    summary="The id of the instance.",
    schema={"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    allowed='1 to 128 of the characters A-Z a-z 0-9 "." "_" ":" "-"',
    parse=_parse_instance_id,
)

NODE_ID = _id("node")
PARTITION_ID = _id("partition")
MIGRATION_ID = _id("migration")

TOKEN_HASH: Parameter[str] = Parameter(
    name="hash",
    place="path",
    summary="By which the cluster knows the token.",
    schema={"type": "string", "pattern": "^[0-9a-f]{64}$"},
    allowed="64 hexadecimal digits",
    parse=_parse_token_hash,
)

FORCE: Parameter[bool] = Parameter(
    name="force",
    place="query",
    summary="Do it though data may be lost.",
    schema={"type": "boolean"},
    allowed="true or false",
    parse=_parse_flag,
    default=False,
)

AFTER: Parameter[int] = Parameter(
    name="after",
    place="query",
    summary="Only what comes behind so many partitions, in the order of their slots.",
    schema={"type": "integer", "minimum": 0},
    allowed="a whole number from 0",
    parse=_parse_position,
    default=0,
)

LIMIT: Parameter[int] = Parameter(
    name="limit",
    place="query",
    summary="The most partitions in the answer.",
    schema={"type": "integer", "minimum": 1, "maximum": PARTITIONS_PAGE_MAX},
    allowed=f"a whole number from 1 to {PARTITIONS_PAGE_MAX}",
    parse=_parse_page,
    default=1_000,
)

RUNNING: Parameter[bool] = Parameter(
    name="running",
    place="query",
    summary="Only what is on its way.",
    schema={"type": "boolean"},
    allowed="true or false",
    parse=_parse_flag,
    default=False,
)

SERVICE_ID = _named("id", "path", "The id of the instance.")
WATCHED_SERVICE = _named("name", "path", "The name of the service.")
SERVICE_NAME = _named("name", "query", "Only instances of this service; all when left out.", "")
INSTANCE_TAG = _named("tag", "query", "Only instances with this tag.", "")
INSTANCE_NODE = _named(
    "node", "query", "The instance of that node; else the one that renews itself, or the first by its node.", ""
)

SCRAPED_SERVICE = _named("service", "query", "Only this service; `noctule` are the nodes themselves.", "")
SCRAPED_TAG = _named(
    "tag", "query", "Only instances with this tag; when left out, any of the named service, `metrics` of others.", ""
)

ONLY_PASSING: Parameter[bool] = Parameter(
    name="passing",
    place="query",
    summary="Only instances all of whose checks pass.",
    schema={"type": "boolean"},
    allowed="true or false",
    parse=_parse_flag,
    default=False,
)

INDEX: Parameter[int] = Parameter(
    name="index",
    place="query",
    summary="Answer once there is something newer than the answer with this index, or `wait` has passed; 0: at once.",
    schema={"type": "integer", "minimum": 0},
    allowed="a whole number from 0",
    parse=_parse_position,
    default=0,
)

WAIT: Parameter[float] = Parameter(
    name="wait",
    place="query",
    summary="For how many seconds to wait for something newer.",
    schema={"type": "number", "exclusiveMinimum": 0, "maximum": WAIT_S_MAX},
    allowed=f"a number of seconds above 0 and at most {WAIT_S_MAX:.0f}",
    parse=_parse_wait_s,
    default=300.0,
)
