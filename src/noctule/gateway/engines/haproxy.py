"""The model as HAProxy's files: pure text, for HAProxy 2.6 and later. haproxy_driver.py runs them.

`haproxy.cfg` holds what needs a reload, and the instances of the moment, so that a restart begins where it ended.
`shares.map` holds which services a route's requests go to, which changes while HAProxy runs; `certificates.list` which
certificate is for which names.
"""

from collections.abc import Iterable, Iterator

from noctule.base.addresses import bracketed
from noctule.gateway.engines.checks import OWN_PATHS, REQUEST_ID, SPOKEN_FOR, TRACEPARENT, check_renderable
from noctule.gateway.engines.engine import EnginePaths, Files, Instances, engine_name, listed
from noctule.gateway.engines.order import PLACES, bounds_of_shares, plain_path, specific_first
from noctule.gateway.engines.own_answers import OK, OWN_ANSWERS, RETRY_AFTER_S
from noctule.gateway.instances import Instance, Standing
from noctule.gateway.model import Algorithm, GatewayModel, HeaderRules, Route, Service

CONFIG, SHARES, CERTIFICATES = "haproxy.cfg", "shares.map", "certificates.list"

TUNNEL_S = 3_600
"""A WebSocket that is silent for so long is given up."""

_REWRITE_BYTES = 1_024
"""What HAProxy keeps free in a buffer for headers that are added."""

_BALANCE = {Algorithm.LEAST_CONNECTIONS: "leastconn", Algorithm.ROUND_ROBIN: "roundrobin"}

_LOG = {
    "time": '"%[date,utime(%Y-%m-%dT%H:%M:%S)]Z"',
    "client": '"%[var(txn.client)]"',
    "method": '"%HM"',
    "host": '"%[var(txn.host),json(utf8s)]"',
    "path": '"%[capture.req.uri,field(1,?),json(utf8s)]"',
    "status": "%ST",
    "bytes": "%B",
    "route": '"%[var(txn.route)]"',
    "service": '"%b"',
    "instance": '"%s"',
    "retries": "%rc",
    "queue_ms": "%Tw",
    "connect_ms": "%Tc",
    "first_byte_ms": "%Tr",
    "total_ms": "%Ta",
    "end": '"%tsc"',
    "request_id": '"%[var(txn.id),json(utf8s)]"',
    "tls": '"%sslv"',
}

_FORWARDING = (
    r"(?i)^(x[-_](forwarded[-_].*|real[-_]ip|client[-_]ip|cluster[-_]client[-_]ip)|forwarded|true[-_]client[-_]ip)$"
)
"""Headers that apps read a client's address, scheme or host from; some frameworks take an underscore for a dash."""


def render_haproxy(model: GatewayModel, instances: Instances, paths: EnginePaths) -> Files:
    """All files, by name. `ConfigError` naming everything that cannot be rendered."""
    check_renderable(model, instances)
    sections = [_global(model, paths), _defaults(model), _frontend(model, paths), _own_backends(model, paths)]
    sections += [_backend(service, listed(instances, service)) for service in model.services]
    files = {
        CONFIG: "# Rendered by noctule gateway from its model: edit that.\n" + "\n".join(map("\n".join, sections)),
        SHARES: "".join(f"{route.name} {shares_value(route)}\n" for route in model.routes),
    }
    if model.tls_port:
        files[CERTIFICATES] = "".join(
            _certificate_line(model, number, paths) for number in range(len(model.certificates))
        )
    return files


def render_structure(model: GatewayModel, paths: EnginePaths) -> Files:
    """What only a reload changes: everything but the instances and the shares."""
    # One instance stands for all: how servers are treated is structure, which of them there are is not.
    any_instance = Instance("any", "127.0.0.1", 1)
    files = render_haproxy(model, {service.name: [any_instance] for service in model.services}, paths)
    del files[SHARES]
    return files


def shares_value(route: Route) -> str:
    """What `shares.map` says of a route: ``begin:service`` for each of its services."""
    return ":".join(f"{begin}:{service}" for service, begin in bounds_of_shares(route))


def server_arguments(service: Service, instance: Instance) -> list[str]:
    """What follows ``server NAME``, and ``add server BACKEND/NAME`` at the runtime socket."""
    check = service.check
    words = [instance.address, "weight", str(instance.weight), "check", "inter", _ms(check.interval_s)]
    words += ["fall", str(max(service.fails_max, 1)), "rise", "1"]
    if service.fails_max:
        words += ["observe", "layer4", "error-limit", str(service.fails_max), "on-error", "mark-down"]
    if service.slow_start_s:
        words += ["slowstart", _ms(service.slow_start_s)]
    if service.connections_max:
        words += ["maxconn", str(service.connections_max)]
    return [*words, "pool-max-conn", str(service.keepalive)]


def quote(text: str) -> str:
    """A text as one word of a config line, whatever is in it."""
    escaped = "".join(f"\\{c}" if c in '\\"$' else c for c in text)
    return f'"{escaped}"'


def _global(model: GatewayModel, paths: EnginePaths) -> list[str]:
    limits = model.limits
    drain_s = max((service.drain_s for service in model.services), default=30.0)
    return [
        "global",
        f"  stats socket {quote(paths.socket)} mode 600 level admin expose-fd listeners",
        f"  pidfile {quote(paths.pid)}",
        "  log stdout format raw local0",
        f"  nbthread {model.workers}",
        f"  maxconn {limits.connections_max}",
        f"  hard-stop-after {_ms(drain_s)}",
        f"  tune.bufsize {4 * limits.header_bytes_max + _REWRITE_BYTES}",
        f"  tune.http.maxhdr {limits.headers_max}",
        "  ssl-default-bind-options ssl-min-ver TLSv1.2",
        "",
    ]


def _defaults(model: GatewayModel) -> list[str]:
    limits = model.limits
    lines = [
        "defaults",
        "  mode http",
        "  log global",
        "  option dontlognull",
        "  # Without it, a reload costs each idle connection of a client one failed request.",
        "  option idle-close-on-response",
        "  option redispatch 1",
        f"  timeout http-request {_ms(limits.head_timeout_s)}",
        f"  timeout http-keep-alive {_ms(limits.client_idle_s)}",
        f"  timeout client {_ms(max((service.idle_timeout_s for service in model.services), default=60.0))}",
        "  timeout connect 1s",
        "  timeout server 60s",
        f"  timeout tunnel {TUNNEL_S}s",
    ]
    for status, text in OWN_ANSWERS.items():
        retry = f' hdr Retry-After "{RETRY_AFTER_S}"' if status == 503 else ""
        lines.append(f"  http-error status {status} content-type application/json string {quote(text)}{retry}")
    return [*lines, ""]


def _frontend(model: GatewayModel, paths: EnginePaths) -> list[str]:
    routes = specific_first(model.routes)
    return [
        "frontend gateway",
        *_binds(model, paths),
        f"  maxconn {model.limits.connections_max}",
        *_log_lines(model),
        *_compression(model),
        "  acl is_local src 127.0.0.0/8 ::1",
        *(f"  acl is_spoken_for req.hdr_cnt({name}) gt 0" for name in SPOKEN_FOR),
        *([f"  acl is_proxy src {' '.join(model.trusted_proxies)}"] if model.trusted_proxies else []),
        f"  acl is_own path {OWN_PATHS}",
        f"  acl is_own path_beg {OWN_PATHS}/",
        *_own_pages(model, paths),
        *_redirect(model),
        f"  http-request deny deny_status 413 if {{ req.body_size gt {model.limits.body_bytes_max} }}",
        "  # A second try of anything else could do it twice.",
        "  http-request disable-l7-retry unless { method GET HEAD OPTIONS TRACE PUT DELETE }",
        "  http-request set-var(txn.host) req.hdr(host),host_only,lower,rtrim(.)",
        *_forwarding_headers(model),
        *(line for route in routes for line in _route_match(route)),
        *_choose_service(model, paths),
        *(line for route in routes for line in _route_rules(route)),
        "  http-response set-header X-Request-ID %[var(txn.id)] unless { res.hdr(x-request-id) -m found }",
        *(["  use_backend _admin if is_own"] if model.status and paths.admin else []),
        "  use_backend %[var(txn.service)] if { var(txn.service) -m found }",
        "  default_backend _no_route",
        "",
    ]


def _binds(model: GatewayModel, paths: EnginePaths) -> Iterator[str]:
    host = bracketed(model.host) or "*"
    if model.port:
        yield f"  bind {host}:{model.port}"
    if model.tls_port:
        alpn = "h2,http/1.1" if model.http2 else "http/1.1"
        crt_list = quote(f"{paths.folder}/{CERTIFICATES}")
        yield f"  bind {host}:{model.tls_port} ssl crt-list {crt_list} alpn {alpn}"


def _log_lines(model: GatewayModel) -> Iterator[str]:
    if not model.access_log:
        yield "  no log"
        return
    fields = ",".join(f'"{name}":{value}' for name, value in _LOG.items())
    yield f"  log-format {quote('{' + fields + '}')}"


def _compression(model: GatewayModel) -> Iterator[str]:
    if model.compression.enabled and "gzip" in model.compression.encodings:
        yield "  compression algo gzip"
        yield f"  compression type {' '.join(model.compression.types)}"


def _own_pages(model: GatewayModel, paths: EnginePaths) -> Iterator[str]:
    """HAProxy's health, page and metrics; the rest is answered by the process that drives it, where there is one."""
    is_health = f"{{ path {OWN_PATHS}/health }}"
    answer = f"return status 200 content-type application/json string {quote(OK)}"
    yield f"  http-request set-log-level silent if {is_health}"
    yield f"  http-request {answer} if {is_health}"
    yield "  http-request deny deny_status 403 if is_own !is_local or is_own is_spoken_for"
    if model.status:
        yield f"  http-request use-service prometheus-exporter if {{ path {OWN_PATHS}/engine/metrics }}"
        yield "  stats enable"
        yield f"  stats uri {OWN_PATHS}/engine"
        yield "  stats refresh 5s"
        if not paths.admin:
            yield f"  http-request deny deny_status 404 if is_own !{{ path_beg {OWN_PATHS}/engine }}"
    else:
        yield "  http-request deny deny_status 404 if is_own"


def _redirect(model: GatewayModel) -> Iterator[str]:
    if model.redirect_to_tls:
        port = "" if model.tls_port == 443 else f":{model.tls_port}"
        target = quote(f"https://%[req.hdr(host),host_only]{port}%[pathq]")
        yield f"  http-request redirect location {target} code 308 unless {{ ssl_fc }}"


def _forwarding_headers(model: GatewayModel) -> Iterator[str]:
    """Who the client is, in words that a client cannot put into its own mouth."""
    unless_proxy = " unless is_proxy" if model.trusted_proxies else ""
    yield f"  http-request del-header {quote(_FORWARDING)} -m reg{unless_proxy}"
    yield "  http-request set-var(txn.client) src"
    if model.trusted_proxies:
        yield "  http-request set-var(txn.client) req.hdr_ip(x-forwarded-for,-1) if is_proxy"
        yield "  http-request set-var(txn.hops) req.fhdr(x-forwarded-for)"
        hops = quote("%[var(txn.hops)], %[src]")
        yield f"  http-request set-header X-Forwarded-For {hops} if {{ var(txn.hops) -m found }}"
        yield "  http-request set-header X-Forwarded-For %[src] unless { var(txn.hops) -m found }"
    else:
        yield "  http-request set-header X-Forwarded-For %[src]"
    for name, value, condition in (
        ("X-Real-IP", "%[var(txn.client)]", ""),
        ("X-Forwarded-Proto", "https", " { ssl_fc }"),
        ("X-Forwarded-Proto", "http", " !{ ssl_fc }"),
        ("X-Forwarded-Host", "%[req.hdr(host)]", ""),
    ):
        yield f"  http-request set-header {name} {value} if !{{ req.hdr({name}) -m found }}{condition}"
    yield from _request_ids()


def _request_ids() -> Iterator[str]:
    """A request's id and its trace, where the client gave none that is one: the trace's id is then the request's."""
    yield "  http-request set-var(txn.fresh) uuid(),regsub(-,,g)"
    yield "  http-request set-var(txn.id) var(txn.fresh)"
    is_id = f"{{ req.fhdr(x-request-id) -m reg {quote(REQUEST_ID)} }}"
    yield f"  http-request set-var(txn.id) req.fhdr(x-request-id) if {is_id}"
    yield "  http-request set-header X-Request-ID %[var(txn.id)]"
    trace = quote("00-%[var(txn.fresh)]-%[uuid(),regsub(-,,g),bytes(0,16)]-01")
    is_trace = f"{{ req.fhdr(traceparent) -m reg {quote(TRACEPARENT)} }}"
    yield f"  http-request set-header traceparent {trace} unless {is_trace}"


def _route_match(route: Route) -> Iterator[str]:
    """Lines that set `txn.route` to this route when it matches and none before it did."""
    conditions = []
    host, path, acl = route.host.lower(), plain_path(route), f"match:{route.name}"
    if host:
        how = f"-m end {host[1:]}" if host.startswith("*") else f"-m str {host}"
        conditions.append(f"{{ var(txn.host) {how} }}")
    if path:
        yield f"  acl {acl} path -m str {quote(path)}"
        yield f"  acl {acl} path -m beg {quote(path + '/')}"
        conditions.append(acl)
    for number, (name, value) in enumerate(route.headers.items()):
        # Not in braces beside the others: a quoted `}` would end them all the same.
        how = f"-m str -- {quote(value)}" if value else "-m len 0"
        yield f"  acl {acl}:{number} req.fhdr({name}) {how}"
        conditions.append(f"{acl}:{number}")
    first = "!{ var(txn.route) -m found }"
    yield " ".join([f"  http-request set-var(txn.route) str({route.name}) if", first, *conditions])


def _choose_service(model: GatewayModel, paths: EnginePaths) -> Iterator[str]:
    """Lines that set `txn.service` by the route's shares, which are those of the map at this moment."""
    shares = f"map({paths.folder}/{SHARES})"
    yield f"  http-request set-var(txn.shares) var(txn.route),{shares} if {{ var(txn.route) -m found }}"
    yield f"  http-request set-var(txn.place) rand({PLACES})"
    for route in model.routes:
        if route.split_on != "request":
            yield f"  http-request set-var(txn.place) var(txn.client),xxh32,mod({PLACES}) if {_is_route(route)}"
        if ":" in route.split_on:
            sample = _request_part(route.split_on)
            is_given = f"{_is_route(route)} {{ {sample} -m found }}"
            yield f"  http-request set-var(txn.place) {sample},xxh32,mod({PLACES}) if {is_given}"
    yield "  http-request set-var(txn.service) var(txn.shares),word(2,:)"
    # Two at least, so that a canary of a route that had one service needs no reload.
    for number in range(2, max([2, *(len(route.shares) for route in model.routes)]) + 1):
        has_begun = f"{{ var(txn.shares),word({2 * number - 1},:),sub(txn.place) le 0 }}"
        yield f"  http-request set-var(txn.service) var(txn.shares),word({2 * number},:) if {has_begun}"


def _route_rules(route: Route) -> Iterator[str]:
    condition = f" if {_is_route(route)}"
    if not route.log:
        yield f"  http-request set-log-level silent{condition}"
    yield from (f"{line}{condition}" for line in _header_rules("http-request", route.request_headers))
    yield from (f"{line}{condition}" for line in _header_rules("http-response", route.response_headers))


def _header_rules(direction: str, rules: HeaderRules) -> Iterator[str]:
    yield from (f"  {direction} del-header {name}" for name in rules.remove)
    for action, headers in (("set", rules.set), ("add", rules.add)):
        yield from (f"  {direction} {action}-header {name} {_literal(value)}" for name, value in headers.items())


def _own_backends(model: GatewayModel, paths: EnginePaths) -> list[str]:
    lines = ["backend _no_route", "  http-request deny deny_status 404", ""]
    if model.status and paths.admin:
        lines += ["backend _admin", f"  server admin {quote(f'unix@{paths.admin}')}", ""]
    return lines


def _backend(service: Service, instances: Iterable[Instance]) -> list[str]:
    lines = [
        f"backend {service.name}",
        *_balance(service),
        *_sticky(service),
        *_check(service),
        f"  timeout connect {_ms(service.connect_timeout_s)}",
        f"  timeout queue {_ms(service.connect_timeout_s)}",
        f"  timeout server {_ms(service.response_timeout_s)}",
        f"  retries {service.retries_max}",
        "  retry-on conn-failure empty-response",
    ]
    for instance in instances:
        # A name that cannot be resolved now must not keep HAProxy from starting.
        words = [*server_arguments(service, instance), "init-addr", "libc,none"]
        disabled = [] if instance.standing is Standing.SERVING else ["disabled"]
        lines.append(" ".join(["  server", engine_name(instance.id), *words, *disabled]))
    return [*lines, ""]


def _balance(service: Service) -> Iterator[str]:
    if service.algorithm in _BALANCE:
        yield f"  balance {_BALANCE[service.algorithm]}"
        return
    yield "  http-request set-var(txn.key) var(txn.client)"
    if service.algorithm is Algorithm.CONSISTENT_HASH:
        sample = _request_part(service.hash_on)
        yield f"  http-request set-var(txn.key) {sample} if {{ {sample} -m found }}"
    yield "  balance hash var(txn.key)"
    yield "  hash-type consistent sdbm avalanche"


def _sticky(service: Service) -> Iterator[str]:
    sticky = service.sticky
    if sticky is None:
        return
    # `dynamic` makes the value from the address, so that instances that come while HAProxy runs have one too.
    yield f"  dynamic-cookie-key {service.name}"
    secure = " secure" if sticky.secure else ""
    age = f" attr {quote(f'Max-Age={sticky.ttl_s}')}" if sticky.ttl_s else ""
    yield f'  cookie {sticky.cookie} insert indirect nocache dynamic httponly{secure} attr "SameSite=Lax"{age}'


def _check(service: Service) -> Iterator[str]:
    check = service.check
    if check.enabled:
        yield "  option httpchk"
        yield f"  http-check send meth GET uri {quote(check.path)} ver HTTP/1.1 hdr Host {service.name}"
        yield "  http-check expect status 200-299"
    yield f"  timeout check {_ms(check.timeout_s)}"


def _certificate_line(model: GatewayModel, number: int, paths: EnginePaths) -> str:
    return " ".join([f"{paths.certificates}/{number}.pem", *model.certificates[number].hosts]) + "\n"


def _request_part(text: str) -> str:
    kind, _, name = text.partition(":")
    return {"uri": "pathq", "header": f"req.fhdr({name})", "cookie": f"req.cook({name})"}[kind]


def _is_route(route: Route) -> str:
    return f"{{ var(txn.route) -m str {route.name} }}"


def _literal(text: str) -> str:
    """A text where HAProxy takes a log format."""
    return quote(text.replace("%", "%%"))


def _ms(seconds: float) -> str:
    return f"{max(1, round(seconds * 1_000))}ms"
