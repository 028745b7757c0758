"""The app instances, as a view of those services in the registry that say so of themselves.

What they say beside is their metadata; whether they renew themselves, and how they are, are two checks.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from noctule.base.addresses import join_address, split_address
from noctule.base.errors import RequestError, TooLargeError
from noctule.core.registry.changes import RemoveService
from noctule.core.registry.definitions import ServiceDefinition
from noctule.core.registry.objects import CheckStatus, ServiceInstance
from noctule.core.registry.registry import Registry
from noctule.core.registry.views import CATALOG_NODE, TTL_CHECK, renewal
from noctule.servers.http_parameters import INSTANCE_ID
from noctule.servers.http_route import Answer, Call, json_answer, shown

INSTANCES_MAX = 10_000
"""More cannot be listed in one answer; a registry this large has lost its way."""

_PID, _STATE, _REQUESTS = "noctule-pid", "noctule-state", "noctule-requests"


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
    await call.node.registry.catch_up()
    return json_answer(InstanceList(instances_in(call.node.registry.view)))


async def put_instance(call: Call) -> Answer:
    """Register an instance, or renew it with what it now says of itself."""
    instance = load_instance(call.get(INSTANCE_ID), call.body)
    registry = call.node.registry
    await registry.change(
        renewal(
            registry.view,
            _definition_of(instance),
            ttl_ms=round(instance.ttl_s * 1000),
            remove_after_ms=1,
            status=CheckStatus.PASSING if instance.state is InstanceState.HEALTHY else CheckStatus.CRITICAL,
            output=instance.state,
        )
    )
    return json_answer(instance)


async def delete_instance(call: Call) -> Answer:
    """Remove an instance at once; not an error when there is none."""
    instance_id, registry = call.get(INSTANCE_ID), call.node.registry
    await registry.catch_up()
    was_there = (CATALOG_NODE, instance_id) in registry.view.instances
    if was_there:
        await registry.change([RemoveService(CATALOG_NODE, instance_id)])
    return json_answer(InstanceDeleted(instance_id, deleted=was_there))


def instances_in(registry: Registry) -> list[Instance]:
    """Every instance that was renewed in time, sorted by id. Raises `TooLargeError` over `INSTANCES_MAX`."""
    found = [instance for each in registry.instances_on(CATALOG_NODE) if (instance := _instance_of(registry, each))]
    if len(found) > INSTANCES_MAX:
        raise TooLargeError(f"the registry holds more than {INSTANCES_MAX} instances, which is the limit")
    return found


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
    if not 1 <= split_address(renewal.address)[1] <= 65_535:
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


def _definition_of(instance: Instance) -> ServiceDefinition:
    host, port = split_address(instance.address)
    meta = {_PID: str(instance.pid), _STATE: str(instance.state), _REQUESTS: str(instance.requests)}
    return ServiceDefinition(instance.id, instance.service, address=host, port=port, meta=meta)


def _instance_of(registry: Registry, service: ServiceInstance) -> Instance | None:
    """None for what was registered in another way, or was not renewed and is about to be removed."""
    ttl = registry.checks.get((service.node, TTL_CHECK + service.id))
    if ttl is None or ttl.status is not CheckStatus.PASSING or not {_PID, _STATE, _REQUESTS} <= service.meta.keys():
        return None
    try:
        return Instance(
            service.id,
            service.name,
            join_address(service.address, service.port),
            int(service.meta[_PID]),
            InstanceState(service.meta[_STATE]),
            int(service.meta[_REQUESTS]),
            ttl.ttl_ms / 1000,
        )
    except ValueError:
        return None  # Somebody else's service with metadata of these names.


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
