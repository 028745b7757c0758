"""Services as nginx's upstreams. Sticky ones have one more for each instance, with all the others behind it.

nginx alone has no cookie that names an instance (nginx-plus has). But a map from the cookie to an upstream in which
that instance is the first and all others are backups does the same, failover included.
"""

from collections.abc import Iterable, Iterator

from noctule.gateway.engines.engine import Instances, digest_of, listed
from noctule.gateway.engines.nginx_text import block, header_variable, literally, quote, seconds
from noctule.gateway.instances import Instance, Standing
from noctule.gateway.model import Algorithm, GatewayModel, Service, Sticky

STICKY_INSTANCES_MAX = 64
"""Of one sticky service: their number squared is lines of the config."""

_PLUS_EXAMPLE = """\
# Sticky sessions, three ways. noctule gateway does not read this file: it is for an nginx of your own.
# Use it in the place of upstreams.conf:  cp sticky-sessions.conf.example upstreams.conf && nginx -s reload
#
# When to use them: an app that keeps sessions in its own memory, WebSockets with a fallback to long polling, or large
# caches of each client's own. When not: whenever sessions are in the store (noctule.kits), since any instance can then
# answer, load stays even, and a lost instance loses nobody's session.
#
# 1. By the client's address: below. Clients behind one address go to one instance, and nginx looks at the first three
#    numbers of an IPv4 address only.
#
# 2. By a cookie: [services.sticky] in the model of noctule gateway, with any engine.
#
# 3. By nginx-plus, which this is not; not verified here, for it needs a licence:
#    upstream app {
#        zone app 64k;
#        server app1:5000 max_fails=3 fail_timeout=30s;
#        server app2:5000 max_fails=3 fail_timeout=30s;
#        sticky cookie srv_id expires=1h path=/ httponly;
#    }
"""


def render_upstreams(model: GatewayModel, instances: Instances) -> str:
    """`conf.d/upstreams.conf`; a service without an instance that takes requests has no upstream."""
    lines = ["# Rendered by noctule gateway: services and their instances."]
    for service in model.services:
        found = listed(instances, service)
        if has_upstream(found):
            lines += ["", *_hash_key(service)]
            lines += _upstream(service.name, _method(service), service, _servers(service, found))
            if service.sticky:
                lines += _sticky(service, service.sticky, found)
    return "\n".join(lines) + "\n"


def render_sticky_example(model: GatewayModel, instances: Instances) -> str:
    """The same upstreams by the client's address, and in words when that is wanted."""
    lines = []
    for service in model.services:
        found = listed(instances, service)
        if has_upstream(found):
            lines += ["", *_upstream(service.name, ["ip_hash;"], service, _servers(service, found))]
            if service.sticky:
                lines += _sticky(service, service.sticky, found)
    return _PLUS_EXAMPLE + "\n".join(lines) + "\n"


def has_upstream(instances: Iterable[Instance]) -> bool:
    """Whether any of these may be given a request; without one there is nothing that nginx could ask."""
    return any(each.standing is Standing.SERVING for each in instances)


def target(service: Service) -> str:
    """What a request of the service is passed to: its upstream, or a variable that holds one."""
    return _variable("to", service) if service.sticky else service.name


def cookie_variable(service: Service) -> str:
    """The variable that holds the Set-Cookie of a sticky service, empty when the client has it already."""
    return _variable("cookie", service)


def _upstream(name: str, method: list[str], service: Service, servers: list[str]) -> list[str]:
    # A zone, so that all workers count one instance's failures and connections together.
    lines = [f"zone {name} {64 + 2 * len(servers)}k;", *method, *servers]
    if service.keepalive:
        lines.append(f"keepalive {service.keepalive};")
    return block(f"upstream {name}", lines)


def _method(service: Service) -> list[str]:
    match service.algorithm:
        case Algorithm.LEAST_CONNECTIONS:
            return ["least_conn;"]
        case Algorithm.ROUND_ROBIN:
            return []
        case Algorithm.IP_HASH:
            # Not nginx's own ip_hash, which takes 256 clients for one and moves most of them with every change.
            return ["hash $remote_addr consistent;"]
        case Algorithm.CONSISTENT_HASH:
            return [f"hash {_variable('key', service)} consistent;"]


def _hash_key(service: Service) -> list[str]:
    """What a client is told by: a request without the header or cookie goes by its address."""
    if service.algorithm is not Algorithm.CONSISTENT_HASH:
        return []
    part = request_part(service.hash_on)
    return block(f"map {part} {_variable('key', service)}", [f"default {part};", '"" $remote_addr;'])


def _servers(service: Service, instances: Iterable[Instance]) -> list[str]:
    return [_server(service, each) for each in instances]


def _server(service: Service, instance: Instance, role: str = "") -> str:
    words = [f"server {instance.address}"]
    if instance.weight != 1:
        words.append(f"weight={instance.weight}")
    words += [f"max_fails={service.fails_max}", f"fail_timeout={seconds(service.fail_timeout_s)}"]
    if service.connections_max:
        words.append(f"max_conns={service.connections_max}")
    if instance.standing is not Standing.SERVING:
        words.append("down")
    elif role:
        words.append(role)
    return " ".join(words) + ";"


def _sticky(service: Service, sticky: Sticky, instances: list[Instance]) -> Iterator[str]:
    serving = [each for each in instances if each.standing is Standing.SERVING]
    cookie = f"$cookie_{sticky.cookie}"
    keys, answered, answered_later = [], [], []
    for number, instance in enumerate(serving, 1):
        name, value = f"_sticky.{service.name}.{number}", digest_of(instance.id)
        others = [_server(service, each, "backup") for each in serving if each is not instance]
        yield from _upstream(name, ["least_conn;"], service, [_server(service, instance), *others])
        keys.append(f'"{value}" {name};')
        answered.append(f'"{instance.address}" "{value}";')
        answered_later.append(f'{quote(f"~, {literally(instance.address)}$")} "{value}";')
    yield from block(f"map {cookie} {target(service)}", [f"default {service.name};", *keys])
    by_address = ['default "";', *answered, *answered_later]
    yield from block(f"map $upstream_addr {_variable('answered', service)}", by_address)
    attributes = "; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if sticky.secure else "")
    attributes += f"; Max-Age={sticky.ttl_s}" if sticky.ttl_s else ""
    new = f'"{sticky.cookie}={_variable("answered", service)}{attributes}"'
    same = quote(r"~^([0-9a-f]+):\1$")
    known = ['"~^:" "";', f'{same} "";']
    source = f'"{_variable("answered", service)}:{cookie}"'
    yield from block(f"map {source} {cookie_variable(service)}", [f"default {new};", *known])


def request_part(text: str) -> str:
    """The variable that holds a part of the request: uri, ``header:<name>`` or ``cookie:<name>``."""
    kind, _, name = text.partition(":")
    if kind == "header":
        return header_variable(name)
    return f"$cookie_{name}" if kind == "cookie" else "$request_uri"


def _variable(what: str, service: Service) -> str:
    # Names of services may hold what names of variables may not.
    return f"$noctule_{what}_{digest_of(service.name)}"
