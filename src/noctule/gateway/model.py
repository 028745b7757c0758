"""What a gateway is to do, whatever engine does it: listeners, routes, services, and how their traffic is treated.

The same model drives the embedded gateway and is rendered for HAProxy and nginx. A file (TOML) or the registry holds
it: model_file.py reads, model_check.py tells everything that is wrong at once, example.toml shows every setting. Which
instances a service has in the registry is not here: see registry_source.py.
"""

from msgspec import Struct

from noctule.core.balance.rules import Algorithm as Algorithm
from noctule.core.balance.rules import BalancerRules
from noctule.gateway.instances import Instance, parse_instance


class Sticky(Struct, frozen=True, forbid_unknown_fields=True):
    """A cookie that names the instance. A hint: an instance that is gone or draining loses its clients to others."""

    cookie: str = "noctule_instance"
    ttl_s: int = 0
    """0: until the browser closes."""
    secure: bool = True


class ActiveCheck(Struct, frozen=True, forbid_unknown_fields=True):
    """Asked of each instance beside what the registry says of it."""

    path: str = "/health/ready"
    interval_s: float = 0.5
    timeout_s: float = 1.0
    enabled: bool = True


class Service(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A set of instances that answer alike; HAProxy's backend, nginx's upstream."""

    name: str
    instances: tuple[str, ...] = ()
    """host:port of each, where they are fixed; `host:port*weight` for weights other than 1."""
    registry: str = ""
    """Name of a service in the registry, where they are live; one of the two is given."""
    tag: str = ""
    """Of those in the registry only the ones with this tag: so blue and green are two services of one name."""
    algorithm: Algorithm = Algorithm.LEAST_CONNECTIONS
    hash_on: str = "uri"
    """For CONSISTENT_HASH: uri, or header:<name>, or cookie:<name>."""
    sticky: Sticky | None = None
    check: ActiveCheck = ActiveCheck()
    fails_max: int = 3
    """So many failures in a row take an instance out (nginx's max_fails)."""
    fail_timeout_s: float = 30.0
    """For so long; then one request tries it (half-open)."""
    slow_start_s: float = 0.0
    """An instance that came (back) gets its full share after so long."""
    outlier_ratio: float = 0.0
    """Eject an instance whose share of failures over 10 s is above this (0: never), at most half of all."""
    breaker_ratio: float = 0.0
    """Circuit breaker: once this share of at least 20 requests over 10 s ended in 502, 503 or 504 (0: never),
    requests are answered 503 at once for 5 s, twice as long each time, and then single ones try the service."""
    connections_max: int = 0
    """Requests in flight for each instance (0: no bound)."""
    keepalive: int = 32
    """Idle connections kept to each instance."""
    connect_timeout_s: float = 1.0
    response_timeout_s: float = 60.0
    idle_timeout_s: float = 60.0
    retries_max: int = 2
    """Other instances that are tried, only where that can do nothing twice."""
    retry_budget: float = 0.2
    """Retries at most this share of requests over 10 s, with 3 a second in any case."""
    drain_s: float = 30.0
    """So long an instance or a service that is taken out may finish what it has."""

    @property
    def rules(self) -> BalancerRules:
        """What of this the balancer goes by."""
        return BalancerRules(
            self.algorithm, self.fails_max, self.fail_timeout_s, self.slow_start_s, self.connections_max
        )

    @property
    def fixed_instances(self) -> tuple[Instance, ...]:
        """`instances`, parsed; `ValueError` for what `GatewayModel.validate` complains of."""
        return tuple(parse_instance(text) for text in self.instances)


class Share(Struct, frozen=True, forbid_unknown_fields=True):
    """A service's part of a route's traffic."""

    service: str
    percent: float = 100.0


class HeaderRules(Struct, frozen=True, forbid_unknown_fields=True):
    """Applied in the order: remove, set, add."""

    remove: tuple[str, ...] = ()
    set: dict[str, str] = {}
    add: dict[str, str] = {}


class Route(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which requests go to which services.

    Of those that match the most specific counts, wherever it stands: an exact host before a wildcard before any; then
    the longest path; then the most headers.
    """

    name: str
    host: str = ""
    """Exact, or ``*.example.com``; empty for any. Compared without case and port."""
    path: str = "/"
    """A prefix, by whole segments: /api matches /api and /api/x, not /apix. Compared as it was sent: a route says where
    a request goes and protects nothing."""
    headers: dict[str, str] = {}
    """All of these have these values."""
    shares: tuple[Share, ...]
    """Percentages that sum to 100: one for all, two for a canary or while blue goes over to green."""
    split_on: str = "request"
    """What decides which share a request belongs to: request (each by chance), client (its address), header:<name> or
    cookie:<name> (by the value; by the client's address where there is none). By all but the first a client stays with
    its share, also while its share grows. A client with a service's sticky cookie stays in any case."""
    request_headers: HeaderRules = HeaderRules()
    response_headers: HeaderRules = HeaderRules()
    log: bool = True
    """False leaves it out of the access log, as for health checks."""


class Certificate(Struct, frozen=True, forbid_unknown_fields=True):
    """PEM files; read anew when they change. The first is given to clients that name no host (SNI)."""

    certificate: str
    key: str
    hosts: tuple[str, ...] = ()
    """Empty: those that the certificate names."""


class Compression(Struct, frozen=True, forbid_unknown_fields=True):
    """Of responses that are not compressed already and whose clients take it."""

    enabled: bool = True
    encodings: tuple[str, ...] = ("zstd", "br", "gzip")
    """In order of preference."""
    types: tuple[str, ...] = (
        "text/html",
        "text/css",
        "text/plain",
        "text/xml",
        "text/javascript",
        "application/javascript",
        "application/json",
        "application/xml",
        "image/svg+xml",
    )
    bytes_min: int = 1_024


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on what clients may do."""

    body_bytes_max: int = 64 * 1024 * 1024
    header_bytes_max: int = 16 * 1024
    """One line; all of them together at most four times that."""
    headers_max: int = 100
    in_flight_max: int = 4_096
    connections_max: int = 16_384
    head_timeout_s: float = 10.0
    """A request's head must be whole after so long (slowloris)."""
    client_idle_s: float = 75.0


class GatewayModel(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything."""

    host: str = "127.0.0.1"
    port: int = 8080
    tls_port: int = 0
    """0: no TLS."""
    certificates: tuple[Certificate, ...] = ()
    redirect_to_tls: bool = False
    http2: bool = True
    trusted_proxies: tuple[str, ...] = ()
    registry_nodes: tuple[str, ...] = ()
    """HTTP URLs of nodes of the registry, Noctule's or Consul's; they are asked in turns. Empty: those of the command
    line."""
    services: tuple[Service, ...] = ()
    routes: tuple[Route, ...] = ()
    compression: Compression = Compression()
    limits: Limits = Limits()
    access_log: bool = True
    status: bool = True
    """Serve `/__noctule/status` and the API beside it, to clients on this machine only."""
    workers: int = 1
    """Processes that share the port."""

    def validate(self) -> None:
        """Raise one `ConfigError` that names every problem; see model_check.py."""
        # The checks are about as long as the model, and stand on it.
        from noctule.gateway.model_check import check_model

        check_model(self)
