"""The model as nginx's files: pure text, for Debian's nginx 1.22 and later. nginx_driver.py runs them.

`nginx.conf` holds what is for all requests, `conf.d/upstreams.conf` the services and their instances (see
nginx_upstreams.py), `conf.d/routes.conf` which request goes where (see nginx_routes.py).
"""

import ipaddress
import re
from collections.abc import Iterator

from noctule.base.errors import ConfigError
from noctule.gateway.engines.checks import REQUEST_ID, TRACEPARENT, check_renderable
from noctule.gateway.engines.engine import EnginePaths, Files, Instances, listed
from noctule.gateway.engines.nginx_routes import FORWARDING, forwarding_variable, render_routes
from noctule.gateway.engines.nginx_text import DOLLAR, block, header_variable, quote, seconds
from noctule.gateway.engines.nginx_upstreams import STICKY_INSTANCES_MAX, render_sticky_example, render_upstreams
from noctule.gateway.model import GatewayModel

CONFIG, UPSTREAMS, ROUTES = "nginx.conf", "conf.d/upstreams.conf", "conf.d/routes.conf"
STICKY_EXAMPLE = "conf.d/sticky-sessions.conf.example"

CONNECTIONS_SPARE = 128
"""For listeners and pages of nginx's own, beside two connections for each request."""

_IN_FLIGHT_MAX = 65_535
"""nginx counts no further."""

_NUMBERS = ("status", "bytes", "total_s")
_LOG = {
    "time": "$time_iso8601",
    "client": "$remote_addr",
    "method": "$request_method",
    "host": "$host",
    "path": "$noctule_path",
    "status": "$status",
    "bytes": "$bytes_sent",
    "route": "$noctule_route",
    "service": "$noctule_service",
    "instance": "$upstream_addr",
    "instance_status": "$upstream_status",
    "connect_s": "$upstream_connect_time",
    "first_byte_s": "$upstream_header_time",
    "total_s": "$request_time",
    "request_id": "$noctule_request_id",
    "tls": "$ssl_protocol",
}


def render_nginx(model: GatewayModel, instances: Instances, paths: EnginePaths) -> Files:
    """All files, by name. `ConfigError` naming everything that cannot be rendered.

    Every certificate must say its `hosts`, for this is pure: certificates.py reads them out of the files.
    """
    check_renderable(model, instances)
    if problems := list(_beyond_nginx(model, instances)):
        raise ConfigError("gateway with nginx: " + "; ".join(problems))
    return {
        CONFIG: "# Rendered by noctule gateway from its model: edit that.\n" + "\n".join(_main(model, paths)) + "\n",
        UPSTREAMS: render_upstreams(model, instances),
        ROUTES: render_routes(model, instances, paths),
        STICKY_EXAMPLE: render_sticky_example(model, instances),
    }


def _beyond_nginx(model: GatewayModel, instances: Instances) -> Iterator[str]:
    """What the model may hold and nginx cannot do."""
    for service in model.services:
        where, sticky = f"service {service.name!r}", service.sticky
        if sticky and not _is_word(sticky.cookie):
            yield f"{where}: sticky.cookie {sticky.cookie!r} must be letters, digits and underscores"
        if sticky and len(listed(instances, service)) > STICKY_INSTANCES_MAX:
            yield f"{where}: with stickiness nginx takes {STICKY_INSTANCES_MAX} instances, not more"
        if sticky and any(not _is_ip_address(each.host) for each in listed(instances, service)):
            yield f"{where}: with stickiness nginx takes instances by their addresses, not by names"
        yield from _unreadable(f"{where}: hash_on", service.hash_on)
    for route in model.routes:
        where = f"route {route.name!r}"
        yield from _unreadable(f"{where}: split_on", route.split_on)
        for name in (*route.headers, *route.request_headers.add):
            yield from _unreadable(where, f"header:{name}")


def _unreadable(where: str, part: str) -> Iterator[str]:
    kind, _, name = part.partition(":")
    if kind == "cookie" and not _is_word(name):
        yield f"{where}: nginx cannot read the cookie {name!r}: letters, digits and underscores"
    if kind == "header" and not re.fullmatch("[A-Za-z0-9-]+", name):
        yield f"{where}: nginx cannot read the header {name!r}: letters, digits and dashes"


def _main(model: GatewayModel, paths: EnginePaths) -> Iterator[str]:
    drain_s = max((service.drain_s for service in model.services), default=30.0)
    connections = 2 * model.limits.connections_max + CONNECTIONS_SPARE
    yield f"worker_processes {model.workers};"
    yield f"worker_rlimit_nofile {connections + CONNECTIONS_SPARE};"
    yield f"worker_shutdown_timeout {seconds(drain_s)};"
    yield f"pid {quote(paths.pid)};"
    yield "error_log stderr notice;"
    yield ""
    yield from block("events", [f"worker_connections {connections};"])
    yield ""
    yield from block("http", _http(model, paths))


def _http(model: GatewayModel, paths: EnginePaths) -> Iterator[str]:
    for kind in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi"):
        yield f"{kind}_temp_path {quote(f'{paths.temporary}/{kind}')};"
    yield "default_type application/octet-stream;"
    yield "server_tokens off;"
    yield "server_names_hash_bucket_size 128;"
    yield "map_hash_bucket_size 256;"
    yield "variables_hash_max_size 4096;"
    for part in (_log(model, paths), _limits(model), _compression(model), _tls(model), _client(model), _proxying()):
        if lines := list(part):
            yield from ("", *lines)
    yield ""
    yield "include conf.d/*.conf;"


def _log(model: GatewayModel, paths: EnginePaths) -> Iterator[str]:
    yield "# Without the query, which may hold what nobody should read in a log."
    yield from block("map $request_uri $noctule_path", ['"~^(?<noctule_before_query>[^?]*)" $noctule_before_query;'])
    fields = ",".join(f'"{name}":{value if name in _NUMBERS else quote(value)}' for name, value in _LOG.items())
    yield f"log_format noctule escape=json '{{{fields}}}';"
    yield f"access_log {quote(paths.access_log)} noctule;" if model.access_log else "access_log off;"


def _limits(model: GatewayModel) -> Iterator[str]:
    limits = model.limits
    idle = seconds(max((service.idle_timeout_s for service in model.services), default=60.0))
    yield f"client_max_body_size {limits.body_bytes_max};"
    yield f"client_header_buffer_size {min(1_024, limits.header_bytes_max)};"
    yield f"large_client_header_buffers 4 {limits.header_bytes_max};"
    yield f"client_header_timeout {seconds(limits.head_timeout_s)};"
    yield f"client_body_timeout {idle};"
    yield f"send_timeout {idle};"
    yield f"keepalive_timeout {seconds(limits.client_idle_s)};"
    yield "keepalive_requests 100000;"
    yield "reset_timedout_connection on;"
    yield from block("geo $noctule_everyone", ["default 1;"])
    yield "limit_conn_zone $noctule_everyone zone=_in_flight:32k;"
    yield "limit_conn_status 503;"
    yield f"limit_conn _in_flight {min(limits.in_flight_max, _IN_FLIGHT_MAX)};"


def _compression(model: GatewayModel) -> Iterator[str]:
    compression = model.compression
    if not compression.enabled or "gzip" not in compression.encodings:
        yield "gzip off;"
        return
    yield "gzip on;"
    yield "gzip_vary on;"
    yield "gzip_proxied any;"
    yield f"gzip_min_length {compression.bytes_min};"
    # nginx compresses text/html in any case, and complains when it is named.
    if types := [each for each in compression.types if each != "text/html"]:
        yield f"gzip_types {' '.join(types)};"


def _tls(model: GatewayModel) -> Iterator[str]:
    if model.tls_port:
        yield "ssl_protocols TLSv1.2 TLSv1.3;"
        yield "ssl_prefer_server_ciphers off;"
        yield "ssl_session_cache shared:_tls:10m;"
        yield "ssl_session_timeout 1h;"


def _client(model: GatewayModel) -> Iterator[str]:
    """Variables that say who the client is, whatever it says itself."""
    networks = [str(ipaddress.ip_network(text, strict=False)) for text in model.trusted_proxies]
    if networks:
        yield from (f"set_real_ip_from {network};" for network in networks)
        yield "real_ip_header X-Forwarded-For;"
        yield "real_ip_recursive on;"
    yield from block(
        "geo $realip_remote_addr $noctule_from_proxy", ["default 0;", *(f"{each} 1;" for each in networks)]
    )
    yield from _map("$http_host", "$noctule_port", '""', ('"~(?<noctule_own_port>:[0-9]+)$"', "$noctule_own_port"))
    for name, own in (
        ("for", "$realip_remote_addr"),
        ("proto", "$scheme"),
        ("host", "$host$noctule_port"),
    ):
        said = f"$noctule_said_{name}"
        value = f'"{said}, $realip_remote_addr"' if name == "for" else said
        asked = f'"$noctule_from_proxy:$http_x_forwarded_{name}"'
        yield from _map(asked, f"$noctule_forwarded_{name}", own, (f'"~^1:(?<{said[1:]}>.+)$"', value))
    for name in FORWARDING:
        yield from _map("$noctule_from_proxy", forwarding_variable(name), '""', ("1", header_variable(name)))
    yield from _map(
        "$http_x_request_id", "$noctule_request_id", "$request_id", (quote("~" + REQUEST_ID), "$http_x_request_id")
    )
    # The trace's id is the request's; half of it does for the first span.
    yield from _map("$request_id", "$noctule_span", '""', ('"~^(?<noctule_half>.{16})"', "$noctule_half"))
    fresh = '"00-$request_id-$noctule_span-01"'
    yield from _map("$http_traceparent", "$noctule_trace", fresh, (quote("~" + TRACEPARENT), "$http_traceparent"))
    yield from _map("$upstream_http_x_request_id", "$noctule_answer_id", '""', ('""', "$noctule_request_id"))


def _proxying() -> Iterator[str]:
    yield "# A WebSocket's Upgrade goes on; every other request leaves the connection to its instance open."
    yield from _map("$http_upgrade", "$connection_upgrade", "upgrade", ('""', '""'))
    yield from block(f"geo {DOLLAR}", ['default "$";'])
    yield "proxy_http_version 1.1;"
    yield "proxy_cache_bypass $http_upgrade;"
    yield "# What was sent and is not idempotent is not sent to another instance."
    yield "proxy_next_upstream error timeout;"


def _map(source: str, variable: str, default: str, *entries: tuple[str, str]) -> Iterator[str]:
    yield from block(
        f"map {source} {variable}", [f"default {default};", *(f"{key} {value};" for key, value in entries)]
    )


def _is_word(text: str) -> bool:
    return re.fullmatch("[A-Za-z0-9_]+", text) is not None


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
