"""Where each request goes: the routes and the instances of the moment, replaced as one.

`Traffic.plan` finds the route and the service, `Plan.next` an instance of it, again for each attempt. A change makes a
new table and puts it in the old one's place in one step between two requests; a plan goes on with what it was made of.
"""

import asyncio
import random
from collections.abc import Callable, Set

from msgspec import Struct

from noctule.base.clock import Clock
from noctule.core.balance.breaker import Permit
from noctule.core.balance.routing import HeaderReader, RouteTable, pick_share, place_of
from noctule.core.balance.rules import Algorithm
from noctule.gateway.instances import Instance
from noctule.gateway.model import Route, Service
from noctule.gateway.orders import Orders
from noctule.gateway.pictures import GatewayPicture, RouteCounts
from noctule.gateway.pool import UNGUARDED, Flight, Gauge, Pool

_NOBODY: frozenset[str] = frozenset()


class Refusal(Struct, frozen=True):
    """Why a request goes nowhere; nothing of it was sent."""

    status: int
    code: str
    message: str
    retryable: bool


class Plan:
    """One request's way, from its head to the end of its response."""

    __slots__ = ("_counts", "_key", "_permit", "_pool", "_token", "route", "service")

    def __init__(
        self, route: Route, pool: Pool, permit: Permit, counts: RouteCounts, key: str, token: str | None
    ) -> None:
        self.route = route
        self.service = pool.service
        """Its timeouts and retries are those of the moment the plan was made."""
        self._pool = pool
        self._permit = permit
        self._counts = counts
        self._key = key
        self._token = token

    def next(self, excluding: Set[str] = _NOBODY) -> Flight | None:
        """A flight at an instance that is not among those ids; None when no instance may take the request.

        It counts as in flight from now on until `Flight.end`.
        """
        return self._pool.choose(excluding, self._key, self._token)

    def has_other(self, excluding: Set[str] = _NOBODY) -> bool:
        """Whether `next` would give one; asking counts nothing."""
        return self._pool.has_other(excluding)

    def may_retry(self) -> bool:
        """Whether the request may be sent once more; if so, that is taken from the service's budget of retries.

        Ask before each attempt but the first, when everything else allows it.
        """
        return self._pool.may_retry()

    def done(self, status: int, seconds: float) -> None:
        """The request is over: for the metrics, and the service's circuit breaker. Once, in any case.

        `status` is that of the response, 499 when the client left before there was one.
        """
        self._counts.add(status, seconds)
        if self._permit is not UNGUARDED:
            self._pool.conclude(self._permit, status)


class Traffic:
    """The routes and pools of one process. All calls are made in one event loop."""

    def __init__(self, orders: Orders, clock: Clock, chance: random.Random) -> None:
        self._clock = clock
        self._chance = chance
        self._changed = asyncio.Event()
        self._waiting = 0
        self._gauge = Gauge(self._notice)
        self._counts: dict[str, RouteCounts] = {}
        self._leaving: list[Pool] = []
        """Of services that are gone, as long as something is in flight there."""
        self._gone_requests = 0
        self._gone_failures = 0
        self.unrouted = 0
        self.on_instances: Callable[[], None] = _nothing
        """Called after each change of who is there, so that probes follow."""
        self._pools: dict[str, Pool] = {}
        self._table: RouteTable[Route] = RouteTable(())
        self.apply(orders)

    def apply(self, orders: Orders) -> None:
        """Do as these orders say from the next request on. They must have been validated."""
        services = {service.name: service for service in orders.model.services}
        drained: dict[str, set[str]] = {}
        for service_name, instance_id in orders.drained:
            drained.setdefault(service_name, set()).add(instance_id)
        pools: dict[str, Pool] = {}
        for name, service in services.items():
            pool = pools[name] = self._pools.get(name) or Pool(service, self._clock, self._gauge, self._chance)
            pool.follow(service, orders.instances_of(service), drained.get(name, _NOBODY))
        # A plan that knows a pool which is gone finds its instances there as before.
        self._leaving += [pool for name, pool in self._pools.items() if name not in pools]
        for route in orders.model.routes:
            self._counts.setdefault(route.name, RouteCounts())
        self.orders = orders
        self._in_flight_max = orders.model.limits.in_flight_max
        self._pools = pools
        self._table = RouteTable(orders.model.routes)
        self._watch()
        self._notice()
        self.on_instances()

    def plan(self, host: str, path: str, header: HeaderReader, client_ip: str) -> Plan | Refusal:
        """The way of a request. `path` is its target with the query, `header` gives values by lower-case names."""
        if self._gauge.in_flight >= self._in_flight_max:
            message = f"the gateway has {self._in_flight_max} requests in flight"
            return Refusal(503, "unavailable", message, retryable=True)
        route = self._table.match(host, path, header)
        if route is None:
            self.unrouted += 1
            return Refusal(404, "no_route", "no route of the gateway matches this host and path", retryable=False)
        shares = route.shares
        name = shares[0].service if len(shares) == 1 else self._share(route, header, client_ip)
        pool = self._pools[name]
        service = pool.service
        permit = pool.admit()
        if permit is None:
            return Refusal(503, "unavailable", f"service {name} fails; it is left alone for a moment", retryable=True)
        sticky = service.sticky
        token = None if sticky is None else cookie_in(header("cookie"), sticky.cookie) or ""
        key = _hash_key(service, path, header, client_ip) if service.algorithm.is_hash else ""
        return Plan(route, pool, permit, self._counts[route.name], key, token)

    @property
    def in_flight(self) -> int:
        """Requests and WebSockets at instances, those that have left included."""
        return self._gauge.in_flight

    def probes(self) -> list[tuple[Pool, Instance]]:
        """Who is to be asked how it is, and the pool that wants to know."""
        return [(pool, instance) for pool in self._pools.values() for instance in pool.probed_instances]

    def is_idle(self, service: str, instance_id: str) -> bool:
        """Whether an instance has nothing in flight; true too when it is not there."""
        pool = self._pools.get(service)
        return pool is None or pool.is_idle(instance_id)

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether a condition on this traffic came true within the time; looked at after each change."""
        self._waiting += 1
        self._watch()
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._changed.wait()
        except TimeoutError:
            return condition()
        finally:
            self._waiting -= 1
            self._watch()
        return True

    def picture(self) -> GatewayPicture:
        """A frozen picture; its invariants have been checked."""
        services = tuple(pool.describe() for pool in (*self._pools.values(), *self._leaving))
        return GatewayPicture(
            version=self.orders.version,
            in_flight=self.in_flight,
            requests=sum(each.requests for each in services) + self._gone_requests,
            failures=sum(each.failures for each in services) + self._gone_failures,
            unrouted=self.unrouted,
            services=services,
            routes=tuple(counts.describe(name) for name, counts in self._counts.items()),
        )

    def _share(self, route: Route, header: HeaderReader, client_ip: str) -> str:
        """The service for a client of a route with several."""
        for share in route.shares:
            sticky = self._pools[share.service].service.sticky
            if sticky is not None and share.percent > 0:
                token = cookie_in(header("cookie"), sticky.cookie)
                if token and self._pools[share.service].knows(token):
                    return share.service
        if route.split_on == "request":
            return pick_share(route, self._chance.random())
        # The route's name goes in, so that the clients of one canary are not those of every other one too.
        return pick_share(route, place_of(f"{route.name} {_value(route.split_on, header) or client_ip}"))

    def _watch(self) -> None:
        self._gauge.is_watched = self._waiting > 0 or bool(self._leaving)

    def _notice(self) -> None:
        for pool in [pool for pool in self._leaving if pool.in_flight == 0]:
            self._leaving.remove(pool)
            self._gone_requests += pool.requests
            self._gone_failures += pool.failures
            self._watch()
        # Whoever waits holds the old event, and is woken once; whoever comes after this waits for the next.
        self._changed.set()
        self._changed = asyncio.Event()


def cookie_in(cookies: str | None, name: str) -> str | None:
    """The value of the first cookie of a name in a Cookie header."""
    if not cookies or name not in cookies:
        return None
    for pair in cookies.split(";"):
        found, equals, value = pair.strip().partition("=")
        if equals and found == name:
            return value.strip('"')
    return None


def _hash_key(service: Service, path: str, header: HeaderReader, client_ip: str) -> str:
    if service.algorithm is Algorithm.IP_HASH:
        return client_ip
    return path if service.hash_on == "uri" else _value(service.hash_on, header) or client_ip


def _value(source: str, header: HeaderReader) -> str | None:
    """Of ``header:<name>`` or ``cookie:<name>``; None where the request has none, and for any other source."""
    kind, _, name = source.partition(":")
    if kind == "header":
        return header(name.lower())
    return cookie_in(header("cookie"), name) if kind == "cookie" else None


def _nothing() -> None:
    pass
