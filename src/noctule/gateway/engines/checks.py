"""What may become part of an engine's config: everything else is refused before a line is written.

The renderers quote what they write; this is the second lock. A name, host or path that is no such thing never gets as
far as a quote, and whoever wrote it reads which one it was.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator

from noctule.base.errors import ConfigError
from noctule.core.balance.balancer import INSTANCES_MAX, WEIGHT_MAX
from noctule.gateway.engines.engine import Instances
from noctule.gateway.model import Algorithm, GatewayModel, HeaderRules

OWN_PATHS = "/__noctule"
"""Paths from here on are the gateway's own, in every engine."""

SPOKEN_FOR = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via", "Origin")
"""A request with one of these comes from here for somebody else, by a proxy or a page in a browser: no own pages."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\]")
_INSTANCE_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*|[0-9A-Fa-f:.]{{2,45}}")
_PATH = re.compile(r"/[!-~]{0,1023}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110 5.6.2
_COOKIE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MIME = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+*-]{1,64}")
_VALUE_MAX = 4_096

_FRAMING = frozenset({"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})


def check_renderable(model: GatewayModel, instances: Instances) -> None:
    """Raise one `ConfigError` that names all that no engine's config may hold."""
    if problems := [*_listener(model), *_services(model), *_routes(model), *_instances(model, instances)]:
        raise ConfigError("gateway: " + "; ".join(problems))


def _listener(model: GatewayModel) -> Iterator[str]:
    yield from _wrong("host", [model.host], _is_address)
    for name in ("port", "tls_port"):
        if not 0 <= getattr(model, name) <= 65_535:
            yield f"{name} is {getattr(model, name)}; it must be 0 to 65535"
    if model.port == 0 and model.tls_port == 0:
        yield "port is 0; an engine that is another program needs a port that is known beforehand"
    yield from _wrong("trusted_proxies", model.trusted_proxies, _is_network)
    yield from _wrong("compression.types", model.compression.types, _matches(_MIME))
    if model.tls_port and not model.certificates:
        yield "tls_port is set without a certificate"
    if model.redirect_to_tls and not model.tls_port:
        yield "redirect_to_tls is set without a tls_port"
    for certificate in model.certificates:
        yield from _wrong("certificates.hosts", certificate.hosts, _matches(_HOST))
        yield from _wrong("certificates", (certificate.certificate, certificate.key), _is_file)


def _services(model: GatewayModel) -> Iterator[str]:
    yield from _not_unique("service", [service.name for service in model.services])
    for service in model.services:
        where = f"service {service.name!r}"
        yield from _wrong(f"{where}: check.path", [service.check.path], _matches(_PATH))
        if service.sticky is not None:
            yield from _wrong(f"{where}: sticky.cookie", [service.sticky.cookie], _matches(_COOKIE))
        if service.algorithm is Algorithm.CONSISTENT_HASH:
            yield from _wrong(f"{where}: hash_on", [service.hash_on], _is_hash_key)


def _routes(model: GatewayModel) -> Iterator[str]:
    yield from _not_unique("route", [route.name for route in model.routes])
    services = {service.name for service in model.services}
    for route in model.routes:
        where = f"route {route.name!r}"
        if route.host:
            yield from _wrong(f"{where}: host", [route.host], _matches(_HOST))
        yield from _wrong(f"{where}: path", [route.path], lambda path: _is(_PATH, path) and not set(path) & set("?#"))
        yield from _wrong(f"{where}: headers", route.headers, _matches(_TOKEN))
        yield from _wrong(f"{where}: headers", route.headers.values(), is_header_value)
        unknown = sorted({share.service for share in route.shares} - services)
        if unknown:
            yield f"{where}: there is no service {', '.join(map(repr, unknown))}"
        if route.split_on not in ("request", "client"):
            yield from _wrong(f"{where}: split_on", [route.split_on], _is_request_part)
        if (
            not route.shares
            or sum(share.percent for share in route.shares) <= 0
            or any(share.percent < 0 for share in route.shares)
        ):
            yield f"{where}: no service has a share of it"
        for name, rules in (("request", route.request_headers), ("response", route.response_headers)):
            yield from _header_rules(f"{where}: {name}_headers", rules)


def _header_rules(where: str, rules: HeaderRules) -> Iterator[str]:
    names = [*rules.remove, *rules.set, *rules.add]
    yield from _wrong(where, names, _matches(_TOKEN))
    yield from (f"{where}: {name} belongs to the connection" for name in names if name.lower() in _FRAMING)
    # HAProxy has no empty headers, and nginx takes one for a header to remove.
    values = [*rules.set.values(), *rules.add.values()]
    yield from _wrong(where, values, lambda value: is_header_value(value) and bool(value))


def _instances(model: GatewayModel, instances: Instances) -> Iterator[str]:
    for service in model.services:
        found = instances.get(service.name, ())
        if len(found) > INSTANCES_MAX:
            yield f"service {service.name!r} has {len(found)} instances; the bound is {INSTANCES_MAX}"
        if len({each.id for each in found}) < len(found):
            yield f"service {service.name!r} has two instances of one id"
        for each in found:
            if not _is(_INSTANCE_HOST, each.host) or not 1 <= each.port <= 65_535:
                yield f"service {service.name!r}: instance {each.id!r} has no usable address ({each.address!r})"
            if not 1 <= each.weight <= WEIGHT_MAX:
                yield f"service {service.name!r}: instance {each.id!r} has weight {each.weight}; 1 to {WEIGHT_MAX}"


def is_header_value(text: str) -> bool:
    """Whether a header can have this value: no line ends and no other control characters (RFC 9110 5.5)."""
    return len(text) <= _VALUE_MAX and text == text.strip() and all(c == "\t" or " " <= c != "\x7f" for c in text)


def _not_unique(what: str, names: list[str]) -> Iterator[str]:
    yield from _wrong(f"{what} name", names, _matches(_NAME))
    if len({name.lower() for name in names}) < len(names):
        yield f"two {what}s have one name"


def _wrong(what: str, values: object, is_right: Callable[[str], bool]) -> Iterator[str]:
    assert hasattr(values, "__iter__")
    yield from (f"{what} has {value!r}" for value in values if not is_right(value))


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: _is(pattern, text)


def _is(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.fullmatch(text) is not None


def _is_address(text: str) -> bool:
    return text in ("", "*") or _is(_INSTANCE_HOST, text)


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "%" not in text


def _is_file(path: str) -> bool:
    return bool(path) and all(" " <= c != "\x7f" for c in path)


def _is_hash_key(text: str) -> bool:
    return text == "uri" or _is_request_part(text)


def _is_request_part(text: str) -> bool:
    kind, _, name = text.partition(":")
    return _is({"header": _TOKEN, "cookie": _COOKIE}[kind], name) if kind in ("header", "cookie") else False
