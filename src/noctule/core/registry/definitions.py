"""What is registered at a node: a service with its checks, and how each check is made. Pure values, and their rules.

Names and meanings are Consul's (agent API 1.8), durations are seconds. A node keeps these in its data folder; what the
cluster is told of them stands in objects.py, and shares its bounds.
"""

import re
from urllib.parse import urlsplit

from msgspec import Struct

from noctule.core.registry.bounds import (
    OUTPUT_BYTES_MAX,
    REMOVAL_MS_MAX,
    TTL_MS_MAX,
    require,
    require_fits,
    require_instance,
    require_name,
    require_text,
)
from noctule.core.registry.objects import CheckStatus, ServiceInstance, Weights

CHECKS_MAX = 32
"""Of one service."""
URL_BYTES_MAX = 8 * 1024
"""The same for the value of a header."""
BODY_BYTES_MAX = 64 * 1024
"""Of what an HTTP check sends."""
HEADERS_MAX = 32
INTERVAL_S_MIN = 0.1
"""A shorter interval is raised to it: a check must not become a load."""
INTERVAL_S_MAX = 86_400.0
COUNT_MAX = 1_000
"""Of successes or failures in a row."""
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")

NO_SCRIPTS = (
    "checks that run a command are not made: whoever may register a service would run programs on this machine; "
    "let the program report to a check with a ttl instead"
)
"""The answer to a check with a script or arguments."""

_VISIBLE = re.compile(r"[^\x00-\x20\x7f]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):([0-9]{1,5})")


class CheckDefinition(Struct, frozen=True, omit_defaults=True):
    """How a check is made. Exactly one of `ttl_s`, `http`, `tcp`, `grpc`, and the two of an alias says its kind."""

    id: str
    name: str = ""
    """The id when it is empty."""
    service_id: str = ""
    """The service that it is of, at the same node; empty for one of the whole node."""
    notes: str = ""
    ttl_s: float = 0.0
    """It is critical unless somebody reports within so long."""
    http: str = ""
    """A URL: 2xx is passing, 429 a warning, everything else critical."""
    method: str = "GET"
    headers: dict[str, tuple[str, ...]] = {}
    body: str = ""
    tls_skip_verify: bool = False
    """Take any certificate."""
    tcp: str = ""
    """host:port to which a connection must be possible."""
    grpc: str = ""
    """host:port, or host:port/service, whose standard health service must answer SERVING."""
    grpc_tls: bool = False
    alias_node: str = ""
    """Whose health this check repeats; with `alias_service` the health of that service there, else of the node."""
    alias_service: str = ""
    """At this node when no other is named."""
    interval_s: float = 10.0
    """Between two attempts."""
    timeout_s: float = 10.0
    """Of one attempt."""
    success_before_passing: int = 0
    """So many successes in a row until it is passing again; 0 and 1 are one."""
    failures_before_warning: int = 0
    """So many failures in a row until it is a warning; 0: as many as until it is critical."""
    failures_before_critical: int = 0
    """So many failures in a row until it is critical; 0 and 1 are one."""
    deregister_after_s: float = 0.0
    """Its service is removed when it was critical for so long; 0: never."""
    status: CheckStatus = CheckStatus.CRITICAL
    """Until it is made for the first time."""

    @property
    def kind(self) -> str:
        """ttl, http, tcp, grpc or alias."""
        kinds = {"ttl": self.ttl_s, "http": self.http, "tcp": self.tcp, "grpc": self.grpc}
        return next((kind for kind, value in kinds.items() if value), "alias")

    def validate(self) -> None:
        """Raise `RequestError` for the first thing that is wrong."""
        require_name(self.id, "the id of a check")
        who = f"check {self.id!r}"
        require_text(self.name, f"the name of {who}")
        require_fits(len(self.notes.encode("utf-8", "replace")), OUTPUT_BYTES_MAX, f"bytes of notes of {who}")
        self._require_kind(who)
        for name, value, high in (
            ("interval", self.interval_s, INTERVAL_S_MAX),
            ("timeout", self.timeout_s, INTERVAL_S_MAX),
            ("ttl", self.ttl_s, TTL_MS_MAX / 1000),
            ("deregister_after", self.deregister_after_s, REMOVAL_MS_MAX / 1000),
        ):
            require(0 <= value <= high, f"{who}: {name} must be from 0 to {high:.0f} seconds, not {value:g}")
        for name, count in (
            ("success_before_passing", self.success_before_passing),
            ("failures_before_warning", self.failures_before_warning),
            ("failures_before_critical", self.failures_before_critical),
        ):
            require(0 <= count <= COUNT_MAX, f"{who}: {name} must be from 0 to {COUNT_MAX}, not {count}")
        if self.http:
            self._require_http(who)
        for name, address in (("tcp", self.tcp), ("grpc", self.grpc.partition("/")[0])):
            require(not address or _is_address(address), f"{who}: {name} must be host:port, not {address!r}")
        sentence = f"{who}: gRPC has no way to take any certificate: leave tls_skip_verify out"
        require(not (self.grpc and self.grpc_tls and self.tls_skip_verify), sentence)

    def _require_kind(self, who: str) -> None:
        is_alias = bool(self.alias_node or self.alias_service)
        ways = {"ttl": self.ttl_s, "http": self.http, "tcp": self.tcp, "grpc": self.grpc, "alias": is_alias}
        given = [name for name, value in ways.items() if value]
        found = " and ".join(given) or "none"
        require(len(given) == 1, f"{who}: exactly one of {', '.join(ways)} says how it is made, not {found}")
        if given[0] in ("http", "tcp", "grpc"):
            sentence = f"{who}: a check by {given[0]} needs an interval and a timeout above 0"
            require(self.interval_s and self.timeout_s, sentence)

    def _require_http(self, who: str) -> None:
        try:
            parts = urlsplit(self.http)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_url = False
        require_fits(len(self.http), URL_BYTES_MAX, f"bytes of the URL of {who}")
        sentence = f"{who}: http must be a URL as in http://127.0.0.1:8000/health, not {self.http!r}"
        require(is_url and _VISIBLE.fullmatch(self.http), sentence)
        require(self.method in METHODS, f"{who}: the method must be one of {', '.join(METHODS)}, not {self.method!r}")
        require_fits(len(self.body.encode("utf-8", "replace")), BODY_BYTES_MAX, f"bytes of the body of {who}")
        require_fits(sum(map(len, self.headers.values())), HEADERS_MAX, f"headers of {who}")
        for name, values in self.headers.items():
            require(_FIELD_NAME.fullmatch(name), f"{who}: {name!r} is no name of a header (RFC 9110 5.6.2)")
            for value in values:
                require_fits(len(value), URL_BYTES_MAX, f"bytes of a header of {who}")
                require(_VALUE.fullmatch(value), f"{who}: the value of header {name} has control characters")


class ServiceDefinition(Struct, frozen=True, omit_defaults=True):
    """An instance of a service as it is registered at a node, with its checks."""

    id: str
    name: str
    tags: tuple[str, ...] = ()
    address: str = ""
    """Where it serves; empty means the node's."""
    port: int = 0
    meta: dict[str, str] = {}
    weights: Weights = Weights()
    tagged_addresses: dict[str, tuple[str, int]] = {}
    enable_tag_override: bool = False
    """Others may change its tags in the catalog, and the node lets them."""
    depends_on: tuple[str, ...] = ()
    """Names of services that it calls."""
    checks: tuple[CheckDefinition, ...] = ()
    """Each of this service, whatever its `service_id` says."""

    def validate(self) -> None:
        """Raise `RequestError` for the first thing that is wrong."""
        require_instance(self.instance("any"))
        require_fits(len(self.checks), CHECKS_MAX, f"checks of instance {self.id!r}")
        for check in self.checks:
            check.validate()
        is_plain = len({check.id for check in self.checks}) == len(self.checks)
        require(is_plain, f"instance {self.id!r}: two of its checks have one id")

    def instance(self, node: str) -> ServiceInstance:
        """What the registry has of it, on that node."""
        return ServiceInstance(
            node=node,
            id=self.id,
            name=self.name,
            tags=self.tags,
            address=self.address,
            port=self.port,
            meta=self.meta,
            weights=self.weights,
            tagged_addresses=self.tagged_addresses,
            enable_tag_override=self.enable_tag_override,
            depends_on=self.depends_on,
        )


def _is_address(text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    return match is not None and 1 <= int(match[2]) <= 65_535
