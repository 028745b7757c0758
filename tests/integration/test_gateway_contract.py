"""What every engine of the gateway does alike: the embedded one, HAProxy and nginx, before real processes.

Where an engine lacks something, the test is skipped with the sentence of gateway/engines/abilities.py, which is in the
documents too.
"""

import asyncio
import contextlib
import datetime
import gzip
import json
import re
import ssl
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import msgspec
import pytest
from engines import engine_or_skip, free_port
from gateway_backends import Backend, Held, backends, header
from gateway_engines import ENGINES, running

from noctule.adapters.certificates import CertificateAuthority
from noctule.gateway.engines.abilities import ability
from noctule.gateway.instances import Instance
from noctule.gateway.model import (
    ActiveCheck,
    Algorithm,
    Certificate,
    Compression,
    GatewayModel,
    HeaderRules,
    Limits,
    Route,
    Service,
    Share,
    Sticky,
)

pytestmark = pytest.mark.integration

LIMITS = Limits(connections_max=1_000, body_bytes_max=100_000, header_bytes_max=4_096)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    if request.param != "embedded":
        engine_or_skip(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def apps() -> Iterator[dict[str, Backend]]:
    """Three that live as long as the module; a test that kills one has its own."""
    with backends("a", "b", "c") as found:
        yield found


def needs(engine: str, name: str) -> None:
    """Skip when the engine has not the ability of this name, and say what the documents say."""
    if not ability(name).is_had_by(engine):
        pytest.skip(f"{engine}: {name}: {ability(name).of(engine)}")


def model_of(service: Service | None = None, **changes: Any) -> GatewayModel:
    """One service and one route, unless told otherwise, on a free port."""
    services = (service or Service(name="app", registry="app"),)
    routes = (Route(name="all", shares=(Share(services[0].name),)),)
    model = GatewayModel(port=free_port(), services=services, routes=routes, limits=LIMITS)
    return msgspec.structs.replace(model, **changes)


def instances_of(apps: dict[str, Backend], names: str = "abc") -> list[Instance]:
    return [apps[name].instance for name in names]


class Client:
    """A client of the gateway that keeps its connections."""

    def __init__(self, port: int, session: aiohttp.ClientSession) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.session = session

    async def get(self, path: str = "/", **options: Any) -> tuple[aiohttp.ClientResponse, Any]:
        """The response, and its JSON where that is what it is."""
        return await self.ask("GET", path, **options)

    async def ask(self, method: str, path: str, **options: Any) -> tuple[aiohttp.ClientResponse, Any]:
        async with self.session.request(method, self.url + path, allow_redirects=False, **options) as response:
            text = await response.text()
            with contextlib.suppress(ValueError):
                return response, json.loads(text)
            return response, text

    async def instance(self, path: str = "/", **options: Any) -> str:
        """Which one answered."""
        response, answer = await self.get(path, **options)
        assert response.status == 200, answer
        return str(answer["instance"])


@contextlib.asynccontextmanager
async def client_of(model: GatewayModel, **options: Any) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), **options) as session:
        yield Client(model.port, session)


async def until(condition: Callable[[], Awaitable[bool]], deadline_s: float = 10.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not await condition():
            await asyncio.sleep(0.02)


class Load:
    """What came of the requests that are made all the time."""

    def __init__(self) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self.closed = 0
        """Connections that ended under a request that had no answer yet."""

    async def until_more(self, count: int = 30) -> None:
        """Return once so many more were answered, or failed."""
        wanted = self.answered + count

        async def has_come() -> bool:
            return self.answered >= wanted or bool(self.failures)

        await until(has_come)

    def check(self, engine: str) -> None:
        """None failed; none was closed either, but by an engine that is known to do so."""
        assert self.answered > 50
        assert self.failures == []
        if ability("a switch or a reload fails no request").is_had_by(engine):
            assert self.closed == 0


@contextlib.asynccontextmanager
async def load_on(client: Client) -> AsyncIterator[Load]:
    """Eight clients that keep their connections, and ask again a little later each time."""
    load, is_over = Load(), asyncio.Event()

    async def ask() -> None:
        while not is_over.is_set():
            try:
                response, answer = await client.get()
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                load.closed += 1
            else:
                load.answered += 1
                if response.status != 200:
                    load.failures.append(f"{response.status} {answer}")
            await asyncio.sleep(0.005)

    asking = [asyncio.create_task(ask()) for _ in range(8)]
    try:
        yield load
    finally:
        is_over.set()
        await asyncio.gather(*asking)


class TestDistribution:
    async def test_all_instances_share_the_requests(self, engine: str, apps: dict[str, Backend]) -> None:
        model = model_of()
        async with running(engine, model, {"app": instances_of(apps)}), client_of(model) as client:
            counts = Counter([await client.instance() for _ in range(90)])
        assert set(counts) == {"a", "b", "c"}
        assert max(counts.values()) - min(counts.values()) <= 6

    async def test_the_fewest_connections_count(self, engine: str, apps: dict[str, Backend]) -> None:
        """While one instance is held up by slow requests, the others get what comes."""
        model = model_of()
        async with running(engine, model, {"app": instances_of(apps, "ab")}), client_of(model) as client:
            held = Held(apps.values())
            slow = [asyncio.create_task(client.instance(held.path)) for _ in range(2)]
            assert await held.until_there(2) == Counter(a=1, b=1)
            # One more at either; from now on that one has two.
            slow.append(asyncio.create_task(client.instance(held.path)))
            ((busy, _),) = (await held.until_there(3)).most_common(1)
            counts = Counter([await client.instance() for _ in range(20)])
            held.let_go()
            await asyncio.gather(*slow)
        assert counts[busy] == 0

    async def test_weights(self, engine: str, apps: dict[str, Backend]) -> None:
        model = model_of(Service(name="app", registry="app", algorithm=Algorithm.ROUND_ROBIN))
        a, b = instances_of(apps, "ab")
        heavy = msgspec.structs.replace(a, weight=3)
        async with running(engine, model, {"app": [heavy, b]}), client_of(model) as client:
            counts = Counter([await client.instance() for _ in range(80)])
        assert 54 <= counts["a"] <= 66

    async def test_a_key_keeps_its_instance(self, engine: str, apps: dict[str, Backend]) -> None:
        service = Service(name="app", registry="app", algorithm=Algorithm.CONSISTENT_HASH, hash_on="header:X-Tenant")
        model = model_of(service)
        async with running(engine, model, {"app": instances_of(apps)}) as driver, client_of(model) as client:
            keys = [f"tenant-{number}" for number in range(60)]
            first = {key: await client.instance(headers={"X-Tenant": key}) for key in keys}
            assert first == {key: await client.instance(headers={"X-Tenant": key}) for key in keys}
            assert set(first.values()) == {"a", "b", "c"}
            await driver.apply(model, {"app": instances_of(apps, "ab")})
            second = {key: await client.instance(headers={"X-Tenant": key}) for key in keys}
        # Whoever was not at the one that went stays: about a third moves, and never a client of the others.
        moved = {key for key in keys if first[key] != second[key]}
        assert {first[key] for key in moved} <= {"c"} or len(moved) <= 30
        assert len(moved) >= 1

    async def test_an_address_keeps_its_instance(self, engine: str, apps: dict[str, Backend]) -> None:
        service = Service(name="app", registry="app", algorithm=Algorithm.IP_HASH)
        model = model_of(service, host="127.0.0.1")
        async with running(engine, model, {"app": instances_of(apps)}):
            found = {}
            for number in range(1, 31):
                connector = aiohttp.TCPConnector(local_addr=(f"127.0.0.{number}", 0))
                async with client_of(model, connector=connector) as client:
                    found[number] = {await client.instance() for _ in range(3)}
        assert all(len(each) == 1 for each in found.values())
        assert len(set.union(*found.values())) >= 2


class TestFailover:
    async def test_a_killed_instance_costs_no_idempotent_request(self, engine: str) -> None:
        model = model_of()
        with backends("a", "b", "c") as own:
            async with running(engine, model, {"app": instances_of(own)}), client_of(model) as client:
                statuses: Counter[int] = Counter()
                is_over = asyncio.Event()

                async def load() -> None:
                    while not is_over.is_set():
                        response, _ = await client.get("/?ms=5")
                        statuses[response.status] += 1

                async def have_come(count: int) -> bool:
                    return statuses.total() >= count

                loads = [asyncio.create_task(load()) for _ in range(8)]
                await until(lambda: have_come(50))
                own["b"].kill()
                # For longer than the engine waits until it tries the instance again, too.
                await asyncio.sleep(1.5)
                await until(lambda: have_come(200))
                is_over.set()
                await asyncio.gather(*loads)
        assert set(statuses) == {200}

    async def test_a_killed_instance_comes_back(self, engine: str) -> None:
        model = model_of(Service(name="app", registry="app", fail_timeout_s=1.0))
        with backends("a", "b") as own:
            async with running(engine, model, {"app": instances_of(own, "ab")}), client_of(model) as client:
                own["b"].kill()
                assert {await client.instance() for _ in range(10)} == {"a"}
                own["b"].start()

                async def is_back() -> bool:
                    return await client.instance() == "b"

                await until(is_back)

    async def test_a_short_answer_that_breaks_off_is_given_by_another(
        self, engine: str, apps: dict[str, Backend]
    ) -> None:
        needs(engine, "a short answer that breaks off is given by another instance")
        model = model_of()
        async with running(engine, model, {"app": instances_of(apps, "ab")}), client_of(model) as client:
            for _ in range(4):
                assert await client.instance("/break?by=a") == "b"

    async def test_a_post_is_never_executed_twice(self, engine: str, apps: dict[str, Backend]) -> None:
        """Every instance takes it in and hangs up; a second try would be a second execution."""
        model = model_of()
        async with running(engine, model, {"app": instances_of(apps)}), client_of(model) as client:
            for number in range(5):
                key = f"{engine}-{number}"
                # HAProxy hangs up too where the client's connection was used before: so a client knows it may be old.
                with contextlib.suppress(aiohttp.ServerDisconnectedError):
                    response, _ = await client.ask("POST", "/hangup", headers={"X-Key": key}, data=b"x")
                    assert response.status == 502
                assert sum(each.counts[f"key {key}"] for each in apps.values()) == 1

    async def test_a_post_to_an_instance_that_is_gone_is_answered_by_another(self, engine: str) -> None:
        """Nothing was sent, so nothing can be done twice."""
        model = model_of()
        with backends("a", "b") as own:
            async with running(engine, model, {"app": instances_of(own, "ab")}), client_of(model) as client:
                own["b"].kill()
                for _ in range(6):
                    response, answer = await client.ask("POST", "/", data=b"x")
                    assert (response.status, answer["instance"]) == (200, "a")

    async def test_without_an_instance_the_answer_is_a_5xx_at_once(self, engine: str) -> None:
        model = model_of()
        async with running(engine, model, {"app": []}), client_of(model) as client:
            response, answer = await client.get()
            assert response.status == 503
            assert answer["error"]["code"] == "unavailable"
            assert response.headers["Retry-After"] == "1"

    async def test_a_failing_check_takes_an_instance_out(self, engine: str, apps: dict[str, Backend]) -> None:
        needs(engine, "active checks")
        service = Service(name="app", registry="app", fails_max=2, check=ActiveCheck(path="/ws", interval_s=0.1))
        model = model_of(service)
        async with running(engine, model, {"app": instances_of(apps, "a")}), client_of(model) as client:

            async def is_out() -> bool:
                return (await client.get())[0].status == 503

            await until(is_out)


class TestDrain:
    async def test_nothing_new_comes_and_what_is_there_ends(self, engine: str, apps: dict[str, Backend]) -> None:
        model = model_of()
        async with running(engine, model, {"app": instances_of(apps, "ab")}) as driver, client_of(model) as client:
            held = Held(apps.values())
            slow = [asyncio.create_task(client.instance(held.path)) for _ in range(4)]
            assert await held.until_there(4) == Counter(a=2, b=2)
            draining = asyncio.create_task(driver.drain("app", "b", 10))
            await asyncio.sleep(0.4)
            assert not draining.done()
            began = time.monotonic()
            held.let_go()
            assert await draining
            assert time.monotonic() - began < 5
            assert sorted(await asyncio.gather(*slow)) == ["a", "a", "b", "b"]
            # An idle connection from before may be closed under this request: see "a switch or a reload".
            assert {await retried(client) for _ in range(10)} == {"a"}

    async def test_a_drain_that_does_not_end_is_told(self, engine: str, apps: dict[str, Backend]) -> None:
        model = model_of()
        async with running(engine, model, {"app": instances_of(apps, "a")}) as driver, client_of(model) as client:
            held = Held(apps.values())
            slow = asyncio.create_task(client.instance(held.path))
            await held.until_there(1)
            assert not await driver.drain("app", "a", 0.5)
            held.let_go()
            assert await slow == "a"


async def retried(client: Client, path: str = "/") -> str:
    """Which instance answered, at the second try if the gateway closed the connection under the first."""
    for _ in range(3):
        with contextlib.suppress(aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            return await client.instance(path)
    raise AssertionError("closed three times")


class TestShares:
    async def test_a_switch_from_blue_to_green_under_load(self, engine: str, apps: dict[str, Backend]) -> None:
        """Nothing fails, and what comes after is green's. nginx closes idle connections: counted, and tried again."""
        services = (Service(name="blue", registry="app"), Service(name="green", registry="app"))
        model = model_of(services=services, routes=(Route(name="all", shares=(Share("blue"),)),))
        listed = {"blue": instances_of(apps, "a"), "green": instances_of(apps, "b")}
        async with (
            running(engine, model, listed) as driver,
            client_of(model) as client,
            load_on(client) as load,
        ):
            for color in ("green", "blue", "green"):
                other = "blue" if color == "green" else "green"
                await load.until_more()
                await driver.set_shares("all", (Share(other, 0), Share(color, 100)))
                assert {await retried(client) for _ in range(5)} == {"b" if color == "green" else "a"}
        load.check(engine)

    async def test_a_new_route_under_load(self, engine: str, apps: dict[str, Backend]) -> None:
        """A change of structure, which is a reload for HAProxy too."""
        model = model_of()
        new = Route(name="new", path="/new", shares=(Share("app"),), response_headers=HeaderRules(set={"X-New": "1"}))
        async with running(engine, model, {"app": instances_of(apps)}) as driver, client_of(model) as client:
            async with load_on(client) as load:
                await load.until_more()
                changed = msgspec.structs.replace(model, routes=(*model.routes, new))
                await driver.apply(changed, {"app": instances_of(apps)})
                await load.until_more()
            response, _ = await client.get("/new")
            assert response.headers["X-New"] == "1"
        load.check(engine)

    async def test_a_canary_gets_about_its_share(self, engine: str, apps: dict[str, Backend]) -> None:
        services = (Service(name="old", registry="app"), Service(name="new", registry="app"))
        shares = (Share("old", 80), Share("new", 20))
        model = model_of(services=services, routes=(Route(name="all", shares=shares),))
        listed = {"old": instances_of(apps, "a"), "new": instances_of(apps, "b")}
        async with running(engine, model, listed), client_of(model) as client:
            counts = Counter([await client.instance() for _ in range(600)])
        # Five standard deviations of a binomial (9.8) around 120.
        assert 71 <= counts["b"] <= 169

    async def test_a_client_stays_with_its_share_while_it_grows(self, engine: str, apps: dict[str, Backend]) -> None:
        services = (Service(name="old", registry="app"), Service(name="new", registry="app"))
        listed = {"old": instances_of(apps, "a"), "new": instances_of(apps, "b")}
        route = Route(name="all", shares=(Share("new", 20), Share("old", 80)), split_on="header:X-User")
        model = model_of(services=services, routes=(route,))
        async with running(engine, model, listed) as driver, client_of(model) as client:

            async def users_of_new() -> set[int]:
                asked = [(user, await retried_as(client, f"user-{user}")) for user in range(60)]
                return {user for user, instance in asked if instance == "b"}

            few = await users_of_new()
            assert few == await users_of_new()
            await driver.set_shares("all", (Share("new", 60), Share("old", 40)))
            many = await users_of_new()
        assert few
        assert few < many

    async def test_routes_are_tried_from_the_most_specific(self, engine: str, apps: dict[str, Backend]) -> None:
        services = tuple(Service(name=name, registry="app") for name in "abc")
        routes = (
            Route(name="all", shares=(Share("a"),)),
            Route(name="api", path="/api", shares=(Share("b"),)),
            Route(name="beta", path="/api", headers={"X-Beta": "yes"}, shares=(Share("c"),)),
            Route(name="host", host="b.example.com", shares=(Share("b"),)),
            Route(name="wild", host="*.example.com", path="/only", shares=(Share("c"),)),
        )
        model = model_of(services=services, routes=routes)
        listed = {name: instances_of(apps, name) for name in "abc"}
        async with running(engine, model, listed), client_of(model) as client:
            for path, headers, expected in (
                ("/", {}, "a"),
                ("/apix", {}, "a"),
                ("/api", {}, "b"),
                ("/api/x?y", {}, "b"),
                ("/api/x", {"X-Beta": "yes"}, "c"),
                ("/api/x", {"X-Beta": "yes, no"}, "b"),
                ("/api/x", {"Host": "B.example.com:80"}, "b"),
                ("/only", {"Host": "z.example.com"}, "c"),
                ("/only", {"Host": "b.example.com"}, "b"),
                ("/api", {"Host": "z.example.com"}, "b"),
                ("/api", {"Host": "example.com", "X-Beta": "no"}, "b"),
            ):
                assert await client.instance(path, headers=headers) == expected, (path, headers)

    async def test_a_request_without_a_route_is_told_so(self, engine: str, apps: dict[str, Backend]) -> None:
        model = model_of(routes=(Route(name="host", host="a.example.com", shares=(Share("app"),)),))
        async with running(engine, model, {"app": instances_of(apps, "a")}), client_of(model) as client:
            response, answer = await client.get()
            assert (response.status, answer["error"]["retryable"]) == (404, False)


async def retried_as(client: Client, user: str) -> str:
    for _ in range(3):
        with contextlib.suppress(aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            return await client.instance(headers={"X-User": user})
    raise AssertionError("closed three times")


class TestStickiness:
    async def test_a_cookie_brings_a_client_back_until_its_instance_goes(
        self, engine: str, apps: dict[str, Backend]
    ) -> None:
        service = Service(name="app", registry="app", sticky=Sticky(cookie="seat", secure=False))
        model = model_of(service)
        async with running(engine, model, {"app": instances_of(apps)}) as driver, client_of(model) as client:
            response, answer = await client.get()
            cookie = response.cookies["seat"]
            assert cookie["httponly"]
            assert cookie["path"] == "/"
            assert apps[answer["instance"]].instance.address not in cookie.value
            own = str(answer["instance"])
            assert {await client.instance() for _ in range(12)} == {own}
            # Others are not held by it.
            async with client_of(model) as other:
                seen = set()
                for _ in range(12):
                    other.session.cookie_jar.clear()
                    seen.add(await other.instance())
                assert len(seen) > 1
            assert await driver.drain("app", own, 5)
            moved = {await retried(client) for _ in range(6)}
            assert len(moved) == 1
            assert own not in moved

    async def test_a_cookie_of_a_stranger_does_no_harm(self, engine: str, apps: dict[str, Backend]) -> None:
        service = Service(name="app", registry="app", sticky=Sticky(cookie="seat", secure=False))
        model = model_of(service)
        async with running(engine, model, {"app": instances_of(apps, "a")}), client_of(model) as client:
            assert await client.instance(headers={"Cookie": 'seat="; Domain=evil'}) == "a"
            assert await client.instance(headers={"Cookie": "seat=deadbeef"}) == "a"


class TestConnections:
    async def test_a_websocket_echoes(self, engine: str, apps: dict[str, Backend]) -> None:
        model = model_of()
        async with running(engine, model, {"app": instances_of(apps)}), client_of(model) as client:
            async with client.session.ws_connect(client.url + "/ws") as socket:
                assert await socket.receive_str() in "abc"
                for text in ("hello", "x" * 20_000):
                    await socket.send_str(text)
                    assert await socket.receive_str() == text
            # K-21: an upgrade of one request does not touch the connections that are kept for others.
            assert await client.instance() in "abc"

    async def test_connections_to_instances_are_kept(self, engine: str, apps: dict[str, Backend]) -> None:
        """K-21: a Connection header on every request would end each of them."""
        model = model_of()
        async with running(engine, model, {"app": instances_of(apps, "a")}), client_of(model) as client:
            answers = [(await client.get())[1] for _ in range(20)]
        assert len({answer["peer_port"] for answer in answers}) <= 2
        assert not [each for each in answers if "upgrade" in str(each["headers"]).lower()]

    async def test_tls_and_sni_and_http_2(self, engine: str, apps: dict[str, Backend]) -> None:
        with tempfile.TemporaryDirectory(prefix="tls") as name:
            folder = Path(name)
            authority, certificates = certificate_files(folder, "one.example.com", "two.example.com")
            model = model_of(tls_port=free_port(), certificates=certificates)
            async with running(engine, model, {"app": instances_of(apps)}):
                for host in ("two.example.com", "one.example.com"):
                    names, protocol = await handshake(model.tls_port, host, authority, ["h2", "http/1.1"])
                    assert host in names
                    assert protocol == "h2"
                for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                    await handshake(model.tls_port, "one.example.com", authority, [], version)
                with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises(OSError):  # noqa: PT011 - either may refuse
                    await handshake(model.tls_port, "one.example.com", authority, [], ssl.TLSVersion.TLSv1_1)
                url = f"https://127.0.0.1:{model.tls_port}/"
                context = ssl.create_default_context(cadata=authority)
                async with httpx.AsyncClient(http2=True, verify=context) as client:
                    response = await client.post(
                        url, content=b"x" * 50_000, extensions={"sni_hostname": "two.example.com"}
                    )
                answer = response.json()
                assert (response.http_version, answer["body_bytes"]) == ("HTTP/2", 50_000)
                assert header(answer, "X-Forwarded-Proto") == ["https"]

    async def test_plain_http_is_sent_to_tls(self, engine: str, apps: dict[str, Backend]) -> None:
        with tempfile.TemporaryDirectory(prefix="tls") as name:
            _, certificates = certificate_files(Path(name), "one.example.com")
            model = model_of(tls_port=free_port(), certificates=certificates, redirect_to_tls=True)
            async with running(engine, model, {"app": instances_of(apps)}), client_of(model) as client:
                response, _ = await client.get("/a?b=c", headers={"Host": f"one.example.com:{model.port}"})
                assert response.status == 308
                assert response.headers["Location"] == f"https://one.example.com:{model.tls_port}/a?b=c"

    async def test_gzip_for_those_who_take_it(self, engine: str, apps: dict[str, Backend]) -> None:
        model = model_of(compression=Compression(encodings=("gzip",)))
        async with (
            running(engine, model, {"app": instances_of(apps)}),
            client_of(model, auto_decompress=False) as client,
        ):
            async with client.session.get(client.url + "/big", headers={"Accept-Encoding": "gzip"}) as response:
                assert response.headers["Content-Encoding"] == "gzip"
                assert "Accept-Encoding" in response.headers["Vary"]
                assert gzip.decompress(await response.read()).startswith(b"all work")
            async with client.session.get(client.url + "/big", headers={"Accept-Encoding": "identity"}) as response:
                assert "Content-Encoding" not in response.headers


class TestHeaders:
    async def test_forwarded_headers_of_a_stranger_are_made_anew(self, engine: str, apps: dict[str, Backend]) -> None:
        model = model_of()
        lies = {
            "X-Forwarded-For": "6.6.6.6",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "evil",
            "X-Forwarded-Port": "1",
            "X-Real-IP": "6.6.6.6",
            "Forwarded": "for=6.6.6.6",
            "X_Forwarded_For": "6.6.6.6",
        }
        async with running(engine, model, {"app": instances_of(apps)}), client_of(model) as client:
            _, answer = await client.get(headers={**lies, "Host": f"shop.example.com:{model.port}"})
        assert header(answer, "Host") == [f"shop.example.com:{model.port}"]
        assert header(answer, "X-Forwarded-For") == ["127.0.0.1"]
        assert header(answer, "X-Forwarded-Proto") == ["http"]
        assert header(answer, "X-Forwarded-Host") == [f"shop.example.com:{model.port}"]
        assert header(answer, "X-Real-IP") == ["127.0.0.1"]
        assert "6.6.6.6" not in str(answer)
        assert len(header(answer, "X-Request-ID")) == 1

    async def test_forwarded_headers_of_a_trusted_proxy_are_added_to(
        self, engine: str, apps: dict[str, Backend]
    ) -> None:
        model = model_of(trusted_proxies=("127.0.0.0/8",))
        said = {"X-Forwarded-For": "9.9.9.9", "X-Forwarded-Proto": "https", "X-Request-ID": "abc-1"}
        async with running(engine, model, {"app": instances_of(apps)}), client_of(model) as client:
            response, answer = await client.get(headers=said)
        assert header(answer, "X-Forwarded-For") == ["9.9.9.9, 127.0.0.1"]
        assert header(answer, "X-Forwarded-Proto") == ["https"]
        assert header(answer, "X-Real-IP") == ["9.9.9.9"]
        assert header(answer, "X-Request-ID") == ["abc-1"]
        assert response.headers["X-Request-ID"] == "abc-1"

    async def test_ids_of_requests_and_traces(self, engine: str, apps: dict[str, Backend]) -> None:
        model = model_of()
        given = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
        async with running(engine, model, {"app": instances_of(apps)}), client_of(model) as client:
            response, first = await client.get()
            _, second = await client.get(headers={"traceparent": given, "X-Request-ID": "mine"})
            _, third = await client.get(headers={"traceparent": "00-lie", "X-Request-ID": "a b"})
        own = header(first, "X-Request-ID")[0]
        assert response.headers["X-Request-ID"] == own
        assert header(first, "traceparent")[0].startswith(f"00-{own}-")
        assert (header(second, "traceparent"), header(second, "X-Request-ID")) == ([given], ["mine"])
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", header(third, "traceparent")[0])
        assert re.fullmatch("[0-9a-f]{32}", header(third, "X-Request-ID")[0])

    async def test_header_rules(self, engine: str, apps: dict[str, Backend]) -> None:
        awkward = 'a "b" $host ${c} %[src] \\ {d}; # é'
        route = Route(
            name="all",
            shares=(Share("app"),),
            request_headers=HeaderRules(remove=("X-Gone",), set={"X-Set": awkward}, add={"X-Add": "more"}),
            response_headers=HeaderRules(remove=("X-Powered-By",), set={"X-Back": awkward}, add={"X-Plus": "1"}),
        )
        model = model_of(routes=(route,))
        sent = {"X-Gone": "x", "X-Set": "x", "X-Add": "one", "X-Kept": "kept"}
        async with running(engine, model, {"app": instances_of(apps)}), client_of(model) as client:
            response, answer = await client.get(headers=sent)
        assert header(answer, "X-Gone") == []
        assert header(answer, "X-Set") == [awkward]
        assert ", ".join(header(answer, "X-Add")) == "one, more"
        assert header(answer, "X-Kept") == ["kept"]
        assert "X-Powered-By" not in response.headers
        assert response.headers["X-Back"] == awkward
        assert response.headers["X-Plus"] == "1"


class TestLimits:
    async def test_a_body_over_the_bound(self, engine: str, apps: dict[str, Backend]) -> None:
        model = model_of()
        async with running(engine, model, {"app": instances_of(apps)}), client_of(model) as client:
            response, answer = await client.ask("POST", "/", data=b"x" * LIMITS.body_bytes_max)
            assert (response.status, answer["body_bytes"]) == (200, LIMITS.body_bytes_max)
            for _ in range(2):
                # Some answer before the body was sent, and then the connection ends.
                response, _ = await client.ask("POST", "/", data=b"x" * (LIMITS.body_bytes_max + 1), expect100=True)
                assert response.status == 413

    async def test_a_head_over_the_bound(self, engine: str, apps: dict[str, Backend]) -> None:
        model = model_of()
        async with running(engine, model, {"app": instances_of(apps)}), client_of(model) as client:
            headers = {f"X-{number}": "x" * 4_000 for number in range(6)}
            response, _ = await client.get(headers=headers)
            assert response.status in (400, 431)

    async def test_a_head_that_does_not_end(self, engine: str, apps: dict[str, Backend]) -> None:
        model = model_of(limits=msgspec.structs.replace(LIMITS, head_timeout_s=0.5))
        async with running(engine, model, {"app": instances_of(apps)}), asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", model.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            answered = b""
            with contextlib.suppress(ConnectionResetError):
                answered = await reader.read()
            assert b" 200 " not in answered
            writer.close()


class TestOwnPages:
    async def test_health_and_status(self, engine: str, apps: dict[str, Backend]) -> None:
        if engine == "embedded":
            pytest.skip("its pages have their own tests")
        model = model_of()
        with tempfile.TemporaryDirectory(prefix="gw") as name:
            folder = Path(name)
            async with running(engine, model, {"app": instances_of(apps)}, folder), client_of(model) as client:
                response, answer = await client.get("/__noctule/health")
                assert (response.status, answer) == (200, {"status": "ok"})
                response, answer = await client.get("/__noctule/engine")
                assert response.status == 200
                assert "Active connections" in answer if engine == "nginx" else "Statistics Report" in answer
                if engine == "haproxy":
                    _, answer = await client.get("/__noctule/engine/metrics")
                    assert "haproxy_server_current_sessions" in answer
                # Somebody behind a proxy on this machine is not on this machine.
                for path in ("/__noctule/engine", "/__noctule/engine/metrics"):
                    response, _ = await client.get(path, headers={"X-Forwarded-For": "9.9.9.9"})
                    assert response.status in (403, 404)
                await client.get("/app%22?q=x")

                async def is_logged() -> bool:
                    return "/app" in (folder / "access.log").read_text()

                await until(is_logged)
            lines = [json.loads(line) for line in (folder / "access.log").read_text().splitlines() if "{" in line]
            assert not [line for line in lines if line["path"] == "/__noctule/health"]
            line = next(line for line in lines if line["path"] == "/app%22")
            assert (line["status"], line["method"], line["route"], line["service"]) == (200, "GET", "all", "app")
            age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(line["time"])
            assert abs(age) < datetime.timedelta(minutes=1)
            assert line["client"] == "127.0.0.1"
            assert line["instance"] in {"a", "b", "c", *(each.instance.address for each in apps.values())}

    async def test_without_a_status_page_no_own_path_reaches_an_instance(
        self, engine: str, apps: dict[str, Backend]
    ) -> None:
        if engine == "embedded":
            pytest.skip("its pages have their own tests")
        model = model_of(status=False)
        async with running(engine, model, {"app": instances_of(apps, "a")}), client_of(model) as client:
            for path in ("/__noctule/engine", "/__noctule/engine/metrics", "/__noctule/status", "/__noctule/x"):
                response, answer = await client.get(path)
                assert response.status in (403, 404), (path, answer)

    async def test_a_route_may_be_left_out_of_the_access_log(self, engine: str, apps: dict[str, Backend]) -> None:
        if engine == "embedded":
            pytest.skip("its access log has its own tests")
        routes = (
            Route(name="all", shares=(Share("app"),)),
            Route(name="h", path="/h", shares=(Share("app"),), log=False),
        )
        model = model_of(routes=routes)
        with tempfile.TemporaryDirectory(prefix="gw") as name:
            folder = Path(name)
            async with running(engine, model, {"app": instances_of(apps)}, folder), client_of(model) as client:
                await client.get("/h")
                await client.get("/seen")

                async def is_logged() -> bool:
                    return "/seen" in (folder / "access.log").read_text()

                await until(is_logged)
            assert '"/h"' not in (folder / "access.log").read_text()


def certificate_files(folder: Path, *hosts: str) -> tuple[str, tuple[Certificate, ...]]:
    """The authority, and a certificate for each host in files."""
    now = datetime.datetime.now(datetime.UTC)
    authority = CertificateAuthority("test", now)
    found = []
    for host in hosts:
        pem, key = authority.issue([host], now)
        (folder / f"{host}.pem").write_bytes(pem)
        (folder / f"{host}.key").write_bytes(key)
        found.append(Certificate(str(folder / f"{host}.pem"), str(folder / f"{host}.key")))
    return authority.certificate_pem.decode(), tuple(found)


async def handshake(
    port: int, host: str, authority: str, protocols: list[str], version: ssl.TLSVersion | None = None
) -> tuple[list[str], str | None]:
    """The names in the certificate that is shown for a host, and the protocol that was chosen."""
    context = ssl.create_default_context(cadata=authority)
    if protocols:
        context.set_alpn_protocols(protocols)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=host)
    try:
        names = [value for kind, value in writer.get_extra_info("peercert")["subjectAltName"] if kind == "DNS"]
        return names, writer.get_extra_info("ssl_object").selected_alpn_protocol()
    finally:
        writer.close()
