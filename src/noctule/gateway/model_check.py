"""Everything that can be wrong with a model whose types are right, told at once, each with its table and field."""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from noctule.base.errors import ConfigError
from noctule.core.balance.balancer import INSTANCES_MAX
from noctule.gateway.instances import parse_instance
from noctule.gateway.model import Algorithm, Certificate, Compression, GatewayModel, HeaderRules, Limits, Route, Service

ROUTES_MAX = 1_024
SERVICES_MAX = 256
WORKERS_MAX = 64

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Of services and routes: what every engine takes as a name."""

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
"""RFC 9110 5.6.2: header and cookie names."""

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\]")
_PATH = re.compile(r"/[!-~]{0,1023}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+*-]{1,64}")
_FRAMING = frozenset(("connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"))
"""Headers whose change would change where a message ends."""


def check_model(model: GatewayModel) -> None:
    """Raise one `ConfigError` that names every problem."""
    if problems := [*_top(model), *_services(model), *_routes(model)]:
        raise ConfigError("gateway: " + "; ".join(problems))


def _top(model: GatewayModel) -> Iterator[str]:
    if not model.host:
        yield "host is empty; give an address, 0.0.0.0 for all"
    yield from _between("port", model.port, 0, 65_535)
    yield from _between("tls_port", model.tls_port, 0, 65_535)
    yield from _between("workers", model.workers, 1, WORKERS_MAX)
    if model.tls_port and not model.certificates:
        yield "tls_port is given and no certificate; add a [[certificates]] table"
    if model.tls_port and model.tls_port == model.port:
        yield f"port and tls_port are both {model.port}"
    if model.redirect_to_tls and not model.tls_port:
        yield "redirect_to_tls needs a tls_port"
    for text in model.trusted_proxies:
        if not _is_network(text):
            yield f"trusted_proxies has {text!r}; it must be an address or a network such as 10.0.0.0/8"
    for url in model.registry_nodes:
        if not _is_http(url):
            yield f"registry_nodes has {url!r}; it must be an http or https URL such as http://10.0.0.1:7501"
    for number, certificate in enumerate(model.certificates):
        yield from _certificate(certificate, f"certificates[{number}]")
    yield from _compression(model.compression)
    yield from _limits(model.limits)


def _certificate(certificate: Certificate, where: str) -> Iterator[str]:
    for name in ("certificate", "key"):
        if not getattr(certificate, name):
            yield f"{where}.{name} is empty; it must name a PEM file"
    yield from _all_match(f"{where}.hosts", certificate.hosts, _HOST, "a host name or *.example.com")


def _compression(compression: Compression) -> Iterator[str]:
    for encoding in compression.encodings:
        if encoding not in ("zstd", "br", "gzip"):
            yield f"compression.encodings has {encoding!r}; there are zstd, br and gzip"
    yield from _all_match("compression.types", compression.types, _MEDIA_TYPE, "a media type such as text/html")
    yield from _between("compression.bytes_min", compression.bytes_min, 0, 1 << 30)


def _limits(limits: Limits) -> Iterator[str]:
    yield from _between("limits.body_bytes_max", limits.body_bytes_max, 1, 1 << 40)
    yield from _between("limits.header_bytes_max", limits.header_bytes_max, 256, 1 << 20)
    yield from _between("limits.headers_max", limits.headers_max, 1, 10_000)
    yield from _between("limits.in_flight_max", limits.in_flight_max, 1, 1_000_000)
    yield from _between("limits.connections_max", limits.connections_max, 1, 1_000_000)
    yield from _above_zero("limits.head_timeout_s", limits.head_timeout_s)
    yield from _above_zero("limits.client_idle_s", limits.client_idle_s)


def _services(model: GatewayModel) -> Iterator[str]:
    if not model.services:
        yield "there is no service; add a [[services]] table"
    yield from _between("the number of services", len(model.services), 0, SERVICES_MAX)
    yield from _named("service", [service.name for service in model.services])
    for service in model.services:
        where = f"service {service.name!r}"
        yield from (f"{where}: {problem}" for problem in _service(service))


def _service(service: Service) -> Iterator[str]:
    if bool(service.instances) == bool(service.registry):
        yield "give either instances, or the registry's name for it"
    if service.tag and not service.registry:
        yield "tag chooses among a registry's instances; give registry too"
    yield from _instances(service)
    if service.algorithm is Algorithm.CONSISTENT_HASH and service.hash_on != "uri":
        yield from _source("hash_on", service.hash_on, "uri")
    if service.sticky is not None:
        yield from _all_match("sticky.cookie", [service.sticky.cookie], TOKEN, "a cookie's name")
        yield from _between("sticky.ttl_s", service.sticky.ttl_s, 0, 10**9)
    yield from _all_match("check.path", [service.check.path], _PATH, "a path that begins with /")
    yield from _above_zero("check.interval_s", service.check.interval_s)
    yield from _above_zero("check.timeout_s", service.check.timeout_s)
    for name in ("connect_timeout_s", "response_timeout_s", "idle_timeout_s", "fail_timeout_s"):
        yield from _above_zero(name, getattr(service, name))
    for name, low, high in (
        ("fails_max", 0, 1_000),
        ("slow_start_s", 0, 86_400),
        ("outlier_ratio", 0, 1),
        ("breaker_ratio", 0, 1),
        ("connections_max", 0, 1_000_000),
        ("keepalive", 0, 10_000),
        ("retries_max", 0, 10),
        ("retry_budget", 0, 10),
        ("drain_s", 0, 86_400),
    ):
        yield from _between(name, getattr(service, name), low, high)


def _instances(service: Service) -> Iterator[str]:
    if len(service.instances) > INSTANCES_MAX:
        yield f"instances has {len(service.instances)}; the bound is {INSTANCES_MAX}"
    ids: list[str] = []
    for text in service.instances:
        try:
            ids.append(parse_instance(text).id)
        except ValueError as error:
            yield f"instances: {error}"
    yield from (f"instances has {found} twice" for found in _twice(ids))


def _routes(model: GatewayModel) -> Iterator[str]:
    if not model.routes:
        yield "there is no route; add a [[routes]] table"
    yield from _between("the number of routes", len(model.routes), 0, ROUTES_MAX)
    yield from _named("route", [route.name for route in model.routes])
    services = {service.name for service in model.services}
    seen: dict[object, str] = {}
    for route in model.routes:
        where = f"route {route.name!r}"
        yield from (f"{where}: {problem}" for problem in _route(route, services))
        key = (
            route.host.lower(),
            route.path.rstrip("/"),
            frozenset((name.lower(), value) for name, value in route.headers.items()),
        )
        if key in seen:
            yield f"{where} matches the same requests as route {seen[key]!r}; take one out, or give it a header"
        seen.setdefault(key, route.name)


def _route(route: Route, services: set[str]) -> Iterator[str]:
    if route.host:
        yield from _all_match("host", [route.host], _HOST, "a host name, *.example.com, or empty for any")
    if not _PATH.fullmatch(route.path) or set(route.path) & set("?#"):
        yield f"path has {route.path!r}; it must begin with / and have no query"
    yield from _all_match("headers", route.headers, TOKEN, "a header's name")
    if route.split_on not in ("request", "client"):
        yield from _source("split_on", route.split_on, "request", "client")
    yield from _shares(route, services)
    yield from _header_rules("request_headers", route.request_headers)
    yield from _header_rules("response_headers", route.response_headers)


def _shares(route: Route, services: set[str]) -> Iterator[str]:
    for share in route.shares:
        if share.service not in services:
            yield f"shares: there is no service {share.service!r}; there are {', '.join(sorted(services)) or 'none'}"
        yield from _between(f"shares: percent of {share.service}", share.percent, 0, 100)
    yield from (f"shares has {name} twice" for name in _twice(share.service for share in route.shares))
    total = sum(share.percent for share in route.shares)
    if abs(total - 100) > 0.001:
        yield f"shares sum to {total:g}; they must sum to 100"


def _header_rules(where: str, rules: HeaderRules) -> Iterator[str]:
    names = [*rules.remove, *rules.set, *rules.add]
    yield from _all_match(where, names, TOKEN, "a header's name")
    for name in names:
        if name.lower() in _FRAMING:
            yield f"{where} has {name!r}, which is the connection's own and not to be changed"
    for name, value in (*rules.set.items(), *rules.add.items()):
        if len(value) > 4_096 or any(character != "\t" and not " " <= character != "\x7f" for character in value):
            yield f"{where}: the value of {name} must be one line of at most 4096 characters"


def _named(what: str, names: list[str]) -> Iterator[str]:
    yield from _all_match(f"the name of a {what}", names, NAME, "1 to 64 letters, digits, dots, dashes, underscores")
    yield from (f"two {what}s are called {name!r}" for name in _twice(name.lower() for name in names))


def _source(where: str, text: str, *words: str) -> Iterator[str]:
    kind, _, name = text.partition(":")
    if kind not in ("header", "cookie") or not TOKEN.fullmatch(name):
        yield f"{where} is {text!r}; it must be {', '.join(words)}, header:<name> or cookie:<name>"


def _all_match(where: str, values: Iterable[str], pattern: re.Pattern[str], meaning: str) -> Iterator[str]:
    yield from (f"{where} has {value!r}; it must be {meaning}" for value in values if not pattern.fullmatch(value))


def _between(where: str, value: float, low: float, high: float) -> Iterator[str]:
    # Not a number compares false with everything and so is refused here.
    if not low <= value <= high:
        yield f"{where} is {value:g}; it must be {low:g} to {high:,.15g}"


def _above_zero(where: str, value: float) -> Iterator[str]:
    if not 0 < value <= 86_400:
        yield f"{where} is {value:g}; it must be more than 0 and at most 86,400"


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
