"""What the registry keeps. Times are unix ms of the leader's stamps, indexes are the registry's own and only rise.

The names are Consul's (its HTTP API 1.8), so that who knows one knows the other; `servers/consul` gives them Consul's
spelling.
"""

from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

SESSION_TTL_FACTOR = 2
"""Consul's, which calls a TTL the least time that a session lives; its clients (Patroni) ask for half of what they
mean."""
NODE_CHECK = "serfHealth"
"""The check that each member of the cluster has: passing while the failure detector trusts the node."""


class CheckStatus(StrEnum):
    """From best to worst; of several checks the worst counts."""

    PASSING = "passing"
    WARNING = "warning"
    """Still served, with its `Weights.warning`; left out where only passing ones are asked for."""
    CRITICAL = "critical"


class SessionBehavior(StrEnum):
    """What becomes of the keys that a session holds when it ends."""

    RELEASE = "release"
    DELETE = "delete"


class RegistryNode(Struct, frozen=True):
    """A machine or process that services run on: a member (`node-<id>`), or a name that somebody registered."""

    name: str
    address: str
    id: str = ""
    """A UUID, or empty."""
    datacenter: str = ""
    tagged_addresses: dict[str, str] = {}
    meta: dict[str, str] = {}
    create_index: int = 0
    modify_index: int = 0


class Weights(Struct, frozen=True):
    """Share of the traffic, by health."""

    passing: int = 1
    warning: int = 1


class ServiceInstance(Struct, frozen=True):
    """One instance of a service. (node, id) names it."""

    node: str
    id: str
    name: str
    """Of the service."""
    tags: tuple[str, ...] = ()
    address: str = ""
    """Where it serves; empty means the node's."""
    port: int = 0
    meta: dict[str, str] = {}
    weights: Weights = Weights()
    tagged_addresses: dict[str, tuple[str, int]] = {}
    enable_tag_override: bool = False
    depends_on: tuple[str, ...] = ()
    """Names of services that it calls."""
    create_index: int = 0
    modify_index: int = 0


class Check(Struct, frozen=True):
    """One check of a node, or of a service instance on it. (node, id) names it."""

    node: str
    id: str
    name: str
    status: CheckStatus = CheckStatus.CRITICAL
    notes: str = ""
    output: str = ""
    """What it last said, for people; at most `OUTPUT_BYTES_MAX`."""
    service_id: str = ""
    """Empty: the check is of the whole node. The name and tags are those of that instance."""
    service_name: str = ""
    service_tags: tuple[str, ...] = ()
    type: str = ""
    """ttl, http, tcp, grpc, alias or empty (told by somebody else)."""
    ttl_ms: int = 0
    """0: nobody but its agent changes it. Else the leader of *meta* makes it critical once `expires_ms` has passed."""
    expires_ms: int = 0
    """Given by the registry; 0 while it is critical, or has no TTL."""
    deregister_after_ms: int = 0
    """0: never. Its instance is removed when it was critical for so long."""
    critical_since_ms: int = 0
    """0 while it is not critical."""
    create_index: int = 0
    modify_index: int = 0


class KvEntry(Struct, frozen=True):
    """A key of Consul's key-value store; has nothing to do with the keys of the store."""

    key: str
    value: bytes = b""
    flags: int = 0
    """64 bits without meaning to the registry."""
    lock_index: int = 0
    """How often it was acquired."""
    session: str = ""
    """Who holds it; empty for nobody."""
    create_index: int = 0
    modify_index: int = 0


class Session(Struct, frozen=True):
    """A key lease: ends by its TTL, by a check that turns critical, with its node, or by hand."""

    id: str
    """A UUID, drawn by the node that was asked."""
    node: str
    name: str = ""
    ttl_ms: int = 0
    """0: it does not end by time. Else it ends when it was not renewed for `SESSION_TTL_FACTOR` times as long."""
    lock_delay_ms: int = 15_000
    """So long nobody may acquire a key that this session lost by being invalidated."""
    behavior: SessionBehavior = SessionBehavior.RELEASE
    node_checks: tuple[str, ...] = (NODE_CHECK,)
    """Ids of checks of its node; the same for `service_checks`, whose checks are of instances on it."""
    service_checks: tuple[str, ...] = ()
    expires_ms: int = 0
    """Given by the registry."""
    create_index: int = 0
    modify_index: int = 0


class LockDelay(Struct, frozen=True):
    """Nobody may acquire the key before then: who held it may not know yet that its session was invalidated."""

    key: str
    until_ms: int


Object: TypeAlias = RegistryNode | ServiceInstance | Check | KvEntry | Session | LockDelay
