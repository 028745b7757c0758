"""What is registered at a node: a service with its checks, and how each check is made. Pure values, and their rules.

Names and meanings are Consul's (agent API 1.8), durations are seconds. A node keeps these in its data folder; what the
cluster is told of them stands in objects.py.
"""

import re
from urllib.parse import urlsplit

from msgspec import Struct

from noctule.base.errors import RequestError
from noctule.core.registry.objects import CheckStatus, Weights

ID_BYTES_MAX = 256
"""Of an id or a name."""
TEXT_BYTES_MAX = 8 * 1024
"""Of notes, a URL, a header's value."""
BODY_BYTES_MAX = 64 * 1024
"""Of what an HTTP check sends."""
TAGS_MAX = 128
META_MAX = 64
"""Entries of metadata, as Consul's limit; each at most `META_BYTES_MAX`."""
META_BYTES_MAX = 512
HEADERS_MAX = 32
CHECKS_MAX = 32
"""Of one service."""
DEPENDENCIES_MAX = 64
INTERVAL_S_MIN = 0.1
"""A shorter interval is raised to it: a check must not become a load."""
DURATION_S_MAX = 30 * 86_400.0
DEREGISTER_AFTER_S_MIN = 60.0
"""A shorter one is raised to it, as Consul does: a restart must not cost a service its registration."""
OUTPUT_BYTES_MAX = 4 * 1024
"""Of what a check says; more is cut off."""
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")

NO_SCRIPTS = (
    "checks that run a command are not made: whoever may register a service would run programs on this machine; "
    "let the program report to a check with a ttl instead"
)
"""The answer to a check with a script or arguments."""

_NAME = re.compile(r"[^\x00-\x1f\x7f]+")
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

    def validate(self, where: str = "check") -> None:
        """Raise `RequestError` for the first thing that is wrong, named after `where`."""
        check_name(self.id, f"{where}.id")
        for name, text in (("name", self.name), ("notes", self.notes), ("http", self.http), ("tcp", self.tcp)):
            check_text(text, f"{where}.{name}")
        given = [
            name
            for name, value in (
                ("ttl", self.ttl_s),
                ("http", self.http),
                ("tcp", self.tcp),
                ("grpc", self.grpc),
                ("alias", self.alias_node or self.alias_service),
            )
            if value
        ]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise RequestError(f"{where}: exactly one of ttl, http, tcp, grpc, alias says how it is made, not {found}")
        for name, value, low in (
            ("interval", self.interval_s, 0.0),
            ("timeout", self.timeout_s, 0.0),
            ("ttl", self.ttl_s, 0.0),
            ("deregister_after", self.deregister_after_s, 0.0),
        ):
            if not low <= value <= DURATION_S_MAX:  # NaN is refused with it.
                raise RequestError(f"{where}.{name}: must be from 0 to {DURATION_S_MAX:.0f} seconds, not {value:g}")
        if given[0] in ("http", "tcp", "grpc") and not (self.interval_s and self.timeout_s):
            raise RequestError(f"{where}: a check by {given[0]} needs an interval and a timeout above 0")
        for name, count in (
            ("success_before_passing", self.success_before_passing),
            ("failures_before_warning", self.failures_before_warning),
            ("failures_before_critical", self.failures_before_critical),
        ):
            if not 0 <= count <= 1_000:
                raise RequestError(f"{where}.{name}: must be from 0 to 1000, not {count}")
        if self.http:
            self._validate_http(where)
        if self.grpc_tls and self.tls_skip_verify:
            raise RequestError(f"{where}.tls_skip_verify: gRPC has no way to take any certificate; leave it out")
        for name, address in (("tcp", self.tcp), ("grpc", self.grpc.partition("/")[0])):
            if address:
                check_address(address, f"{where}.{name}")

    def _validate_http(self, where: str) -> None:
        try:
            parts = urlsplit(self.http)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid or not _NAME.fullmatch(self.http):
            raise RequestError(f"{where}.http: must be a URL as in http://127.0.0.1:8000/health, not {self.http!r}")
        if self.method not in METHODS:
            raise RequestError(f"{where}.method: must be one of {', '.join(METHODS)}, not {self.method!r}")
        if len(self.body.encode()) > BODY_BYTES_MAX:
            raise RequestError(f"{where}.body: over {BODY_BYTES_MAX} bytes")
        values = [value for each in self.headers.values() for value in each]
        if len(values) > HEADERS_MAX:
            raise RequestError(f"{where}.headers: {len(values)}, and the limit is {HEADERS_MAX}")
        for name, given in self.headers.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
                raise RequestError(f"{where}.headers: {name!r} is no name of a header (RFC 9110 5.6.2)")
            for value in given:
                check_text(value, f"{where}.headers.{name}")
                if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
                    raise RequestError(f"{where}.headers.{name}: a value has no line breaks or control characters")


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

    def validate(self, where: str = "service") -> None:
        """Raise `RequestError` for the first thing that is wrong, named after `where`."""
        check_name(self.id, f"{where}.id")
        check_name(self.name, f"{where}.name")
        check_text(self.address, f"{where}.address")
        if not 0 <= self.port <= 65_535:
            raise RequestError(f"{where}.port: must be from 0 to 65535, not {self.port}")
        check_texts(self.tags, f"{where}.tags", TAGS_MAX)
        for name in check_texts(self.depends_on, f"{where}.depends_on", DEPENDENCIES_MAX):
            check_name(name, f"{where}.depends_on")
        check_meta(self.meta, f"{where}.meta")
        if not (0 <= self.weights.warning <= 65_535 and 1 <= self.weights.passing <= 65_535):
            raise RequestError(f"{where}.weights: passing must be from 1 and warning from 0 to 65535")
        check_texts(tuple(self.tagged_addresses), f"{where}.tagged_addresses", META_MAX)
        for name, (address, port) in self.tagged_addresses.items():
            check_text(address, f"{where}.tagged_addresses.{name}")
            if not 0 <= port <= 65_535:
                raise RequestError(f"{where}.tagged_addresses.{name}: the port must be from 0 to 65535, not {port}")
        if len(self.checks) > CHECKS_MAX:
            raise RequestError(f"{where}.checks: {len(self.checks)}, and the limit is {CHECKS_MAX}")
        for number, check in enumerate(self.checks):
            check.validate(f"{where}.checks[{number}]")
        if len({check.id for check in self.checks}) < len(self.checks):
            raise RequestError(f"{where}.checks: two of them have one id")


def check_name(text: str, where: str) -> None:
    """Raise `RequestError` unless it can be an id or a name."""
    if not text:
        raise RequestError(f"{where}: is missing")
    if len(text.encode("utf-8", "replace")) > ID_BYTES_MAX or not _NAME.fullmatch(text):
        raise RequestError(f"{where}: must be 1 to {ID_BYTES_MAX} bytes without control characters")


def check_text(text: str, where: str) -> None:
    """Raise `RequestError` unless it is of a length to keep."""
    if len(text.encode("utf-8", "replace")) > TEXT_BYTES_MAX:
        raise RequestError(f"{where}: over {TEXT_BYTES_MAX} bytes")


def check_texts(texts: tuple[str, ...], where: str, count_max: int) -> tuple[str, ...]:
    """The texts, of which there are not too many and none is too long; else raise `RequestError`."""
    if len(texts) > count_max:
        raise RequestError(f"{where}: {len(texts)}, and the limit is {count_max}")
    for text in texts:
        if len(text.encode("utf-8", "replace")) > ID_BYTES_MAX:
            raise RequestError(f"{where}: one of them is over {ID_BYTES_MAX} bytes")
    return texts


def check_meta(meta: dict[str, str], where: str) -> None:
    """Raise `RequestError` unless it is metadata of a size to keep."""
    if len(meta) > META_MAX:
        raise RequestError(f"{where}: {len(meta)} entries, and the limit is {META_MAX}")
    for key, value in meta.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", key):
            raise RequestError(f"{where}: the key {key!r} must be 1 to 128 letters, digits, dashes and underscores")
        if len(value.encode("utf-8", "replace")) > META_BYTES_MAX:
            raise RequestError(f"{where}.{key}: over {META_BYTES_MAX} bytes")


def check_address(address: str, where: str) -> None:
    """Raise `RequestError` unless it is host:port."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match[2]) <= 65_535:
        raise RequestError(f"{where}: must be host:port, not {address!r}")


def cut_output(text: str) -> str:
    """At most `OUTPUT_BYTES_MAX` of what a check said, whole characters."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= OUTPUT_BYTES_MAX else data[:OUTPUT_BYTES_MAX].decode("utf-8", "ignore")
