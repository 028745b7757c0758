"""The registry as /api/services shows it, and what is changed when an instance is registered there."""

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, Struct

from noctule.core.registry.changes import Change, PutCheck, PutNode, PutService, RemoveCheck
from noctule.core.registry.definitions import CheckDefinition, ServiceDefinition
from noctule.core.registry.dependencies import worst_status
from noctule.core.registry.objects import Check, CheckStatus, RegistryNode, ServiceInstance, Weights
from noctule.core.registry.registry import Registry

CATALOG_NODE = "external"
"""The node that instances are under which no node of the cluster makes checks of: they renew themselves."""
TTL_CHECK = "ttl:"
"""Begins the id of the check that is critical once an instance was not renewed in time."""
TOLD_CHECK = "told:"
"""Begins the id of the check that says what an instance says of itself."""


class CheckView(Struct, frozen=True):
    """One check of an instance, or of its node."""

    id: str
    name: str
    status: CheckStatus
    output: str
    type: str
    """ttl, http, tcp, grpc, alias, maintenance, or empty."""
    of_node: bool
    """Whether it is of the node, and so of everything on it."""


class ServiceView(Struct, frozen=True):
    """One instance of a service, and how it is."""

    id: str
    name: str
    """Of the service."""
    node: str
    """Who makes its checks: a member of the cluster, or ``external`` when it renews itself."""
    address: str
    """Where it serves; its node's when it names none."""
    port: int
    status: CheckStatus
    """The worst of its checks."""
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = {}
    weights: Weights = Weights()
    depends_on: tuple[str, ...] = ()
    ttl_s: float = 0.0
    """How often it must be renewed; 0: never."""
    checks: tuple[CheckView, ...] = ()
    modify_index: int = 0
    """Of what it says of itself; health has its own."""


REMOVE_AFTER_S = 60.0
"""How long an instance that was not renewed stays, critical, before it is removed."""

_Seconds = Annotated[float, Meta(ge=0, le=2_592_000)]
_TtlSeconds = Annotated[float, Meta(ge=1, le=86_400)]


class CheckRegistration(CheckDefinition, frozen=True, forbid_unknown_fields=True):
    """A check of an instance, which the node that is asked makes."""


class ServiceRegistration(Struct, frozen=True, forbid_unknown_fields=True):
    """An instance of a service; `id` may be left to the path."""

    name: str
    """Of the service."""
    id: str = ""
    address: str = ""
    """Where it serves; the node's that is asked when it is left out, and so to be named where the instance is not."""
    port: int = 0
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = {}
    weights: Weights = Weights()
    depends_on: tuple[str, ...] = ()
    """Services that it calls."""
    ttl_s: _TtlSeconds | None = None
    """It renews itself by sending this again within so many seconds. Else the node that is asked keeps it."""
    remove_after_s: _Seconds = REMOVE_AFTER_S
    """How long it stays, critical, when it was not renewed; 0: for good."""
    status: CheckStatus | None = None
    """What it says of itself, if it renews itself. The same for `output`, for people."""
    output: str = ""
    checks: tuple[CheckRegistration, ...] = ()


class ServiceList(Struct, frozen=True):
    """Instances, by service, node and id."""

    index: int
    """To wait for what comes after."""
    services: tuple[ServiceView, ...]
    staleness_ms: int | None = 0
    """How old this may be; 0 unless an eventual read was asked for, None when that is unknown."""


def view_service(registry: Registry, instance: ServiceInstance) -> ServiceView:
    """One instance."""
    node = registry.nodes[instance.node]
    checks = registry.checks_of(instance.node, instance.id)
    return ServiceView(
        id=instance.id,
        name=instance.name,
        node=instance.node,
        address=instance.address or node.address,
        port=instance.port,
        status=worst_status(registry, instance.node, instance.id),
        tags=instance.tags,
        meta=instance.meta,
        weights=instance.weights,
        depends_on=instance.depends_on,
        ttl_s=max((check.ttl_ms for check in checks), default=0) / 1000,
        checks=tuple(
            CheckView(each.id, each.name, each.status, each.output, each.type, not each.service_id) for each in checks
        ),
        modify_index=instance.modify_index,
    )


def view_services(registry: Registry, name: str = "", tag: str = "", *, is_passing: bool = False) -> ServiceList:
    """The instances of a service, or of all, with a tag and health if those are asked for."""
    names: Iterable[str] = [name] if name else sorted(registry.by_name)
    instances = (each for one in names for each in registry.instances_of(one) if not tag or tag in each.tags)
    views = tuple(
        view_service(registry, each)
        for each in instances
        if not is_passing or worst_status(registry, each.node, each.id) is CheckStatus.PASSING
    )
    return ServiceList(registry.index_of(topic_of(name)), views)


def topic_of(name: str) -> str:
    """What changes when the list of a service, or of all, does."""
    return f"service:{name}" if name else "catalog"


def find_instances(registry: Registry, id_: str) -> list[ServiceInstance]:
    """Every instance with an id, by its node's name; an id is unique on its node only."""
    return [registry.instances[name, id_] for name in sorted(registry.nodes) if (name, id_) in registry.instances]


def find_instance(registry: Registry, id_: str, node: str = "") -> ServiceInstance | None:
    """The instance with an id: on that node, or the one that renews itself, or the first one by its node's name."""
    found = registry.instances.get((node or CATALOG_NODE, id_))
    if found is not None or node:
        return found
    return next(iter(find_instances(registry, id_)), None)


def renewal(
    registry: Registry,
    service: ServiceDefinition,
    *,
    ttl_ms: int,
    remove_after_ms: int,
    status: CheckStatus | None = None,
    output: str = "",
) -> list[Change]:
    """What is to be asked for when an instance that renews itself says this of itself; the same again renews it.

    It is critical `ttl_ms` later, and removed `remove_after_ms` after that. `status`: what it says of its health; None:
    that it renews itself is all there is to it.
    """
    changes: list[Change] = []
    if CATALOG_NODE not in registry.nodes:
        changes.append(PutNode(RegistryNode(CATALOG_NODE, "")))
    ttl, told = TTL_CHECK + service.id, TOLD_CHECK + service.id
    changes.append(PutService(service.instance(CATALOG_NODE)))
    # Whether it renews itself and how it is are two checks: what says that it is ill must not live for ever for that.
    changes.append(
        PutCheck(
            Check(
                CATALOG_NODE,
                ttl,
                "renewed in time",
                CheckStatus.PASSING,
                service_id=service.id,
                type="ttl",
                ttl_ms=ttl_ms,
                deregister_after_ms=remove_after_ms,
            )
        )
    )
    if status is not None:
        check = Check(CATALOG_NODE, told, "as it says", status, output=output, service_id=service.id)
        changes.append(PutCheck(check))
    elif (CATALOG_NODE, told) in registry.checks:
        changes.append(RemoveCheck(CATALOG_NODE, told))
    return changes
