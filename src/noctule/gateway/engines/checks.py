"""What may become part of an engine's config: everything else is refused before a line is written.

The renderers quote what they write; this is the second lock. A name, host or path that is no such thing never gets as
far as a quote, and whoever wrote it reads which one it was.
"""

import re
from collections.abc import Iterator

from noctule.base.errors import ConfigError
from noctule.core.balance.balancer import INSTANCES_MAX, WEIGHT_MAX
from noctule.gateway.engines.engine import Instances
from noctule.gateway.model import GatewayModel
from noctule.gateway.model_check import check_model

OWN_PATHS = "/__noctule"
"""Paths from here on are the gateway's own, in every engine."""

SPOKEN_FOR = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via", "Origin")
"""A request with one of these comes from here for somebody else, by a proxy or a page in a browser: no own pages."""

REQUEST_ID = "^[!-~]{1,128}$"
TRACEPARENT = "^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$"
"""Regular expressions of what a client may say of a request's id and its trace (W3C Trace Context 2.2)."""

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_-]{1,63})*|[0-9A-Fa-f:.]{2,45}")


def check_renderable(model: GatewayModel, instances: Instances) -> None:
    """Raise one `ConfigError` that names all that is wrong with a model, or else all that no config can hold."""
    check_model(model)
    if problems := [*_listener(model), *_headers(model), *_instances(model, instances)]:
        raise ConfigError("gateway: " + "; ".join(problems))


def _listener(model: GatewayModel) -> Iterator[str]:
    if model.host != "*" and not _HOST.fullmatch(model.host):
        yield f"host is {model.host!r}; it must be an address"
    if model.port == 0:
        yield "port is 0; an engine that is another program must be told one"
    for each in model.certificates:
        if any(character < " " or character == "\x7f" for character in each.certificate + each.key):
            yield f"certificates has {each.certificate!r}; a path without control characters"
    for network in model.trusted_proxies:
        if "%" in network:
            yield f"trusted_proxies has {network!r}; no engine but the embedded one knows zones"


def _headers(model: GatewayModel) -> Iterator[str]:
    for route in model.routes:
        for name, value in route.headers.items():
            if not _is_line(value):
                yield f"route {route.name!r}: headers: {name} cannot have the value {value!r}"
        for rules in (route.request_headers, route.response_headers):
            for name, value in (*rules.set.items(), *rules.add.items()):
                # HAProxy has no empty headers, and nginx takes one for a header to remove.
                if not value or value != value.strip():
                    yield f"route {route.name!r}: the value of {name} is empty or has spaces around it"


def _instances(model: GatewayModel, instances: Instances) -> Iterator[str]:
    for service in model.services:
        found = instances.get(service.name, ())
        if len(found) > INSTANCES_MAX:
            yield f"service {service.name!r} has {len(found)} instances; the bound is {INSTANCES_MAX}"
        if len({each.id for each in found}) < len(found):
            yield f"service {service.name!r} has two instances of one id"
        for each in found:
            where = f"service {service.name!r}: instance {each.id!r}"
            if not _HOST.fullmatch(each.host) or not 1 <= each.port <= 65_535:
                yield f"{where} has no usable address ({each.address!r})"
            if not 1 <= each.weight <= WEIGHT_MAX:
                yield f"{where} has weight {each.weight}; 1 to {WEIGHT_MAX}"


def _is_line(text: str) -> bool:
    return len(text) <= 4_096 and all(c == "\t" or " " <= c != "\x7f" for c in text)
