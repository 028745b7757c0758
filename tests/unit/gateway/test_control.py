"""One truth: every change by anybody ends in orders, a bad one changes nothing, and what was set stays."""

import msgspec
import pytest

from noctule.base.errors import ConfigError, OutcomeUnknownError, RequestError, UnavailableError
from noctule.gateway.admin import BODY_BYTES_MAX, AdminAnswer, AdminApi, is_admitted
from noctule.gateway.control import Control, RegistryPicture
from noctule.gateway.instances import Instance
from noctule.gateway.metrics import METRICS, PREFIX, render_metrics
from noctule.gateway.model import GatewayModel, Route, Service, Share
from noctule.gateway.orders import Orders
from noctule.gateway.pictures import (
    LATENCY_BOUNDS_S,
    GatewayPicture,
    InstancePicture,
    RoutePicture,
    ServicePicture,
    sum_pictures,
)

MODEL = GatewayModel(
    services=(Service(name="blue", instances=("b:1", "b:2")), Service(name="green", instances=("g:1",))),
    routes=(Route(name="main", shares=(Share("blue", 100.0), Share("green", 0.0))),),
)
NONE_YET = (0,) * (len(LATENCY_BOUNDS_S) + 1)


def picture_of(orders: Orders, in_flight: int = 0) -> GatewayPicture:
    services = tuple(
        ServicePicture(
            service.name,
            in_flight,
            10,
            1,
            2,
            0,
            tuple(
                InstancePicture(each.id, each.address, "healthy", each.weight, in_flight, 10, 1)
                for each in orders.instances_of(service)
            ),
        )
        for service in orders.model.services
    )
    routes = tuple(RoutePicture(each.name, {"2xx": 7}, (3, *NONE_YET[1:]), 0.5) for each in orders.model.routes)
    return GatewayPicture(orders.version, in_flight, 20, 2, 4, services, routes)


class Planes:
    """Data planes that do as they are told."""

    def __init__(self, workers: int = 1) -> None:
        self.told: list[Orders] = []
        self.workers = workers
        self.in_flight = 0
        self.failure: Exception | None = None

    def apply(self, orders: Orders) -> None:
        self.told.append(orders)

    async def wait_applied(self, version: int) -> None:
        if self.failure is not None:
            raise self.failure
        assert self.told[-1].version >= version

    async def pictures(self) -> list[GatewayPicture]:
        if not self.workers:
            raise UnavailableError("no worker has answered")
        orders = self.told[-1] if self.told else Orders(MODEL)
        return [picture_of(orders, self.in_flight) for _ in range(self.workers)]


class Source:
    """A file that can be written."""

    name = "gateway.toml"

    def __init__(self) -> None:
        self.model: GatewayModel | None = MODEL

    async def load(self) -> GatewayModel:
        if self.model is None:
            raise ConfigError("gateway: port is 70000")
        return self.model


class World:
    def __init__(self, workers: int = 1) -> None:
        self.planes, self.source = Planes(workers), Source()
        self.control = Control(MODEL, self.source, self.planes, "1.2.3")
        self.api = AdminApi(self.control)

    def shares(self) -> dict[str, float]:
        return {share.service: share.percent for share in self.control.model.routes[0].shares}

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, object]:
        content = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        answer = await self.api(method, f"/__noctule/{path}", content)
        return answer.status, msgspec.json.decode(answer.body)


@pytest.fixture
def world() -> World:
    return World()


# --- Changes ---


async def test_a_switch_names_what_is_on_its_way_out(world: World) -> None:
    world.planes.in_flight = 3
    progress = await world.control.set_shares("main", {"green": 100.0})
    assert world.shares() == {"blue": 0.0, "green": 100.0}
    assert (progress.in_flight, progress.is_done) == ({"blue": 3}, False)
    world.planes.in_flight = 0
    assert (await world.control.route_progress("main")).is_done
    assert world.planes.told == [world.control.orders]


async def test_a_service_that_is_on_another_route_is_not_on_its_way_out() -> None:
    other = Route(name="other", path="/other", shares=(Share("blue"),))
    world = World()
    world.control.set_model(msgspec.structs.replace(MODEL, routes=(*MODEL.routes, other)))
    assert (await world.control.set_shares("main", {"green": 100.0})).in_flight == {}


async def test_a_service_that_was_not_on_the_route_may_come_onto_it(world: World) -> None:
    red = Service(name="red", instances=("r:1",))
    world.control.set_model(msgspec.structs.replace(MODEL, services=(*MODEL.services, red)))
    await world.control.set_shares("main", {"red": 5.0, "blue": 95.0})
    assert list(world.shares().items()) == [("blue", 95.0), ("green", 0.0), ("red", 5.0)]


async def test_draining_is_kept_through_other_changes_and_undone_by_name(world: World) -> None:
    await world.control.drain("blue", "b:1", is_drained=True)
    await world.control.drain("blue", "b:1", is_drained=True)
    await world.control.set_shares("main", {"green": 100.0})
    world.control.set_listed({"green": [Instance("x", "h", 1)]})
    assert world.control.orders.drained == (("blue", "b:1"),)
    await world.control.drain("blue", "b:1", is_drained=False)
    assert world.control.orders.drained == ()
    versions = [orders.version for orders in world.planes.told]
    assert versions == sorted(set(versions))


async def test_a_drained_instance_that_left_its_list_can_be_undrained(world: World) -> None:
    world.control.set_listed({"blue": [Instance("x", "h", 1)]})
    await world.control.drain("blue", "x", is_drained=True)
    world.control.set_listed({"blue": []})
    await world.control.drain("blue", "x", is_drained=False)
    assert world.control.orders.drained == ()


@pytest.mark.parametrize(
    ("route", "percents", "words"),
    [
        ("x", {"green": 100.0}, "there is no route 'x'; there are main"),
        ("main", {"x": 100.0}, "there is no service 'x'; there are blue, green"),
        ("main", {"green": 50.0}, "must be 0 to 100 each and sum to 100"),
        ("main", {"green": 150.0, "blue": -50.0}, "must be 0 to 100 each"),
        ("main", {"green": float("nan")}, "must be 0 to 100 each"),
    ],
)
async def test_shares_that_cannot_be_change_nothing(
    world: World, route: str, percents: dict[str, float], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        await world.control.set_shares(route, percents)
    assert world.planes.told == []
    assert (await world.control.picture()).overridden_routes == ()


async def test_a_list_that_says_nothing_new_is_no_change(world: World) -> None:
    world.control.set_listed({"green": [Instance("x", "h", 1)], "unknown": []})
    world.control.set_listed({"green": [Instance("x", "h", 1)]})
    assert len(world.planes.told) == 1


# --- Configs ---


async def test_a_bad_config_is_refused_and_the_old_one_goes_on(world: World) -> None:
    world.source.model = None
    with pytest.raises(ConfigError, match="port is 70000"):
        await world.control.reload()
    picture = await world.control.picture()
    assert (picture.config_error, picture.configs_refused) == ("gateway: port is 70000", 1)
    assert world.planes.told == []
    world.source.model = msgspec.structs.replace(MODEL, port=9090)
    await world.control.reload()
    picture = await world.control.picture()
    assert (picture.config_error, picture.configs_loaded, picture.restart_needed) == ("", 2, ("port",))


async def test_a_switch_survives_a_reload_of_a_file_that_says_nothing_new_of_it(world: World) -> None:
    """The file still says blue; an unrelated change of it must not send everybody back."""
    await world.control.set_shares("main", {"green": 100.0})
    world.source.model = msgspec.structs.replace(MODEL, access_log=False)
    await world.control.reload()
    assert world.shares() == {"blue": 0.0, "green": 100.0}
    assert (await world.control.picture()).overridden_routes == ("main",)


async def test_a_file_that_says_something_new_of_a_route_wins(world: World) -> None:
    await world.control.set_shares("main", {"green": 100.0})
    route = msgspec.structs.replace(MODEL.routes[0], shares=(Share("blue", 50.0), Share("green", 50.0)))
    world.source.model = msgspec.structs.replace(MODEL, routes=(route,))
    await world.control.reload()
    assert world.shares() == {"blue": 50.0, "green": 50.0}
    assert (await world.control.picture()).overridden_routes == ()


async def test_an_override_of_a_service_that_is_gone_is_dropped(world: World) -> None:
    red = Service(name="red", instances=("r:1",))
    world.control.set_model(msgspec.structs.replace(MODEL, services=(*MODEL.services, red)))
    await world.control.set_shares("main", {"red": 100.0})
    await world.control.reload()
    assert world.shares() == {"blue": 100.0, "green": 0.0}


async def test_what_a_gone_service_had_is_forgotten(world: World) -> None:
    world.control.set_listed({"green": [Instance("x", "h", 1)]})
    await world.control.drain("green", "x", is_drained=True)
    only_blue = GatewayModel(services=MODEL.services[:1], routes=(Route(name="main", shares=(Share("blue"),)),))
    world.control.set_model(only_blue)
    assert (world.control.orders.listed, world.control.orders.drained) == ({}, ())


# --- The API ---


async def test_the_api_does_what_control_does(world: World) -> None:
    assert await world.ask("POST", "api/shares", {"route": "main", "shares": {"blue": 60, "green": 40}}) == (
        200,
        {"in_flight": {}, "is_done": True, "version": 1},
    )
    world.planes.in_flight = 2
    status, body = await world.ask("POST", "api/switch", {"route": "main", "service": "green"})
    assert (status, body) == (202, {"in_flight": {"blue": 2}, "is_done": False, "version": 2})
    assert (await world.ask("POST", "api/drain", {"service": "blue", "instance": "b:2"}))[0] == 202
    assert world.control.orders.drained == (("blue", "b:2"),)
    world.planes.in_flight = 0
    assert (await world.ask("POST", "api/undrain", {"service": "blue", "instance": "b:2"}))[0] == 200
    status, body = await world.ask("GET", "api/instances")
    assert isinstance(body, dict)
    assert [each["id"] for each in body["blue"]] == ["b:1", "b:2"]
    assert (await world.ask("POST", "api/reload"))[0] == 200
    assert await world.ask("GET", "health") == (200, {"status": "ok"})


async def test_a_model_comes_as_it_goes_and_as_toml(world: World) -> None:
    status, body = await world.ask("GET", "api/model")
    assert (status, msgspec.convert(body, GatewayModel)) == (200, MODEL)
    assert isinstance(body, dict)
    body["access_log"] = False
    assert (await world.ask("PUT", "api/model", body))[0] == 200
    assert not world.control.model.access_log
    toml = b'[[services]]\nname="a"\ninstances=["h:1"]\n[[routes]]\nname="r"\nshares=[{service="a"}]\n'
    assert (await world.ask("PUT", "api/model", toml))[0] == 200
    assert [service.name for service in world.control.model.services] == ["a"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "api/nothing", b"", 404, "there is no /__noctule/api/nothing"),
        ("DELETE", "api/model", b"", 405, "takes GET and PUT"),
        ("POST", "api/drain", b"{", 400, "the body is not what"),
        ("POST", "api/drain", b'{"service":"blue"}', 400, "missing required field `instance`"),
        ("POST", "api/drain", b'{"service":"blue","instance":"x"}', 400, "has no instance 'x'; it has b:1, b:2"),
        ("POST", "api/drain", b'{"service":"blue","instance":"b:1","x":1}', 400, "unknown field"),
        ("POST", "api/switch", b'{"route":"x","service":"blue"}', 400, "there is no route 'x'"),
        ("PUT", "api/model", b"{}", 422, "there is no service"),
        ("PUT", "api/model", b"port = 1\nport = 2", 422, "is not TOML"),
        ("PUT", "api/model", b'{"port": }', 400, "the body is not what"),
        ("PUT", "api/model", b"#" * (BODY_BYTES_MAX + 1), 413, "over the bound"),
    ],
)
async def test_what_cannot_be_is_said_and_changes_nothing(
    world: World, method: str, path: str, body: bytes, status: int, words: str
) -> None:
    found, answer = await world.ask(method, path, body)
    assert isinstance(answer, dict)
    assert (found, words in answer["error"]["message"]) == (status, True), answer
    assert world.planes.told == []


async def test_workers_that_do_not_say_that_they_do_it_leave_it_open(world: World) -> None:
    world.planes.failure = OutcomeUnknownError("not every worker has said")
    status, answer = await world.ask("POST", "api/switch", {"route": "main", "service": "green"})
    assert isinstance(answer, dict)
    assert (status, answer["error"]["outcome"]) == (504, "unknown")


async def test_a_gateway_without_workers_says_so() -> None:
    status, answer = await World(workers=0).ask("GET", "status")
    assert status == 503
    assert isinstance(answer, dict)
    assert answer["error"]["retryable"]


async def test_pages_cannot_be_made_to_run_what_a_config_says() -> None:
    world = World()
    evil = "<script>alert(1)</script>"
    world.control.refuse(ConfigError(evil))
    answer = await world.api("GET", "/__noctule/", b"")
    assert isinstance(answer, AdminAnswer)
    assert evil not in answer.body.decode()
    assert "&lt;script&gt;" in answer.body.decode()
    assert any(name == "Content-Security-Policy" for name, _ in answer.headers)


LOCAL = {"host": "127.0.0.1:8080"}


@pytest.mark.parametrize(
    ("peer", "headers", "is_in"),
    [
        ("127.0.0.1", LOCAL, True),
        ("::1", {"host": "[::1]:8080"}, True),
        ("::ffff:127.0.0.1", {"host": "localhost"}, True),
        ("10.0.0.1", LOCAL, False),
        ("", LOCAL, False),
        ("127.0.0.1", {}, False),
        # A name of somebody's own that leads here (DNS rebinding), and a page that is open in a browser here.
        ("127.0.0.1", {"host": "evil.example.com"}, False),
        ("127.0.0.1", {**LOCAL, "origin": "http://evil.example.com"}, False),
        # A proxy on this machine speaks for strangers.
        ("127.0.0.1", {**LOCAL, "x-forwarded-for": "10.0.0.1"}, False),
        ("127.0.0.1", {**LOCAL, "forwarded": "for=10.0.0.1"}, False),
        ("127.0.0.1", {**LOCAL, "x-real-ip": "10.0.0.1"}, False),
    ],
)
def test_who_is_let_in(peer: str, headers: dict[str, str], is_in: bool) -> None:
    assert is_admitted(peer, "/__noctule/status", headers.get) is is_in
    assert is_admitted(peer, "/__noctule/health", headers.get)


# --- Pictures and metrics ---


def test_pictures_of_workers_are_summed() -> None:
    first, second = picture_of(Orders(MODEL, version=3), 1), picture_of(Orders(MODEL, version=4), 2)
    summed = sum_pictures([first, second])
    assert (summed.version, summed.in_flight, summed.requests, summed.unrouted) == (3, 3, 40, 8)
    assert [(each.name, each.in_flight, each.retries) for each in summed.services] == [("blue", 3, 4), ("green", 3, 4)]
    assert [each.requests for each in summed.instances] == [20, 20, 20]
    assert (summed.routes[0].statuses, summed.routes[0].latency_counts[0]) == ({"2xx": 14}, 6)
    assert summed.routes[0].latency_sum_s == 1.0
    assert sum_pictures([first]) == first


def test_an_instance_is_what_most_workers_say_and_one_that_not_all_know_is_there() -> None:
    def of(state: str, *ids: str) -> GatewayPicture:
        instances = tuple(InstancePicture(each, "h:1", state, 1, 0, 1, 0) for each in ids)
        return GatewayPicture(1, 0, 0, 0, 0, (ServicePicture("a", 0, 0, 0, 0, 0, instances),), ())

    summed = sum_pictures([of("healthy", "x"), of("unhealthy", "x", "y"), of("unhealthy", "x")])
    assert {each.id: (each.state, each.requests) for each in summed.instances} == {
        "x": ("unhealthy", 3),
        "y": ("unhealthy", 1),
    }


async def test_metrics_are_prometheus_text_of_all_families() -> None:
    world = World(workers=2)
    world.control.registry = lambda: [RegistryPicture("shop", "last-good", 5.0, 3)]
    world.control.set_listed({"green": [Instance('odd"\\\nid', "h", 1)]})
    answer = await world.api("GET", "/__noctule/metrics", b"")
    text = answer.body.decode()
    assert f'{PREFIX}requests_total{{service="blue",instance="b:1"}} 20' in text
    assert f'{PREFIX}requests_total{{service="green",instance="odd\\"\\\\\\nid"}} 20' in text
    assert f'{PREFIX}responses_total{{route="main",class="2xx"}} 14' in text
    assert f'{PREFIX}request_seconds_bucket{{route="main",le="0.001"}} 6' in text
    assert f'{PREFIX}request_seconds_bucket{{route="main",le="+Inf"}} 6' in text
    assert f'{PREFIX}registry_ok{{service="shop"}} 0' in text
    assert f"{PREFIX}config_ok 1" in text
    for metric in METRICS:
        assert f"# TYPE {PREFIX}{metric.name} {metric.kind}" in text
    assert render_metrics(await world.control.picture()) == text
