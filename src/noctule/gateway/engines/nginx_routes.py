"""Routes as nginx's servers and locations: which request goes where.

A server for each host and a location for each path, so that it can be read as one would have written it. Only where a
path has more than one answer (shares, or routes told apart by headers) does a variable name the location that takes the
request.
"""

from collections.abc import Iterator
from itertools import pairwise

from noctule.base.addresses import bracketed
from noctule.gateway.engines.checks import OWN_PATHS, SPOKEN_FOR
from noctule.gateway.engines.engine import EnginePaths, Instances, listed
from noctule.gateway.engines.nginx_text import block, header_variable, literally, quote, quote_value, seconds
from noctule.gateway.engines.nginx_upstreams import cookie_variable, has_upstream, request_part, target
from noctule.gateway.engines.order import PLACES, bounds_of_shares, is_within, plain_path, serves_host, specific_first
from noctule.gateway.engines.own_answers import OWN_ANSWERS, RETRY_AFTER_S
from noctule.gateway.model import Certificate, GatewayModel, Route, Service

FORWARDING = (
    "Forwarded",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Forwarded-Scheme",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "True-Client-IP",
)
"""Passed on from trusted proxies only. nginx has no way to name all that begin with X-Forwarded-."""

_HEADERS = {
    "Host": "$host$noctule_port",
    "Upgrade": "$http_upgrade",
    "Connection": "$connection_upgrade",
    "X-Real-IP": "$remote_addr",
    "X-Forwarded-For": "$noctule_forwarded_for",
    "X-Forwarded-Proto": "$noctule_forwarded_proto",
    "X-Forwarded-Host": "$noctule_forwarded_host",
    "X-Request-ID": "$noctule_request_id",
    "traceparent": "$noctule_trace",
}

_NOBODY = "@_no_route"


def forwarding_variable(name: str) -> str:
    """The variable that holds what a trusted proxy said in this header."""
    return "$noctule_" + name.lower().replace("-", "_")


def render_routes(model: GatewayModel, instances: Instances, paths: EnginePaths) -> str:
    """`conf.d/routes.conf`."""
    return "\n".join(_Routes(model, instances, paths.admin).lines()) + "\n"


class _Routes:
    """The servers, and the maps that they need beside them."""

    def __init__(self, model: GatewayModel, instances: Instances, admin: str) -> None:
        self._model = model
        self._admin = admin
        self._services = {service.name: service for service in model.services}
        self._with_upstream = {service.name for service in model.services if has_upstream(listed(instances, service))}
        self._maps: list[str] = []
        self._splits: dict[str, str] = {}
        """By route, the variable that says which location has a request."""
        self._before: dict[str, str] = {}
        """By the value of a header, the variable that holds it where something is added to it."""
        self._choices = 0

    def lines(self) -> list[str]:
        """All of the file."""
        model = self._model
        hosts = {route.host.lower() for route in model.routes}
        hosts |= {host.lower() for certificate in model.certificates for host in certificate.hosts if model.tls_port}
        servers = [line for host in sorted(hosts | {""}) for line in ["", *self._server(host)]]
        if model.redirect_to_tls:
            servers += ["", *self._redirect()]
        headers = [f"proxy_set_header {name} {value};" for name, value in _forwarded().items()]
        title = "# Rendered by noctule gateway: which request goes where."
        said = "".join(header_variable(name) for name in SPOKEN_FOR)
        spoken_for = block(f'map "{said}" $noctule_is_spoken_for', ["default 1;", '"" 0;'])
        answer_id = "add_header X-Request-ID $noctule_answer_id always;"
        errors = block(
            "map $status $noctule_error", [f"{each} {quote_value(text)};" for each, text in OWN_ANSWERS.items()]
        )
        errors += block("map $status $noctule_retry_after", ['default "";', f"503 {RETRY_AFTER_S};"])
        return [title, "", *headers, answer_id, "", *spoken_for, *errors, *self._maps, *servers]

    def _server(self, host: str) -> list[str]:
        """One host; the empty one is for all others."""
        candidates = specific_first(route for route in self._model.routes if serves_host(route, host))
        paths = sorted({plain_path(route) for route in candidates} | {""}, key=lambda path: (-len(path), path))
        named: dict[str, list[str]] = {}
        locations: list[str] = []
        for path in paths:
            chain = _until_certain(route for route in candidates if is_within(path, plain_path(route)))
            locations += ["", *block(_location(path), self._answer(host, path, chain, named))]
        for name, body in named.items():
            locations += ["", *block(f"location {name}", body)]
        head = [
            *self._listen(host),
            f"server_name {host or '_'};",
            'set $noctule_route "";',
            'set $noctule_service "";',
        ]
        return block("server", [*head, *self._own_pages(), *locations])

    def _listen(self, host: str) -> Iterator[str]:
        model, default = self._model, "" if host else " default_server"
        address = bracketed(model.host) or "*"
        if model.port and not model.redirect_to_tls:
            yield f"listen {address}:{model.port}{default};"
        if model.tls_port:
            certificate = _certificate_for(host, model.certificates)
            yield f"listen {address}:{model.tls_port} ssl{' http2' if model.http2 else ''}{default};"
            yield f"ssl_certificate {quote_value(certificate.certificate)};"
            yield f"ssl_certificate_key {quote_value(certificate.key)};"

    def _redirect(self) -> list[str]:
        model = self._model
        address = bracketed(model.host) or "*"
        port = "" if model.tls_port == 443 else f":{model.tls_port}"
        lines = [f"listen {address}:{model.port} default_server;", "server_name _;"]
        lines += ['set $noctule_route "";', 'set $noctule_service "";', *self._own_pages()]
        return block("server", [*lines, *block("location /", [f"return 308 https://$host{port}$request_uri;"])])

    def _own_pages(self) -> list[str]:
        """nginx's health and status; the rest is answered by the process that drives it, where there is one."""
        health = ["access_log off;", "default_type application/json;", 'return 200 \'{"status":"ok"}\';']
        locked = ["access_log off;", "allow 127.0.0.0/8;", "allow ::1;", "deny all;"]
        locked.append("if ($noctule_is_spoken_for) { return 403; }")
        lines = block(f"location = {OWN_PATHS}/health", health)
        if self._model.status:
            lines += block(f"location = {OWN_PATHS}/engine", ["stub_status;", *locked])
        if self._model.status and self._admin:
            passed = f"proxy_pass http://unix:{self._admin};"
            # Nothing of what is said of clients on other routes: this one is on this machine.
            lines += block(f"location ^~ {OWN_PATHS}/", [passed, "proxy_set_header Host $http_host;", *locked])
        else:
            lines += block(f"location ^~ {OWN_PATHS}/", ["return 404;"])
        lines += block(f"location = {OWN_PATHS}", ["return 404;"])
        lines.append(f"error_page {' '.join(map(str, OWN_ANSWERS))} @_error;")
        # The status stays that of the error.
        answer = ["default_type application/json;", "add_header Retry-After $noctule_retry_after always;"]
        return [*lines, *block("location @_error", [*answer, "return 200 $noctule_error;"])]

    def _answer(self, host: str, path: str, chain: list[Route], named: dict[str, list[str]]) -> list[str]:
        """What one location does; locations that it chooses from are added to `named`."""
        if not chain:
            return ["return 404;"]
        first = chain[0]
        services = bounds_of_shares(first)
        if len(chain) == 1 and not first.headers and len(services) == 1:
            return self._pass(first, self._services[services[0][0]])
        for route in chain:
            for name, _ in bounds_of_shares(route):
                named[_name(route, name)] = self._pass(route, self._services[name])
        if chain[-1].headers:
            named[_NOBODY] = ["return 404;"]
        return [f"try_files /.noctule {self._choice(host or 'any host', path or '/', chain)};"]

    def _choice(self, host: str, path: str, chain: list[Route]) -> str:
        """The variable that names the location by headers and shares."""
        if not chain[0].headers:
            return self._split(chain[0])
        self._choices += 1
        variable = f"$noctule_choice_{self._choices}"
        names = sorted({name.lower() for route in chain for name in route.headers})
        source = "\\n".join(header_variable(name) for name in names)
        entries = [f"# {host}, {path}"]
        for route in chain:
            wanted = {name.lower(): value for name, value in route.headers.items()}
            # No header holds a line end, so one cannot pretend to be two.
            parts = [literally(wanted[name]) if name in wanted else r"[^\n]*" for name in names]
            if route.headers:
                entries.append(f"{quote('~^' + chr(10).join(parts) + '$')} {self._split(route)};")
        last = chain[-1]
        entries.append(f"default {_NOBODY if last.headers else self._split(last)};")
        self._maps += ["", *block(f'map "{source}" {variable}', entries)]
        return variable

    def _split(self, route: Route) -> str:
        """The location of a route's only service, or the variable that names one by the shares."""
        bounds = bounds_of_shares(route)
        if len(bounds) == 1:
            return _name(route, bounds[0][0])
        if route.name not in self._splits:
            number = len(self._splits) + 1
            variable = self._splits[route.name] = f"$noctule_share_{number}"
            key = {"request": "$request_id", "client": "$remote_addr"}.get(route.split_on)
            if key is None:
                key, part = f"$noctule_place_{number}", request_part(route.split_on)
                self._maps += ["", *block(f"map {part} {key}", [f"default {part};", '"" $remote_addr;'])]
            lines = [
                f"{(end - begin) / (PLACES / 100):.2f}% {_name(route, service)};"
                for (service, begin), (_, end) in pairwise(bounds)
            ]
            lines.append(f"* {_name(route, bounds[-1][0])};")
            self._maps += ["", *block(f'split_clients "{key}" {variable}', lines)]
        return self._splits[route.name]

    def _pass(self, route: Route, service: Service) -> list[str]:
        """The lines that give a request to a service."""
        lines = [f"set $noctule_route {route.name};", f"set $noctule_service {service.name};"]
        if not route.log:
            lines.append("access_log off;")
        if service.name not in self._with_upstream:
            return [*lines, "return 503;"]
        lines += [
            f"proxy_pass http://{target(service)};",
            f"proxy_connect_timeout {seconds(service.connect_timeout_s)};",
            f"proxy_send_timeout {seconds(service.idle_timeout_s)};",
            f"proxy_read_timeout {seconds(service.response_timeout_s)};",
            f"proxy_next_upstream_tries {service.retries_max + 1};",
        ]
        return [*lines, *self._request_headers(route), *_response_headers(route, service)]

    def _request_headers(self, route: Route) -> list[str]:
        """Nothing when the route has no rules: then those of all routes are inherited, else none of them is."""
        rules = route.request_headers
        if not (rules.remove or rules.set or rules.add):
            return []
        headers = {name.lower(): (name, value) for name, value in _forwarded().items()}
        headers |= {name.lower(): (name, '""') for name in rules.remove}
        headers |= {name.lower(): (name, quote_value(value)) for name, value in rules.set.items()}
        for name, value in rules.add.items():
            # RFC 9110 5.3: two lines of one name mean what one line with a comma means.
            _, before = headers.get(name.lower(), (name, header_variable(name)))
            headers[name.lower()] = name, f'"{self._in_front(before)}{quote_value(value)[1:]}'
        return [f"proxy_set_header {name} {value};" for name, value in headers.values()]

    def _in_front(self, value: str) -> str:
        """A variable that holds a header's value and a comma, or nothing where the header is empty."""
        if value not in self._before:
            variable = self._before[value] = f"$noctule_before_{len(self._before) + 1}"
            inner = value[1:-1] if value.startswith('"') else value
            self._maps += ["", *block(f"map {value} {variable}", [f'default "{inner}, ";', '"" "";'])]
        return f"${{{self._before[value][1:]}}}"


def _response_headers(route: Route, service: Service) -> Iterator[str]:
    rules = route.response_headers
    cookie = [f"add_header Set-Cookie {cookie_variable(service)} always;"] if service.sticky else []
    if not (rules.remove or rules.set or rules.add or cookie):
        return
    hidden = {name.lower(): name for name in (*rules.remove, *rules.set)}
    yield from (f"proxy_hide_header {name};" for name in hidden.values())
    if "x-request-id" not in {name.lower() for name in rules.set}:
        yield "add_header X-Request-ID $noctule_answer_id always;"
    yield from cookie
    for headers in (rules.set, rules.add):
        yield from (f"add_header {name} {quote_value(value)} always;" for name, value in headers.items())


def _forwarded() -> dict[str, str]:
    return {**_HEADERS, **{name: forwarding_variable(name) for name in FORWARDING}}


def _until_certain(routes: Iterator[Route]) -> list[Route]:
    """The routes up to the first that takes whatever comes to it."""
    chain = []
    for route in routes:
        chain.append(route)
        if not route.headers:
            break
    return chain


def _location(path: str) -> str:
    return f"location ~ {quote(f'^{literally(path)}(?:/|$)')}" if path else "location /"


def _name(route: Route, service: str) -> str:
    return f"@{route.name}:{service}"


def _certificate_for(host: str, certificates: tuple[Certificate, ...]) -> Certificate:
    """The one that names the host, exactly before by a wildcard; the first for all others."""
    above = "*." + host.partition(".")[2]
    for wanted in (host, above):
        for certificate in certificates:
            if wanted in {name.lower() for name in certificate.hosts}:
                return certificate
    return certificates[0]
