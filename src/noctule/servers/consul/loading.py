"""From the bodies that clients send to the objects of the registry, with Consul's sentences for what cannot be meant.

Bounds of size are the registry's and the agent's own, checked where these are kept.
"""

import re
import uuid

from noctule.core.registry.bounds import cut_output
from noctule.core.registry.definitions import NO_SCRIPTS, CheckDefinition, ServiceDefinition
from noctule.core.registry.objects import Check, CheckStatus, RegistryNode, ServiceInstance, Weights
from noctule.servers.consul.bodies import (
    AddressBody,
    CheckBody,
    CheckDefinitionBody,
    HealthCheckBody,
    NodeServiceBody,
    ServiceBody,
    WeightsBody,
)
from noctule.servers.consul.durations import NS_PER_MS, NS_PER_S, parse_duration_ns
from noctule.servers.consul.errors import bad_request, refused

NO_MESH = "this cluster has no service mesh: Kind, Proxy and Connect cannot be registered"
INTERVAL_S = 10.0
"""Of an alias, which has none of its own."""
TIMEOUT_S = 10.0
"""Of one attempt where none is given, as at Consul."""
_META_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ANY_ADDRESSES = ("0.0.0.0", "::", "[::]")
_BAD_INTERVAL = "Invalid check: Interval must be > 0 for Script, HTTP, or TCP checks"


def load_node(
    name: str,
    address: str,
    *,
    id: str,  # noqa: A002 - the API's own word
    datacenter: str,
    tagged_addresses: dict[str, str],
    meta: dict[str, str],
) -> RegistryNode:
    """A node for the catalog. Raises `ConsulError` for an id that is no UUID."""
    if id:
        try:
            uuid.UUID(id)
        except ValueError:
            raise refused("Bad node ID: uuid string is wrong length") from None
    return RegistryNode(name, address, id.lower(), datacenter, tagged_addresses, meta)


def load_service_definition(asked: ServiceBody) -> ServiceDefinition:
    """A service for this node, its checks with the ids that Consul gives them. Raises `ConsulError`."""
    if not asked.name:
        raise bad_request("Missing service name")
    if asked.address in _ANY_ADDRESSES:
        raise bad_request("Invalid service address")
    if asked.kind or asked.proxy or asked.connect:
        raise bad_request(NO_MESH)
    for key, value in asked.meta.items():
        if not _META_KEY.fullmatch(key):
            pair = f"('{key}', '{value}')"
            raise bad_request(
                f"Invalid Service Meta: Couldn't load metadata pair {pair}: Key contains invalid characters"
            )
    service_id = asked.id or asked.name
    bodies = [*([] if asked.check is None else [asked.check]), *asked.checks]
    checks = []
    for number, body in enumerate(bodies, 1):
        given_id = body.check_id or body.id
        check_id = given_id or f"service:{service_id}" + (f":{number}" if len(bodies) > 1 else "")
        name = body.name or f"Service '{asked.name}' check"
        checks.append(load_check_definition(body, check_id, name, service_id))
    return ServiceDefinition(
        id=service_id,
        name=asked.name,
        tags=tuple(asked.tags),
        address=asked.address,
        port=load_port(asked.port),
        meta=asked.meta,
        weights=load_weights(asked.weights),
        tagged_addresses=load_tagged(asked.tagged_addresses),
        enable_tag_override=asked.enable_tag_override,
        depends_on=tuple(asked.depends_on),
        checks=tuple(checks),
    )


def load_check_definition(asked: CheckBody, check_id: str, name: str, service_id: str) -> CheckDefinition:
    """A check for this node to make. Raises `ConsulError`."""
    if asked.script or asked.args or asked.script_args or asked.docker_container_id:
        raise refused(f"Scripts are disabled on this agent from remote calls; {NO_SCRIPTS}")
    interval_s, ttl_s = load_s(asked.interval, "Interval"), load_s(asked.ttl, "TTL")
    if interval_s and ttl_s:
        raise bad_request("Invalid check: Interval and TTL cannot both be specified")
    is_probe = bool(asked.http or asked.tcp or asked.grpc)
    if is_probe and not interval_s:
        raise bad_request(_BAD_INTERVAL)
    if not is_probe and not (asked.alias_node or asked.alias_service) and not ttl_s:
        raise bad_request("Invalid check: TTL must be > 0 for TTL checks")
    return CheckDefinition(
        id=check_id,
        name=name,
        service_id=service_id,
        notes=asked.notes,
        ttl_s=ttl_s,
        http=asked.http,
        method=(asked.method or "GET").upper(),
        headers={header: tuple(values) for header, values in asked.header.items()},
        body=asked.body,
        tls_skip_verify=asked.tls_skip_verify,
        tcp=asked.tcp,
        grpc=asked.grpc,
        grpc_tls=asked.grpc_use_tls,
        alias_node=asked.alias_node,
        alias_service=asked.alias_service,
        interval_s=interval_s or INTERVAL_S,
        timeout_s=load_s(asked.timeout, "Timeout") or TIMEOUT_S,
        success_before_passing=asked.success_before_passing,
        failures_before_critical=asked.failures_before_critical,
        failures_before_warning=asked.failures_before_warning,
        deregister_after_s=load_s(asked.deregister_critical_service_after, "DeregisterCriticalServiceAfter"),
        status=load_status(asked.status),
    )


def load_instance(node: str, asked: NodeServiceBody) -> ServiceInstance:
    """The instance that a body describes. Raises `ConsulError` for what the registry has no place for."""
    if asked.kind or asked.proxy or asked.connect:
        raise bad_request(NO_MESH)
    if not asked.service:
        raise refused("Must provide service name with ID" if asked.id else "Must provide service name")
    return ServiceInstance(
        node=node,
        id=asked.id or asked.service,
        name=asked.service,
        tags=tuple(asked.tags),
        address=asked.address,
        port=load_port(asked.port),
        meta=asked.meta,
        weights=load_weights(asked.weights),
        tagged_addresses=load_tagged(asked.tagged_addresses),
        enable_tag_override=asked.enable_tag_override,
        depends_on=tuple(asked.depends_on),
    )


def load_check(node: str, asked: HealthCheckBody) -> Check:
    """The check that a body describes; the registry gives it its service's name and tags. Raises `ConsulError`."""
    check_id = asked.check_id or asked.name
    if not check_id:
        raise refused("Must provide the id or the name of a check")
    ttl_ms, deregister_after_ms = _load_lives(asked.definition)
    return Check(
        node=node,
        id=check_id,
        name=asked.name,
        status=load_status(asked.status),
        notes=asked.notes,
        output=cut_output(asked.output),
        service_id=asked.service_id,
        type=asked.type or ("ttl" if ttl_ms else ""),
        ttl_ms=ttl_ms,
        deregister_after_ms=deregister_after_ms,
    )


def load_status(text: str) -> CheckStatus:
    """A status by its name, critical when there is none. Raises `ConsulError`."""
    try:
        return CheckStatus(text or CheckStatus.CRITICAL)
    except ValueError:
        raise bad_request("Status for checks must 'passing', 'warning', 'critical'") from None


def load_weights(asked: WeightsBody | None) -> Weights:
    """Weights, each 1 where none are given. Raises `ConsulError`."""
    if asked is None:
        return Weights()
    if asked.passing < 1:
        raise bad_request("Invalid Weights: Passing must be greater than 0")
    if asked.warning < 0:
        raise bad_request("Invalid Weights: Warning must be greater or equal than 0")
    if max(asked.passing, asked.warning) > 65_535:
        raise bad_request("Invalid Weights: DNS Weight must be between 0 and 65535")
    return Weights(asked.passing, asked.warning)


def load_port(port: int) -> int:
    """A port, or 0 for none. Raises `ConsulError`."""
    if not 0 <= port <= 65_535:
        raise bad_request(f"Invalid port {port}: must be from 0 to 65535")
    return port


def load_tagged(asked: dict[str, AddressBody]) -> dict[str, tuple[str, int]]:
    """Addresses by their names."""
    return {tag: (each.address, load_port(each.port)) for tag, each in asked.items()}


def _load_lives(asked: CheckDefinitionBody | None) -> tuple[int, int]:
    """The TTL, and how long a check may be critical until its instance is removed, in ms."""
    if asked is None:
        return 0, 0
    return load_ms(asked.ttl, "TTL"), load_ms(
        asked.deregister_critical_service_after or asked.deregister_critical_service_after_duration,
        "DeregisterCriticalServiceAfter",
    )


def load_ns(value: str | float, name: str) -> int:
    """A duration, as text of Go or a number of nanoseconds. Raises `ConsulError`."""
    try:
        ns = parse_duration_ns(value or "0") if isinstance(value, str) else int(value)
    except (ValueError, OverflowError):
        raise bad_request(f'Request decode failed: time: invalid duration "{value}"') from None
    if ns < 0:
        raise bad_request(f"{name} must not be negative")
    return ns


def load_ms(value: str | float, name: str) -> int:
    """The same in ms, a part of one being one."""
    return -(-load_ns(value, name) // NS_PER_MS)


def load_s(value: str | float, name: str) -> float:
    """The same in seconds."""
    return load_ns(value, name) / NS_PER_S
