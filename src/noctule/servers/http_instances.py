"""The registry of app instances: each is a key of the *meta* group that vanishes unless it is renewed."""

import logging
from enum import StrEnum
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from noctule.base.consistency import ConsistencyLevel
from noctule.base.ensure import ensure
from noctule.base.errors import InternalError, RequestError, TooLargeError
from noctule.core.keyspace.reply import OK
from noctule.node.api import Store
from noctule.servers.http_kv import scan_page, ttl_ms
from noctule.servers.http_parameters import INSTANCE_ID
from noctule.servers.http_route import Answer, Call, json_answer, shown
from noctule.servers.http_store import REPLY_S_MAX, read, write

INSTANCES_MAX = 10_000
"""More cannot be listed in one answer; a registry this large has lost its way."""

_PREFIX = b"instance:"
_SCAN_COUNT = b"1000"
_logger = logging.getLogger(__name__)


class InstanceState(StrEnum):
    """What an instance says of itself."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"


_Service = Annotated[str, Meta(min_length=1, max_length=128)]
_Address = Annotated[str, Meta(pattern=r"^([^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$", max_length=262)]
_ProcessId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
_TtlSeconds = Annotated[float, Meta(ge=1, le=3600)]


class InstanceRenewal(Struct, frozen=True, forbid_unknown_fields=True):
    """What an instance sends of itself, at least once in `ttl_s` seconds; `id` may be left to the path."""

    service: _Service
    address: _Address
    pid: _ProcessId
    state: InstanceState
    requests: _Count = 0
    ttl_s: _TtlSeconds = 15.0
    id: str = ""


class Instance(Struct, frozen=True):
    """One running app instance, as it last described itself."""

    id: str
    service: _Service
    address: _Address
    """host:port where it serves."""
    pid: _ProcessId
    state: InstanceState
    requests: _Count
    """How many it has answered since it started."""
    ttl_s: _TtlSeconds
    """It vanishes from the registry this many seconds after its last renewal."""


class InstanceList(Struct, frozen=True):
    """Every instance that has been renewed in time, sorted by id."""

    instances: list[Instance]


class InstanceDeleted(Struct, frozen=True):
    """What became of an instance to delete; `deleted` is false when there was none."""

    id: str
    deleted: bool


async def list_instances(call: Call) -> Answer:
    """Every instance, as the cluster agrees on them."""
    return json_answer(InstanceList(await read_instances(call.node.meta)))


async def put_instance(call: Call) -> Answer:
    """Register an instance, or renew it with what it now says of itself."""
    instance_id = call.get(INSTANCE_ID)
    instance = load_instance(instance_id, call.body)
    stored = msgspec.json.encode(instance)
    expiry = b"%d" % ttl_ms(instance.ttl_s)
    reply = await write(call.node.meta, b"SET", _PREFIX + instance_id.encode(), stored, b"PX", expiry)
    ensure(reply == OK, "SET answers OK", reply=type(reply).__name__)
    return json_answer(instance)


async def delete_instance(call: Call) -> Answer:
    """Remove an instance at once; not an error when there is none."""
    instance_id = call.get(INSTANCE_ID)
    reply = await write(call.node.meta, b"DEL", _PREFIX + instance_id.encode())
    return json_answer(InstanceDeleted(instance_id, deleted=reply == 1))


async def read_instances(
    meta: Store, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE, timeout_s: float = REPLY_S_MAX
) -> list[Instance]:
    """Every instance sorted by id, each step within `timeout_s`.

    Raises `TooLargeError` over `INSTANCES_MAX`, else what reading raises.
    """
    ask = partial(read, meta, consistency=consistency, timeout_s=timeout_s)
    keys: set[bytes] = set()
    cursor = b"0"
    while True:
        reply = await ask(b"SCAN", cursor, b"MATCH", _PREFIX + b"*", b"COUNT", _SCAN_COUNT)
        cursor, page = scan_page(reply)
        keys.update(page)
        if len(keys) > INSTANCES_MAX:
            raise TooLargeError(f"the registry holds more than {INSTANCES_MAX} instances, which is the limit")
        if cursor == b"0":
            break
    if not keys:
        return []
    values = await ask(b"MGET", *sorted(keys))
    if not isinstance(values, list):
        raise InternalError("MGET answers a list")
    # One that vanished between the two reads has no value any more, and is not there.
    found = [_stored_instance(value) for value in values if isinstance(value, bytes)]
    return sorted((instance for instance in found if instance is not None), key=lambda instance: instance.id)


def load_instance(instance_id: str, body: bytes) -> Instance:
    """The instance that a request's body describes; `RequestError` says which field is wrong and why."""
    try:
        renewal = msgspec.json.decode(body, type=InstanceRenewal)
    except msgspec.ValidationError as error:
        hint = f"; a state is one of {', '.join(InstanceState)}" if "enum" in str(error) else ""
        raise RequestError(f"body: {_one_line(error)}{hint}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"body: not JSON: {_one_line(error)}") from None
    if renewal.id not in ("", instance_id):
        raise RequestError(f"body: the id is {shown(renewal.id)}, and the path says {shown(instance_id)}")
    if not 1 <= int(renewal.address.rpartition(":")[2]) <= 65_535:
        raise RequestError("body: the port is not from 1 to 65535 - at `$.address`")
    return Instance(
        instance_id,
        renewal.service,
        renewal.address,
        renewal.pid,
        renewal.state,
        renewal.requests,
        renewal.ttl_s,
    )


def _stored_instance(value: bytes) -> Instance | None:
    try:
        return msgspec.json.decode(value, type=Instance)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Written by a version that describes instances in another way; it lives no longer than its ttl.
        _logger.warning("instance_unreadable", extra={"fields": {"bytes": len(value)}})
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
