"""What each engine can do of what the model says, and where it does something else: one table, in one place.

docs/reference/gateway-engines.md shows it, and the contract suite skips, with the reason given here, what an engine
cannot do. Nothing is left out in silence.
"""

from collections.abc import Callable
from typing import NamedTuple

from noctule.gateway.model import GatewayModel, Limits

YES = "yes"


class Ability(NamedTuple):
    """One row: a part of the model, and `YES` or a sentence for each engine; one that begins with "no" lacks it."""

    name: str
    embedded: str
    haproxy: str
    nginx: str

    def of(self, engine: str) -> str:
        """What is said of one engine."""
        return str(getattr(self, engine))

    def is_had_by(self, engine: str) -> bool:
        """Whether the engine has it, be it with a difference."""
        return not self.of(engine).startswith("no")


ABILITIES = (
    Ability("least connections, round robin, weights", YES, YES, YES),
    Ability("consistent hash, ip-hash", YES, YES, YES),
    Ability(
        "active checks",
        YES,
        YES,
        "no: an instance is out when requests to it fail (`fails_max` within `fail_timeout_s`), and back after "
        "`fail_timeout_s`; what the registry says of its health counts in any case",
    ),
    Ability(
        "failures take an instance out",
        YES,
        "yes: failed connections do; it is back with its first good check, without waiting for `fail_timeout_s`",
        YES,
    ),
    Ability("slow start", YES, YES, "no (nginx-plus has it)"),
    Ability("outlier ejection", YES, "no", "no"),
    Ability("circuit breaker of a service", YES, "no", "no"),
    Ability("retries of idempotent requests", YES, "yes: of requests that fit into a buffer", YES),
    Ability(
        "a short answer that breaks off is given by another instance",
        "yes: one of up to 64 KiB that says its length, to a request that may be repeated",
        "no: the client's connection is cut",
        "no: the client's connection is cut",
    ),
    Ability(
        "retry budget",
        YES,
        "no: `retries_max` of each request is the only bound",
        "no: `retries_max` of each request is the only bound",
    ),
    Ability(
        "a bound of requests for each instance",
        YES,
        "yes: more wait for up to `connect_timeout_s`",
        "yes: for each upstream of a sticky service by itself",
    ),
    Ability("shares of a route, by chance, client, header or cookie", YES, YES, YES),
    Ability(
        "a sticky cookie holds the share too",
        YES,
        "no: split on the client, a header or a cookie instead",
        "no: split on the client, a header or a cookie instead",
    ),
    Ability(
        "cookie stickiness",
        YES,
        YES,
        "yes: up to 64 instances, named by their addresses; by maps, for the directive is nginx-plus's",
    ),
    Ability(
        "instances, weights and shares change without a reload",
        YES,
        YES,
        "no: every change is a graceful reload, at most one in 0.5 s",
    ),
    Ability(
        "a switch or a reload fails no request",
        YES,
        YES,
        "no: a reload closes idle connections of clients, and a client that sends on one just then must try again; "
        "failures seen so far are forgotten",
    ),
    Ability(
        "drain",
        YES,
        YES,
        "yes: it is known to be done once all requests from before it are, those at other instances too",
    ),
    Ability(
        "WebSocket",
        YES,
        "yes: silent for an hour at most",
        "yes: silent for `response_timeout_s` at most",
    ),
    Ability("TLS 1.2 and 1.3, SNI, HTTP/2 to clients", YES, YES, YES),
    Ability("new certificates", YES, "yes: by a reload, within 2 s", "yes: by a reload, within 2 s"),
    Ability(
        "compression",
        YES,
        "yes: gzip only, and of any size",
        "yes: gzip only (Debian's nginx has no br and no zstd)",
    ),
    Ability(
        "a bound of the request body",
        YES,
        "yes: by Content-Length; one in chunks has no bound",
        YES,
    ),
    Ability(
        "bounds of the head",
        YES,
        "yes: of all lines together, and of their number; answered 400",
        "yes: of each line and of all together, not of their number; answered 400",
    ),
    Ability(
        "a bound of requests in flight",
        YES,
        "no: of connections only",
        YES,
    ),
    Ability("header rules", YES, YES, "yes: but Server and Date of a response cannot be removed"),
    Ability(
        "forwarding headers",
        YES,
        YES,
        "yes: of those that strangers send, X-Forwarded-* with names of their own pass",
    ),
    Ability("request ids and traceparent", YES, YES, YES),
    Ability("X-Noctule-Gateway tells the tries", YES, "no", "no"),
    Ability("X-Real-IP", YES, "yes: one that a trusted proxy sent is kept", YES),
    Ability("a client behind several trusted proxies", YES, "no: the last hop counts as the client", YES),
    Ability("paths are compared as they were sent", YES, YES, "no: decoded, and with dots and double slashes resolved"),
    Ability("its own errors are JSON", YES, YES, YES),
    Ability(
        "status page",
        "yes: HTML, JSON, Prometheus and an API",
        "yes: those (no counts by route), and its own page and metrics under /__noctule/engine",
        "yes: those (no counts), and stub_status under /__noctule/engine",
    ),
    Ability("access log as JSON", YES, YES, YES),
)

_BY_NAME = {ability.name: ability for ability in ABILITIES}


def ability(name: str) -> Ability:
    """The row of this name; `KeyError` when there is none."""
    return _BY_NAME[name]


_USED: dict[str, Callable[[GatewayModel], bool]] = {
    "active checks": lambda model: any(service.check.enabled for service in model.services),
    "slow start": lambda model: any(service.slow_start_s > 0 for service in model.services),
    "outlier ejection": lambda model: any(service.outlier_ratio > 0 for service in model.services),
    "circuit breaker of a service": lambda model: any(service.breaker_ratio > 0 for service in model.services),
    "retry budget": lambda model: any(service.retries_max > 0 for service in model.services),
    "a bound of requests in flight": lambda model: model.limits.in_flight_max != Limits().in_flight_max,
    "a client behind several trusted proxies": lambda model: bool(model.trusted_proxies),
    "a sticky cookie holds the share too": lambda model: (
        any(len(route.shares) > 1 for route in model.routes) and any(service.sticky for service in model.services)
    ),
}
"""Of what an engine may lack: whether a model asks for it, be it by a default that bounds what may go wrong."""


def lacks(engine: str, model: GatewayModel) -> list[str]:
    """What a model asks for and the engine does not do, each as a line for a person."""
    return [
        f"{name}: {ability(name).of(engine)}"
        for name, is_used in _USED.items()
        if not ability(name).is_had_by(engine) and is_used(model)
    ]


def render_abilities() -> str:
    """The table in Markdown."""
    lines = ["| what | embedded | HAProxy | nginx |", "|---|---|---|---|"]
    lines += [f"| {each.name} | {each.embedded} | {each.haproxy} | {each.nginx} |" for each in ABILITIES]
    return "\n".join(lines) + "\n"
