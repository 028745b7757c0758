"""What the data plane asks of those who decide: which service a request goes to, and which instance of it.

The data plane knows sockets and bytes; routes, balancing, health, budgets and stickiness are decided elsewhere, behind
these few calls. `FleetTraffic` is the smallest of those deciders: one service, the instances of one `Fleet`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from noctule.gateway.config import Instance
from noctule.gateway.fleet import Fleet
from noctule.gateway.model import HeaderRules, Route, Service, Share

HeaderReader = Callable[[str], str | None]
"""Gives the value of a request's header by its lower-case name, None when it has none."""


class Flight(Protocol):
    """One request at one instance, from `Plan.next` until `end`."""

    @property
    def instance(self) -> Instance:
        """Where it is."""
        ...

    @property
    def is_draining(self) -> bool:
        """Whether the instance is to get nothing new."""
        ...

    @property
    def set_cookie(self) -> str:
        """The value of a Set-Cookie for the client, so that it comes back to this instance; empty for none."""
        ...

    def succeeded(self, latency_s: float) -> None:
        """The instance answered, so many seconds after it was asked."""

    def failed(self, reason: str, *, is_gone: bool = False) -> None:
        """The instance did not answer properly; `is_gone` when nothing listens there."""

    def end(self) -> None:
        """The request is over, or given up without a verdict. Exactly once."""


class Plan(Protocol):
    """What is to become of one request."""

    @property
    def route(self) -> Route:
        """The route it took."""
        ...

    @property
    def service(self) -> Service:
        """Who answers, and how long that may take."""
        ...

    @property
    def request_headers(self) -> HeaderRules:
        """Of the route."""
        ...

    @property
    def response_headers(self) -> HeaderRules:
        """Of the route."""
        ...

    def next(self, excluding: set[str]) -> Flight | None:
        """Begin it at the next instance, if there is one that is not excluded."""

    def may_retry(self) -> bool:
        """Whether the budget has a retry left; takes it."""
        ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nobody answers this request."""

    status: int
    """404: no route; 503: no instance."""
    message: str


class Traffic(Protocol):
    """Makes plans. Called in the data plane's loop; must not wait."""

    def plan(
        self, host: str, path: str, header: HeaderReader, client_ip: str, cookies: Callable[[str], str | None]
    ) -> Plan | Refusal:
        """For one request; `path` is without its query, `cookies` gives a cookie's value by its name."""
        ...


class FleetTraffic:
    """Every request goes to the instances of one fleet."""

    def __init__(self, fleet: Fleet, service: Service) -> None:
        self._fleet = fleet
        self._plan = _FleetPlan(fleet, service)

    def plan(
        self, host: str, path: str, header: HeaderReader, client_ip: str, cookies: Callable[[str], str | None]
    ) -> Plan | Refusal:
        """The same for all."""
        if self._fleet.choose() is None:
            return Refusal(503, "no instance of the app is healthy")
        return self._plan


class _FleetPlan:
    __slots__ = ("_fleet", "request_headers", "response_headers", "route", "service")

    def __init__(self, fleet: Fleet, service: Service) -> None:
        self._fleet = fleet
        self.service = service
        self.route = Route(name=service.name, shares=(Share(service.name),))
        self.request_headers = self.response_headers = HeaderRules()

    def next(self, excluding: set[str]) -> Flight | None:
        instance = self._fleet.choose(excluding)
        return None if instance is None else self._fleet.begin(instance)

    def may_retry(self) -> bool:
        return True
