"""Plans and flights: every change is one swap, and nothing in flight loses its way by it."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.core.balance.rules import Algorithm
from noctule.gateway.instances import Instance, Standing
from noctule.gateway.model import ActiveCheck, GatewayModel, Limits, Route, Service, Share, Sticky
from noctule.gateway.orders import Orders
from noctule.gateway.pool import Flight, token_of
from noctule.gateway.traffic import Plan, Refusal, Traffic, cookie_in
from tests.unit.hand_clock import HandClock

UNCHECKED = ActiveCheck(enabled=False)


def service(name: str, count: int = 2, **more: Any) -> Service:
    """With instances name-1:80, name-2:80 and so on, which are not asked how they are."""
    instances = tuple(f"{name}-{number}:80" for number in range(1, count + 1))
    return Service(**{"name": name, "instances": instances, "check": UNCHECKED, **more})


def route(*shares: tuple[str, float], **more: Any) -> Route:
    return Route(**{"name": "r", "shares": tuple(Share(*share) for share in shares), **more})


BLUE_GREEN = GatewayModel(
    services=(service("blue"), service("green")), routes=(route(("blue", 100.0), ("green", 0.0)),)
)


class World:
    """A traffic, its clock, and a client of it."""

    def __init__(self, model: GatewayModel, **orders: Any) -> None:
        self.clock = HandClock()
        self.traffic = Traffic(Orders(model, **orders), self.clock, random.Random(7))

    def plan(self, path: str = "/", client: str = "10.0.0.1", **headers: str) -> Plan:
        plan = self.traffic.plan("localhost", path, header_reader(headers), client)
        assert isinstance(plan, Plan)
        return plan

    def fly(self, path: str = "/", client: str = "10.0.0.1", **headers: str) -> Flight:
        flight = self.plan(path, client, **headers).next()
        assert flight is not None
        return flight

    def ask(self, *parts: str, **headers: str) -> str:
        """One whole request; the id of its instance."""
        flight = self.fly(*parts, **headers)
        flight.succeeded(0.01)
        flight.end()
        return flight.instance.id

    def states(self) -> dict[str, str]:
        return {each.id: each.state for each in self.traffic.picture().instances}

    def probe(self, instance_id: str, *, is_good: bool = True) -> None:
        for pool, instance in self.traffic.probes():
            if instance.id == instance_id:
                pool.probed(instance, "probe", is_good=is_good)


def header_reader(headers: dict[str, str]) -> Callable[[str], str | None]:
    return lambda name: headers.get(name.replace("-", "_"))


def with_shares(model: GatewayModel, *shares: tuple[str, float]) -> GatewayModel:
    changed = msgspec.structs.replace(model.routes[0], shares=tuple(Share(*share) for share in shares))
    return msgspec.structs.replace(model, routes=(changed, *model.routes[1:]))


# --- Routes and shares ---


def test_what_no_route_matches_is_refused_and_counted() -> None:
    world = World(msgspec.structs.replace(BLUE_GREEN, routes=(route(("blue", 100.0), path="/api"),)))
    refusal = world.traffic.plan("localhost", "/", header_reader({}), "10.0.0.1")
    assert refusal == Refusal(404, "no_route", "no route of the gateway matches this host and path", retryable=False)
    assert world.traffic.picture().unrouted == 1


def test_over_the_bound_of_requests_in_flight_is_refused_until_one_ends() -> None:
    world = World(msgspec.structs.replace(BLUE_GREEN, limits=Limits(in_flight_max=2)))
    flights = [world.fly(), world.fly()]
    refusal = world.traffic.plan("localhost", "/", header_reader({}), "10.0.0.1")
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.retryable) == (503, True)
    flights[0].end()
    assert world.ask().startswith("blue")


def test_shares_by_chance_are_near_what_they_say() -> None:
    world = World(with_shares(BLUE_GREEN, ("blue", 90.0), ("green", 10.0)))
    counts = Counter(world.ask().partition("-")[0] for _ in range(2_000))
    assert 150 < counts["green"] < 250


@pytest.mark.parametrize("split_on", ["client", "cookie:session", "header:x-user"])
def test_a_client_stays_with_its_share_while_it_grows(split_on: str) -> None:
    model = msgspec.structs.replace(BLUE_GREEN, routes=(route(("blue", 95.0), ("green", 5.0), split_on=split_on),))
    world = World(model)

    def where(number: int) -> str:
        values = {"cookie": f"a=b; session=s{number}"} if split_on.startswith("cookie") else {"x_user": f"u{number}"}
        return world.ask("/", f"10.0.{number}.1", **values).partition("-")[0]

    before = {number: where(number) for number in range(400)}
    assert 5 <= Counter(before.values())["green"] <= 45
    assert {number: where(number) for number in before} == before
    world.traffic.apply(Orders(with_shares(model, ("blue", 70.0), ("green", 30.0))))
    after = {number: where(number) for number in before}
    assert all(after[number] == "green" for number, share in before.items() if share == "green")
    assert 80 <= Counter(after.values())["green"] <= 160


def test_a_sticky_cookie_keeps_a_client_in_its_share_as_long_as_there_is_one() -> None:
    services = (service("blue", sticky=Sticky()), service("green", sticky=Sticky()))
    model = msgspec.structs.replace(BLUE_GREEN, services=services)
    world = World(with_shares(model, ("blue", 99.0), ("green", 1.0)))
    cookie = f"noctule_instance={token_of('green-2:80')}"
    assert {world.ask(cookie=cookie) for _ in range(50)} == {"green-2:80"}
    world.traffic.apply(Orders(with_shares(model, ("blue", 100.0), ("green", 0.0))))
    assert all(world.ask(cookie=cookie).startswith("blue") for _ in range(50))


# --- Instances ---


def test_a_sticky_client_gets_a_cookie_and_comes_back_until_its_instance_is_drained() -> None:
    sticky = Sticky("lb", ttl_s=60, secure=False)
    world = World(GatewayModel(services=(service("app", 3, sticky=sticky),), routes=(route(("app", 100.0)),)))
    first = world.fly()
    assert first.set_cookie == f"lb={token_of(first.instance.id)}; Path=/; Max-Age=60; HttpOnly; SameSite=Lax"
    assert first.instance.host not in first.set_cookie
    cookie = f"x=y; {first.set_cookie.partition(';')[0]}"
    again = world.fly(cookie=cookie)
    assert (again.instance, again.set_cookie) == (first.instance, None)
    world.traffic.apply(Orders(world.traffic.orders.model, drained=(("app", first.instance.id),)))
    other = world.fly(cookie=cookie)
    assert other.instance != first.instance
    assert other.set_cookie is not None
    assert first.is_draining
    assert not other.is_draining
    # A retry does not go to the instance that has just failed, whatever the cookie says.
    plan = world.plan(cookie=other.set_cookie.partition(";")[0])
    flight = plan.next({other.instance.id})
    assert flight is not None
    assert flight.instance not in (other.instance, first.instance)
    assert plan.next({each.id for each in (other.instance, flight.instance)}) is None


def test_a_forged_cookie_is_a_client_without_one() -> None:
    world = World(GatewayModel(services=(service("app", sticky=Sticky()),), routes=(route(("app", 100.0)),)))
    assert {world.ask(cookie="noctule_instance=../../x") for _ in range(4)} == {"app-1:80", "app-2:80"}


def test_hashes_go_by_what_they_are_told() -> None:
    def homes(**more: Any) -> World:
        model = GatewayModel(services=(service("app", 8, **more),), routes=(route(("app", 100.0)),))
        return World(model)

    by_uri = homes(algorithm=Algorithm.CONSISTENT_HASH)
    assert {by_uri.ask("/a?1", f"10.0.0.{n}") for n in range(20)} == {by_uri.ask("/a?1")}
    assert len({by_uri.ask(f"/{n}") for n in range(100)}) == 8
    by_address = homes(algorithm=Algorithm.IP_HASH)
    assert {by_address.ask(f"/{n}") for n in range(20)} == {by_address.ask("/")}
    by_header = homes(algorithm=Algorithm.CONSISTENT_HASH, hash_on="header:X-Tenant")
    assert len({by_header.ask("/", f"10.0.0.{n}", x_tenant="t1") for n in range(20)}) == 1
    # Without the header the client's address decides.
    assert len({by_header.ask("/", f"10.0.0.{n}") for n in range(100)}) == 8


def test_failures_eject_one_that_stands_out_and_never_more_than_half() -> None:
    model = GatewayModel(
        services=(service("app", 4, outlier_ratio=0.5, fails_max=0, algorithm=Algorithm.ROUND_ROBIN),),
        routes=(route(("app", 100.0)),),
    )
    world = World(model)

    def run(bad: set[str]) -> None:
        for _ in range(200):
            flight = world.fly()
            if flight.instance.id in bad:
                flight.failed("reset")
            else:
                flight.succeeded(0.01)
            flight.end()

    run({"app-1:80"})
    assert world.states()["app-1:80"] == "ejected"
    assert "app-1:80" not in {world.ask() for _ in range(20)}
    run({f"app-{number}:80" for number in range(1, 5)})
    assert Counter(world.states().values())["ejected"] <= 2
    world.clock.seconds += 1_000.0
    assert set(world.states().values()) == {"healthy"}


def test_a_503_is_an_answer_and_makes_an_instance_stand_out() -> None:
    model = GatewayModel(services=(service("app", 3, outlier_ratio=0.5),), routes=(route(("app", 100.0)),))
    world = World(model)
    for _ in range(100):
        flight = world.fly()
        flight.succeeded(0.01, 503 if flight.instance.id == "app-1:80" else 200)
        flight.end()
    assert world.states() == {"app-1:80": "ejected", "app-2:80": "healthy", "app-3:80": "healthy"}
    assert world.traffic.picture().failures == 0


def test_the_retry_budget_is_spent_and_comes_back_with_requests() -> None:
    world = World(GatewayModel(services=(service("app", retry_budget=0.2),), routes=(route(("app", 100.0)),)))
    plan = world.plan()
    granted = sum(plan.may_retry() for _ in range(100))
    # Three a second over ten seconds, in any case.
    assert granted == 30
    for _ in range(50):
        world.ask()
    assert sum(plan.may_retry() for _ in range(100)) == 10
    picture = world.traffic.picture().services[0]
    assert (picture.retries, picture.retries_refused) == (40, 160)


def answered(world: World, status: int) -> None:
    plan = world.plan()
    flight = plan.next()
    assert flight is not None
    flight.succeeded(0.01, status)
    flight.end()
    plan.done(status, 0.01)


def breaker_of(world: World) -> str:
    return world.traffic.picture().services[0].breaker


def test_a_service_that_fails_is_left_alone_until_single_requests_find_it_well() -> None:
    model = GatewayModel(services=(service("app", breaker_ratio=0.5),), routes=(route(("app", 100.0)),))
    world = World(model)
    for _ in range(20):
        answered(world, 500)
        answered(world, 200)
        answered(world, 503)
    assert breaker_of(world) == "closed"
    for _ in range(20):
        answered(world, 503)
    assert breaker_of(world) == "open"
    refusal = world.traffic.plan("localhost", "/", header_reader({}), "10.0.0.1")
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.retryable) == (503, True)
    world.clock.seconds += 7.0
    probe = world.plan()
    assert isinstance(world.traffic.plan("localhost", "/", header_reader({}), "10.0.0.1"), Refusal)
    # Its client went away: that says nothing, and the place is free for another.
    probe.done(499, 0.1)
    for _ in range(3):
        answered(world, 200)
    assert breaker_of(world) == "closed"


def test_without_a_ratio_nothing_is_refused() -> None:
    world = World(GatewayModel(services=(service("app"),), routes=(route(("app", 100.0)),)))
    for _ in range(100):
        answered(world, 503)
    assert breaker_of(world) == ""


# --- Changes ---


def test_after_a_switch_every_request_is_greens_and_what_was_in_flight_ends_where_it_was() -> None:
    world = World(BLUE_GREEN)
    old_plan, old_flight = world.plan(), world.fly()
    world.traffic.apply(Orders(with_shares(BLUE_GREEN, ("blue", 0.0), ("green", 100.0))))
    assert {world.ask().partition("-")[0] for _ in range(200)} == {"green"}
    # A retry of a request that was planned before still finds an instance.
    retried = old_plan.next({old_flight.instance.id})
    assert retried is not None
    assert retried.instance.id.startswith("blue")
    assert world.traffic.picture().services[0].in_flight == 2
    for flight in (retried, old_flight):
        flight.succeeded()
        flight.end()
    assert world.traffic.picture().services[0].in_flight == 0


def test_a_service_that_is_gone_keeps_its_requests_until_they_end() -> None:
    world = World(BLUE_GREEN)
    plan, flight = world.plan(), world.fly()
    only_green = GatewayModel(services=(service("green"),), routes=(route(("green", 100.0)),))
    world.traffic.apply(Orders(only_green))
    late = plan.next()
    assert late is not None
    assert [each.name for each in world.traffic.picture().services] == ["green", "blue"]
    flight.end()
    late.end()
    world.traffic.apply(Orders(only_green))
    picture = world.traffic.picture()
    assert [each.name for each in picture.services] == ["green"]
    assert (picture.requests, picture.in_flight) == (2, 0)


def test_instances_that_stay_keep_what_is_known_of_them() -> None:
    model = GatewayModel(services=(service("app", 2),), routes=(route(("app", 100.0)),))
    world = World(model)
    flight = world.fly()
    flight.failed("refused", is_gone=True)
    flight.end()
    world.traffic.apply(Orders(msgspec.structs.replace(model, services=(service("app", 3, response_timeout_s=5.0),))))
    assert world.states() == {"app-1:80": "unhealthy", "app-2:80": "healthy", "app-3:80": "healthy"}
    assert world.plan().service.response_timeout_s == 5.0


def test_a_list_with_nobody_in_common_drops_no_request() -> None:
    """The new ones have not been asked yet: until one of them is well, the old ones go on."""
    model = GatewayModel(services=(Service(name="app"),), routes=(route(("app", 100.0)),))
    old, new = Instance("old", "h", 1), Instance("new", "h", 2)
    world = World(model, listed={"app": (old,)})
    world.probe("old")
    world.traffic.apply(Orders(model, {"app": (new,)}))
    assert world.ask() == "old"
    world.probe("new")
    assert world.ask() == "new"
    assert world.states() == {"new": "healthy"}


def test_the_old_ones_go_when_their_time_is_over_though_nobody_comes() -> None:
    model = GatewayModel(services=(Service(name="app", drain_s=30.0),), routes=(route(("app", 100.0)),))
    world = World(model, listed={"app": (Instance("old", "h", 1),)})
    world.probe("old")
    world.traffic.apply(Orders(model, {"app": (Instance("new", "h", 2),)}))
    world.clock.seconds += 30.0
    world.probe("new", is_good=False)
    assert world.states() == {"new": "starting"}
    assert world.plan().next() is None


def test_one_that_the_registry_lists_no_more_leaves_at_once() -> None:
    """It was deregistered, and would refuse; nobody is there is then the truth."""
    model = GatewayModel(services=(Service(name="app", registry="app"),), routes=(route(("app", 100.0)),))
    world = World(model, listed={"app": (Instance("old", "h", 1),)})
    world.probe("old")
    world.traffic.apply(Orders(model, {"app": (Instance("new", "h", 2),)}))
    assert world.states() == {"new": "starting"}


def test_a_critical_instance_leaves_at_once_and_one_in_maintenance_drains() -> None:
    model = GatewayModel(services=(service("app"),), routes=(route(("app", 100.0)),))
    a, b = Instance("a", "h", 1), Instance("b", "h", 2)
    world = World(model, listed={"app": (a, b)})
    in_flight = [world.fly(), world.fly()]
    world.traffic.apply(Orders(model, {"app": (msgspec.structs.replace(a, standing=Standing.DRAINING), b)}))
    assert {world.ask() for _ in range(10)} == {"b"}
    assert world.states() == {"a": "draining", "b": "healthy"}
    world.traffic.apply(Orders(model, {"app": (a, msgspec.structs.replace(b, standing=Standing.CRITICAL))}))
    assert {world.ask() for _ in range(10)} == {"a"}
    assert world.states() == {"a": "healthy"}
    assert {flight.instance.id: flight.is_draining for flight in in_flight} == {"a": False, "b": True}
    for flight in in_flight:
        flight.end()
    assert world.traffic.in_flight == 0


def test_another_address_under_the_same_id_is_another_instance() -> None:
    model = GatewayModel(services=(service("app"),), routes=(route(("app", 100.0)),))
    world = World(model, listed={"app": (Instance("a", "h", 1),)})
    flight = world.fly()
    flight.failed("refused", is_gone=True)
    world.traffic.apply(Orders(model, {"app": (Instance("a", "h", 2),)}))
    assert world.states() == {"a": "healthy"}
    assert world.fly().instance.port == 2
    flight.end()


async def test_whoever_waits_for_a_drain_is_woken_by_its_last_request() -> None:
    world = World(BLUE_GREEN)
    flight = world.fly()
    instance_id = flight.instance.id
    world.traffic.apply(Orders(BLUE_GREEN, drained=(("blue", instance_id),)))
    assert await world.traffic.wait_until(lambda: world.traffic.is_idle("blue", instance_id), 0.01) is False
    waiting = asyncio.create_task(world.traffic.wait_until(lambda: world.traffic.is_idle("blue", instance_id), 5.0))
    await asyncio.sleep(0)
    flight.end()
    assert await asyncio.wait_for(waiting, 1.0) is True


percents = st.sampled_from([0.0, 5.0, 50.0, 95.0, 100.0])
changes = st.one_of(
    st.tuples(st.just("shares"), percents),
    st.tuples(st.just("drain"), st.sampled_from(["blue-1:80", "green-1:80"])),
    st.tuples(st.just("undrain"), st.none()),
    st.tuples(st.just("begin"), st.none()),
    st.tuples(st.just("retry"), st.none()),
    st.tuples(st.just("end"), st.integers(0, 100)),
)


@given(st.lists(changes, max_size=60))
@settings(max_examples=150, deadline=None)
def test_under_any_order_of_changes_no_request_is_without_an_instance(steps: list[tuple[str, Any]]) -> None:
    """One instance of each service is never drained, so there is always somebody: also for a plan made before."""
    world = World(BLUE_GREEN)
    model, drained = BLUE_GREEN, set[tuple[str, str]]()
    flights: list[Flight] = []
    plans: list[Plan] = []
    for what, value in steps:
        if what == "shares":
            model = with_shares(model, ("blue", 100.0 - value), ("green", value))
        elif what == "drain":
            drained.add((value.partition("-")[0], value))
        elif what == "undrain":
            drained.clear()
        elif what == "begin":
            plans.append(world.plan())
            flight = plans[-1].next()
            assert flight is not None
            assert (flight.instance.id.partition("-")[0], flight.instance.id) not in drained
            share = {each.service: each.percent for each in model.routes[0].shares}
            assert share[plans[-1].service.name] > 0
            flights.append(flight)
        elif what == "retry" and plans:
            flight = plans[-1].next()
            assert flight is not None
            flights.append(flight)
        elif what == "end" and flights:
            flight = flights.pop(value % len(flights))
            flight.succeeded()
            flight.end()
        world.traffic.apply(Orders(model, drained=tuple(sorted(drained))))
        picture = world.traffic.picture()
        assert picture.in_flight == len(flights) == sum(each.in_flight for each in picture.services)


# --- Small things ---


@pytest.mark.parametrize(
    ("cookies", "value"),
    [
        (None, None),
        ("", None),
        ("a=1", "1"),
        ("b=2; a=1", "1"),
        ("aa=2;a=1", "1"),
        ('a="q"', "q"),
        ("a", None),
        ("ba=1", None),
        ("a=1=2; a=3", "1=2"),
    ],
)
def test_a_cookie_is_found_by_its_whole_name(cookies: str | None, value: str | None) -> None:
    assert cookie_in(cookies, "a") == value


def test_what_was_answered_is_counted_by_route() -> None:
    world = World(BLUE_GREEN)
    plan = world.plan()
    plan.done(200, 0.001)
    plan.done(404, 0.002)
    plan.done(101, 99.0)
    (counted,) = world.traffic.picture().routes
    assert counted.statuses == {"1xx": 1, "2xx": 1, "4xx": 1}
    assert (counted.latency_counts[:2], counted.latency_counts[-1]) == ((1, 1), 1)
    assert counted.latency_sum_s == pytest.approx(99.003)
