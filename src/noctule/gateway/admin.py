"""The gateway's own paths: `/__noctule/` status, API and metrics, for whoever works on this machine.

They stand on the gateway's own port, so that nothing more has to be opened and forgotten. `is_admitted` is the lock: a
client on this machine that nobody speaks through, and that is no page in a browser which was lured here.
"""

import html
import ipaddress
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
from msgspec import Struct

from noctule.base.errors import ConfigError, NoctuleError, Outcome, OutcomeUnknownError, RequestError, UnavailableError
from noctule.core.balance.routing import plain_host
from noctule.gateway.control import Control, ControlPicture, Progress
from noctule.gateway.metrics import CONTENT_TYPE, render_metrics
from noctule.gateway.model_file import MODEL_BYTES_MAX, model_of, parse_model

PREFIX = "/__noctule/"
"""Paths under which the gateway answers for itself; no route gets them."""

HEALTH = f"{PREFIX}health"

BODY_BYTES_MAX = MODEL_BYTES_MAX

_OWN_HOSTS = frozenset(("localhost", "127.0.0.1", "[::1]"))
_SPOKEN_FOR = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
_STATUS_OF: dict[type[NoctuleError], int] = {
    ConfigError: 422,
    RequestError: 400,
    UnavailableError: 503,
    OutcomeUnknownError: 504,
}


class AdminAnswer(NamedTuple):
    """One answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Admin = Callable[[str, str, bytes], Awaitable[AdminAnswer]]
"""Method, path with its query, and body of a request that was admitted."""


def is_admitted(peer: str, path: str, header: Callable[[str], str | None]) -> bool:
    """Whether a request may reach one of these paths. `peer` is the address of the connection itself.

    Whether the gateway is there, anybody may ask, as a balancer before it does.

    A proxy on this machine connects from here too, for strangers, and says so in a header. A page that a browser on
    this machine shows may send requests here as well: those have an Origin, or come by a name that is not ours.
    """
    if path == HEALTH:
        return True
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if not (mapped or address).is_loopback or plain_host(header("host") or "") not in _OWN_HOSTS:
        return False
    return header("origin") is None and all(header(name) is None for name in _SPOKEN_FOR)


class _Drain(Struct, forbid_unknown_fields=True):
    service: str
    instance: str


class _Shares(Struct, forbid_unknown_fields=True):
    route: str
    shares: dict[str, float]


class _Switch(Struct, forbid_unknown_fields=True):
    route: str
    service: str


class Endpoint(NamedTuple):
    """One request that is understood, below `PREFIX`."""

    method: str
    path: str
    handler: str
    """A method of `AdminApi`."""
    meaning: str


ENDPOINTS = (
    Endpoint("GET", "", "page", "The status as a page."),
    Endpoint("GET", "status", "status", "Config, workers, routes, services, instances, and what they have counted."),
    Endpoint("GET", "metrics", "metrics", "The same for Prometheus."),
    Endpoint("GET", "health", "health", "200 while the gateway takes requests; for anybody."),
    Endpoint("GET", "api/model", "get_model", "The config in force, what was set by this API included."),
    Endpoint("PUT", "api/model", "put_model", "Another config, as JSON or TOML; a bad one is refused (422)."),
    Endpoint("GET", "api/instances", "instances", "Instances by service."),
    Endpoint("POST", "api/drain", "drain", '`{"service", "instance"}` gets nothing new.'),
    Endpoint("POST", "api/undrain", "undrain", "The same instance may have requests again."),
    Endpoint("POST", "api/shares", "shares", '`{"route", "shares": {service: percent}}` from the next request on.'),
    Endpoint("POST", "api/switch", "switch", '`{"route", "service"}`: all of the route to one service.'),
    Endpoint("POST", "api/reload", "reload", "Read the config anew, as SIGHUP does."),
)
"""Those that change something answer once every worker goes by the change: 200, or 202 while what is on its way out
still has requests in flight, which `in_flight` counts."""


class AdminApi:
    """Answers for one `Control`."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._handlers: dict[tuple[str, str], Callable[[bytes], Awaitable[AdminAnswer]]] = {
            (each.method, each.path): getattr(self, f"_{each.handler}") for each in ENDPOINTS
        }

    async def __call__(self, method: str, path: str, body: bytes) -> AdminAnswer:
        """The answer; raises nothing that a request could cause."""
        name = path.partition("?")[0].removeprefix(PREFIX)
        handler = self._handlers.get(("GET" if method == "HEAD" else method, name))
        if handler is None:
            allowed = sorted(each for each, known in self._handlers if known == name)
            if allowed:
                answer = _error(405, "method_not_allowed", f"{path} takes {' and '.join(allowed)}")
                return answer._replace(headers=[*answer.headers, ("Allow", ", ".join(allowed))])
            known = ", ".join(sorted({PREFIX + each for _, each in self._handlers}))
            return _error(404, "not_found", f"there is no {path}; there are {known}")
        if len(body) > BODY_BYTES_MAX:
            return _error(413, "too_large", f"the body is over the bound of {BODY_BYTES_MAX} bytes")
        try:
            return await handler(body)
        except NoctuleError as error:
            status = next((_STATUS_OF[kind] for kind in _STATUS_OF if isinstance(error, kind)), 500)
            return _error(status, error.code, str(error), error.outcome)
        except msgspec.DecodeError as error:
            return _error(400, "bad_request", f"the body is not what {path} takes: {error}")

    async def _page(self, body: bytes) -> AdminAnswer:
        page = render_page(await self._control.picture())
        return AdminAnswer(200, [("Content-Type", "text/html; charset=utf-8"), *_GUARDS], page.encode())

    async def _status(self, body: bytes) -> AdminAnswer:
        return _json(await self._control.picture())

    async def _metrics(self, body: bytes) -> AdminAnswer:
        text = render_metrics(await self._control.picture())
        return AdminAnswer(200, [("Content-Type", CONTENT_TYPE)], text.encode())

    async def _health(self, body: bytes) -> AdminAnswer:
        return _json({"status": "ok"})

    async def _get_model(self, body: bytes) -> AdminAnswer:
        return _json(self._control.model)

    async def _put_model(self, body: bytes) -> AdminAnswer:
        """JSON, as GET gives it, or TOML, as in a file."""
        try:
            if body.lstrip().startswith(b"{"):
                model = model_of(msgspec.json.decode(body, type=dict[str, object]), "the request")
            else:
                model = parse_model(body, "the request")
        except ConfigError as error:
            self._control.refuse(error)
            raise
        await self._control.bring_in(model)
        return await self._status(body)

    async def _instances(self, body: bytes) -> AdminAnswer:
        picture = await self._control.picture()
        return _json({service.name: service.instances for service in picture.traffic.services})

    async def _drain(self, body: bytes) -> AdminAnswer:
        wanted = msgspec.json.decode(body, type=_Drain)
        return _progress(await self._control.drain(wanted.service, wanted.instance, is_drained=True))

    async def _undrain(self, body: bytes) -> AdminAnswer:
        wanted = msgspec.json.decode(body, type=_Drain)
        return _progress(await self._control.drain(wanted.service, wanted.instance, is_drained=False))

    async def _shares(self, body: bytes) -> AdminAnswer:
        wanted = msgspec.json.decode(body, type=_Shares)
        return _progress(await self._control.set_shares(wanted.route, wanted.shares))

    async def _switch(self, body: bytes) -> AdminAnswer:
        wanted = msgspec.json.decode(body, type=_Switch)
        return _progress(await self._control.set_shares(wanted.route, {wanted.service: 100.0}))

    async def _reload(self, body: bytes) -> AdminAnswer:
        await self._control.reload()
        return await self._status(body)


def render_page(picture: ControlPicture) -> str:
    """The status for a person: no script, nothing from elsewhere."""
    rows = "".join(
        f"<tr><td>{_text(service.name)}<td>{_text(each.id)}<td>{_text(each.state)}<td>{each.weight}"
        f"<td>{each.in_flight}<td>{each.requests}<td>{each.failures}"
        for service in picture.traffic.services
        for each in service.instances
    )
    routes = "".join(
        f"<tr><td>{_text(route.name)}<td>{_text(' '.join(f'{k} {v}' for k, v in route.statuses.items()))}"
        for route in picture.traffic.routes
    )
    wrong = f"<p><b>config refused:</b> {_text(picture.config_error)}" if picture.config_error else ""
    return (
        "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=2><title>Noctule gateway</title>"
        "<style>body{font:14px system-ui;margin:2em}td,th{padding:.2em .8em;text-align:left}</style>"
        f"<h1>Noctule gateway</h1><p>{_text(picture.config)}, version {picture.traffic.version}, "
        f"{picture.workers} worker(s), {picture.traffic.in_flight} in flight, "
        f"{picture.traffic.requests} requests{wrong}"
        "<table><tr><th>service<th>instance<th>state<th>weight<th>in flight<th>requests<th>failures"
        f"{rows}</table><table><tr><th>route<th>responses{routes}</table>"
    )


_GUARDS = [
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
]


def _progress(progress: Progress) -> AdminAnswer:
    """202 while something is still on its way out: the change itself is done."""
    return _json(progress, 200 if progress.is_done else 202)


def _json(value: object, status: int = 200) -> AdminAnswer:
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    return AdminAnswer(status, headers, msgspec.json.encode(value))


def _error(status: int, code: str, message: str, outcome: Outcome = "not_applied") -> AdminAnswer:
    body = {"code": code, "message": message, "retryable": status == 503, "outcome": outcome}
    return _json({"error": body}, status)


def _text(text: str) -> str:
    return html.escape(text)
