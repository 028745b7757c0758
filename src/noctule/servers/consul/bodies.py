"""The bodies that Consul's endpoints take, field by field; `requests.load_body` reads them. Names follow Consul's.

Fields that Noctule has no use for stand here too when clients of Consul send them and leaving them out changes nothing
for these clients; what would change something is refused with a sentence where it is used.
"""

from typing import Any

from msgspec import Struct


class _Body(Struct, frozen=True, rename="pascal"):
    pass


class WeightsBody(_Body, frozen=True):
    """Shares of the traffic by health."""

    passing: int = 0
    warning: int = 0


class AddressBody(_Body, frozen=True):
    """Where a service is found under one name of an address."""

    address: str = ""
    port: int = 0


class CheckBody(_Body, frozen=True):
    """How a check is made; durations as "10s" or in nanoseconds."""

    id: str = ""
    check_id: str = ""
    name: str = ""
    service_id: str = ""
    notes: str = ""
    status: str = ""
    ttl: str | int | float = 0
    interval: str | int | float = 0
    timeout: str | int | float = 0
    deregister_critical_service_after: str | int | float = 0
    http: str = ""
    method: str = ""
    header: dict[str, list[str]] = {}
    body: str = ""
    tls_skip_verify: bool = False
    tcp: str = ""
    grpc: str = ""
    grpc_use_tls: bool = False
    alias_node: str = ""
    alias_service: str = ""
    success_before_passing: int = 0
    failures_before_warning: int = 0
    failures_before_critical: int = 0
    output_max_size: int = 0
    """Read and not heeded: there is one limit for all."""
    script: str = ""
    args: list[str] = []
    script_args: list[str] = []
    docker_container_id: str = ""
    shell: str = ""


class _InstanceBody(_Body, frozen=True):
    id: str = ""
    tags: list[str] = []
    address: str = ""
    port: int = 0
    meta: dict[str, str] = {}
    weights: WeightsBody | None = None
    tagged_addresses: dict[str, AddressBody] = {}
    enable_tag_override: bool = False
    depends_on: list[str] = []
    """Noctule's own: names of services that it calls."""
    kind: str = ""
    proxy: dict[str, Any] | None = None
    connect: dict[str, Any] | None = None


class ServiceBody(_InstanceBody, frozen=True):
    """A service to register at this node."""

    name: str = ""
    check: CheckBody | None = None
    checks: list[CheckBody] = []


class CheckUpdateBody(_Body, frozen=True):
    """What somebody reports of a check."""

    status: str = ""
    output: str = ""


class NodeServiceBody(_InstanceBody, frozen=True):
    """An instance for the catalog."""

    service: str = ""
    namespace: str = ""
    create_index: int = 0
    modify_index: int = 0


class CheckDefinitionBody(_Body, frozen=True):
    """Of a check in the catalog only its TTL is kept by the catalog: nobody is there to make another one."""

    ttl: str | int | float = 0
    interval: str | int | float = 0
    timeout: str | int | float = 0
    deregister_critical_service_after: str | int | float = 0
    interval_duration: str | int | float = 0
    timeout_duration: str | int | float = 0
    deregister_critical_service_after_duration: str | int | float = 0
    http: str = ""
    header: dict[str, list[str]] = {}
    method: str = ""
    body: str = ""
    tls_skip_verify: bool = False
    tcp: str = ""


class HealthCheckBody(_Body, frozen=True):
    """A check for the catalog."""

    node: str = ""
    check_id: str = ""
    name: str = ""
    status: str = ""
    notes: str = ""
    output: str = ""
    service_id: str = ""
    service_name: str = ""
    service_tags: list[str] = []
    type: str = ""
    definition: CheckDefinitionBody | None = None
    namespace: str = ""
    create_index: int = 0
    modify_index: int = 0


class RegisterBody(_Body, frozen=True):
    """A node for the catalog, with an instance and checks, if any."""

    id: str = ""
    node: str = ""
    address: str = ""
    datacenter: str = ""
    tagged_addresses: dict[str, str] = {}
    node_meta: dict[str, str] = {}
    service: NodeServiceBody | None = None
    check: HealthCheckBody | None = None
    checks: list[HealthCheckBody] = []
    skip_node_update: bool = False
    write_request: dict[str, Any] | None = None


class DeregisterBody(_Body, frozen=True):
    """What the catalog is to forget: an instance, a check, or the node with all of them."""

    node: str = ""
    datacenter: str = ""
    service_id: str = ""
    check_id: str = ""
    namespace: str = ""
    write_request: dict[str, Any] | None = None


class ServiceCheckBody(_Body, frozen=True):
    """A check of a service that a session rests on."""

    id: str = ""
    namespace: str = ""


class SessionBody(_Body, frozen=True):
    """A session to create."""

    id: str = ""
    """Read and not heeded: the node draws it, as Consul's does."""
    name: str = ""
    node: str = ""
    datacenter: str = ""
    lock_delay: str | int | float | None = None
    behavior: str = ""
    ttl: str = ""
    checks: list[str] | None = None
    node_checks: list[str] | None = None
    service_checks: list[ServiceCheckBody] = []
    namespace: str = ""
    create_index: int = 0
    modify_index: int = 0


class TxnNodeBody(_Body, frozen=True):
    """A node in a transaction."""

    id: str = ""
    node: str = ""
    address: str = ""
    datacenter: str = ""
    tagged_addresses: dict[str, str] = {}
    meta: dict[str, str] = {}
    create_index: int = 0
    modify_index: int = 0


class TxnKvOp(_Body, frozen=True):
    """One operation on keys."""

    verb: str = ""
    key: str = ""
    value: bytes = b""
    flags: int = 0
    index: int = 0
    session: str = ""
    namespace: str = ""


class TxnNodeOp(_Body, frozen=True):
    """One operation on a node."""

    verb: str = ""
    node: TxnNodeBody = TxnNodeBody()


class TxnServiceOp(_Body, frozen=True):
    """One operation on an instance."""

    verb: str = ""
    node: str = ""
    service: NodeServiceBody = NodeServiceBody()


class TxnCheckOp(_Body, frozen=True):
    """One operation on a check."""

    verb: str = ""
    check: HealthCheckBody = HealthCheckBody()


class TxnOp(_Body, frozen=True):
    """One operation of a transaction; of several kinds in one the first counts, as at Consul."""

    kv: TxnKvOp | None = None
    node: TxnNodeOp | None = None
    service: TxnServiceOp | None = None
    check: TxnCheckOp | None = None
