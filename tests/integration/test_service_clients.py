"""Requests to services by name, through httpx and aiohttp, while instances and the registry die under them."""

import asyncio
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import aiohttp
import httpx
import pytest
from engines import engine_or_skip
from examples.calling_services import app, lifespan
from examples.watch_service import ask, show_list
from registries import Registry, SmallRegistry
from small_instance import SLOW_S, SmallInstance, small_instances

from noctule.client.registry.held_list import Source
from noctule.kits.breaker import BreakerPolicy, CircuitBreaker
from noctule.kits.deadline import HEADER, within
from noctule.kits.discovery import CallPolicy, Discovery
from noctule.kits.discovery.aiohttp_session import Caller, DiscoverySession
from noctule.kits.discovery.caller import CallerPicture
from noctule.kits.discovery.httpx_transport import DiscoveryTransport, SyncDiscoveryTransport
from noctule.kits.discovery.metrics import render_metrics

pytest_plugins = ("engines", "registries")
pytestmark = pytest.mark.integration

Send: TypeAlias = Callable[..., Awaitable[tuple[int, str]]]
"""``send(method, path, body=None)``: status and text; raises what the library raises."""


class Client:
    """One of the two libraries."""

    def __init__(self, send: Send, describe: Callable[[], CallerPicture], error: type[Exception]) -> None:
        self.send = send
        self.describe = describe
        self.error = error


@asynccontextmanager
async def httpx_client(discovery: Discovery, caller: Caller | None) -> AsyncIterator[Client]:
    transport = DiscoveryTransport(discovery, caller)
    async with httpx.AsyncClient(mounts={"noctule://": transport}) as client:

        async def send(method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
            response = await client.request(method, f"noctule://orders{path}", content=body)
            return response.status_code, response.text

        yield Client(send, transport.describe, httpx.TransportError)


@asynccontextmanager
async def aiohttp_client(discovery: Discovery, caller: Caller | None) -> AsyncIterator[Client]:
    async with DiscoverySession(discovery, caller) as session:

        async def send(method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
            async with session.request(method, f"noctule://orders{path}", data=body) as response:
                return response.status, await response.text()

        yield Client(send, session.describe, aiohttp.ClientError)


LIBRARIES = {"httpx": httpx_client, "aiohttp": aiohttp_client}


@pytest.fixture(params=list(LIBRARIES))
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def instances() -> Iterator[list[SmallInstance]]:
    with small_instances("a", "b", "c") as started:
        yield started


async def register(registry: Registry, instances: list[SmallInstance]) -> None:
    for instance in instances:
        await registry.register("orders", instance.name, instance.port)


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"{what} did not happen within {timeout_s:g} s")


@asynccontextmanager
async def client_of(
    library: str, registry: Registry, count: int, caller: Caller | None = None
) -> AsyncIterator[tuple[Client, Discovery]]:
    """A client that knows so many instances."""
    async with Discovery(registry.url) as discovery, LIBRARIES[library](discovery, caller) as client:
        await discovery.endpoints("orders")
        await until(lambda: len(discovery.describe().services[0].list.endpoints) == count, "the list")
        yield client, discovery


async def test_requests_are_spread_over_all_instances(
    library: str, small_registry: SmallRegistry, instances: list[SmallInstance]
) -> None:
    await register(small_registry, instances)
    async with client_of(library, small_registry, 3) as (client, _):
        answers = [await client.send("GET", "/") for _ in range(60)]
        assert {name for _, name in answers} == {"a", "b", "c"}
        answers = await asyncio.gather(*(client.send("POST", "/", b"x") for _ in range(30)))
        assert {status for status, _ in answers} == {200}
        (picture,) = client.describe().services
        assert (picture.requests, picture.failures) == (90, 0)
        assert all(each.in_flight == 0 for each in picture.instances)


async def test_a_killed_instance_and_a_killed_registry_fail_no_idempotent_request(
    library: str, registry: Registry, instances: list[SmallInstance]
) -> None:
    """Eight callers all the time; an instance is killed, then the registry, then another instance."""
    await register(registry, instances)
    async with client_of(library, registry, 3) as (client, discovery):
        answers: list[str] = []
        failures: list[Exception] = []
        is_over = False

        async def load() -> None:
            while not is_over:
                try:
                    status, text = await client.send("GET", "/")
                    answers.append(text if status == 200 else str(status))
                except Exception as error:
                    failures.append(error)

        tasks = [asyncio.create_task(load()) for _ in range(8)]
        await until(lambda: len(answers) > 100, "traffic")
        instances[0].kill()
        await go_on(answers)
        await registry.kill()
        await until(lambda: discovery.describe().services[0].list.source is Source.LAST_GOOD, "the loss")
        await go_on(answers)
        instances[1].kill()
        await go_on(answers)
        is_over = True
        await asyncio.gather(*tasks)
        assert failures == []
        assert set(answers) == {"a", "b", "c"}
        (picture,) = client.describe().services
        assert picture.failures == picture.retries > 0


async def go_on(answers: list[str]) -> None:
    before = len(answers)
    await until(lambda: len(answers) > before + 150, "traffic that goes on")


async def test_a_request_that_may_have_had_an_effect_is_sent_once(
    library: str, small_registry: SmallRegistry, instances: list[SmallInstance]
) -> None:
    await register(small_registry, instances)
    async with client_of(library, small_registry, 3) as (client, _):
        for status in (502, 503, 504):
            assert (await client.send("POST", f"/status/{status}"))[0] == status
        assert await counted(instances) == 3
        assert (await client.send("GET", "/status/503"))[0] == 503
        assert await counted(instances) == 6, "a GET went to each"
        slow = [asyncio.create_task(client.send("POST", "/slow")) for _ in range(6)]
        await until_async(lambda: counted_is(instances, 12), "six requests on their way")
        for instance in instances:
            instance.kill()
        results = await asyncio.gather(*slow, return_exceptions=True)
        assert all(isinstance(result, client.error) for result in results), results


async def counted(instances: list[SmallInstance]) -> int:
    """Requests that reached the instances."""
    async with aiohttp.ClientSession() as session:
        total = 0
        for instance in instances:
            async with session.get(f"http://127.0.0.1:{instance.port}/count") as response:
                total += await response.json()
        return total


async def counted_is(instances: list[SmallInstance], count: int) -> bool:
    return await counted(instances) == count


async def until_async(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_a_post_that_never_left_goes_to_another_instance(
    library: str, small_registry: SmallRegistry, instances: list[SmallInstance]
) -> None:
    await register(small_registry, instances)
    for dead in instances[:2]:
        dead.kill()
    async with client_of(library, small_registry, 3) as (client, _):
        for _ in range(5):
            assert await client.send("POST", "/", b"x") == (200, "c")


async def test_the_deadline_is_passed_on_and_kept(
    library: str, small_registry: SmallRegistry, instances: list[SmallInstance]
) -> None:
    await register(small_registry, instances)
    async with client_of(library, small_registry, 3) as (client, _):
        with within(2.0):
            _, text = await client.send("GET", "/headers")
        headers = {name.lower(): value for name, value in httpx.Response(200, text=text).json().items()}
        assert 1_000 < int(headers[HEADER]) <= 2_000
        assert headers["host"] == "orders"
        begun = time.monotonic()
        with within(0.3), pytest.raises((httpx.TimeoutException, TimeoutError)):
            await client.send("GET", "/slow")
        assert time.monotonic() - begun < SLOW_S / 2
        with within(-1), pytest.raises(client.error, match="has passed"):
            await client.send("GET", "/")


async def test_an_instance_that_answers_for_nothing_gets_little(
    library: str, small_registry: SmallRegistry, instances: list[SmallInstance]
) -> None:
    with small_instances("broken", flags=("broken",)) as broken:
        await register(small_registry, [*instances, *broken])
        async with client_of(library, small_registry, 4) as (client, _):
            for _ in range(100):
                assert (await client.send("GET", "/"))[1] != "broken"
            assert 0 < await counted(broken) <= 5
            (picture,) = client.describe().services
            assert [each.id for each in picture.outliers if each.ejected_until] == ["small/broken"]


async def test_no_instance_is_an_error_of_the_library(library: str, small_registry: SmallRegistry) -> None:
    async with client_of(library, small_registry, 0) as (client, _):
        with pytest.raises(client.error, match="no instance of 'orders'"):
            await client.send("GET", "/")


async def test_a_breaker_refuses_what_would_fail(
    library: str, small_registry: SmallRegistry, instances: list[SmallInstance]
) -> None:
    breaker = CircuitBreaker("orders", None, BreakerPolicy(calls_min=5))
    await register(small_registry, instances)
    async with client_of(library, small_registry, 3, Caller(breakers={"orders": breaker})) as (client, _):
        for _ in range(5):
            assert (await client.send("POST", "/status/503"))[0] == 503
        with pytest.raises(client.error, match="'orders' is open"):
            await client.send("POST", "/")
        assert await counted(instances) == 5
        (picture,) = client.describe().breakers
        assert picture.breaker.refused == 1


async def test_the_own_zone_is_preferred(library: str, small_registry: SmallRegistry) -> None:
    with small_instances("n1", "n2", "s1", "s2") as instances:
        for instance in instances:
            meta = {"zone": "north" if instance.name.startswith("n") else "south"}
            await small_registry.register("orders", instance.name, instance.port, meta)
        async with client_of(library, small_registry, 4, Caller(zone="south")) as (client, _):
            answers = {(await client.send("GET", "/"))[1] for _ in range(40)}
            assert answers == {"s1", "s2"}
            instances[2].kill()
            for _ in range(40):
                assert (await client.send("GET", "/"))[0] == 200


async def test_a_body_that_breaks_off_is_told_and_in_flight_until_then(
    small_registry: SmallRegistry, instances: list[SmallInstance]
) -> None:
    await register(small_registry, instances[:1])
    async with Discovery(small_registry.url) as discovery:
        transport = DiscoveryTransport(discovery)
        async with (
            httpx.AsyncClient(mounts={"noctule://": transport}) as client,
            client.stream("GET", "noctule://orders/endless") as response,
        ):
            pieces = response.aiter_bytes()
            await anext(pieces)
            (calls,) = transport.describe().services
            assert calls.instances[0].in_flight == 1
            instances[0].kill()
            with pytest.raises(httpx.TransportError):
                async for _ in pieces:
                    pass
        (calls,) = transport.describe().services
        assert (calls.instances[0].in_flight, calls.failures) == (0, 1)


async def test_a_streamed_request_body_is_not_sent_again(
    small_registry: SmallRegistry, instances: list[SmallInstance]
) -> None:
    await register(small_registry, instances)
    async with Discovery(small_registry.url) as discovery:
        async with httpx.AsyncClient(mounts={"noctule://": DiscoveryTransport(discovery)}) as client:

            async def body() -> AsyncIterator[bytes]:
                yield b"once"

            response = await client.put("noctule://orders/status/503", content=body())
            assert response.status_code == 503
        assert await counted(instances) == 1


async def test_synchronous_clients_in_threads(
    registry: Registry, instances: list[SmallInstance], tmp_path: Path
) -> None:
    await register(registry, instances)
    await asyncio.to_thread(use_synchronously, registry.url, instances, tmp_path)


def use_synchronously(url: str, instances: list[SmallInstance], lists: Path) -> None:
    transport = SyncDiscoveryTransport(url, cache_dir=lists, caller=Caller(CallPolicy(timeout_s=5)))
    answers: list[str] = []
    failures: list[Exception] = []
    with httpx.Client(mounts={"noctule://": transport}) as client:

        def load(count: int) -> None:
            for _ in range(count):
                try:
                    answers.append(client.get("noctule://orders/").raise_for_status().text)
                except Exception as error:
                    failures.append(error)

        for count in (20, 40):
            threads = [threading.Thread(target=load, args=(count,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            if count == 40:
                instances[0].kill()
            for thread in threads:
                thread.join()
        assert failures == []
        assert set(answers) == {"a", "b", "c"}
        with pytest.raises(httpx.ConnectError, match="no instance of 'nobody'"):
            client.get("noctule://nobody/")
    assert [thread.name for thread in threading.enumerate() if thread.name == "discovery"] == []


async def test_the_example_calls_a_service(
    small_registry: SmallRegistry, instances: list[SmallInstance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOCTULE_REGISTRY_URL", small_registry.url)
    monkeypatch.chdir(tmp_path)
    await register(small_registry, instances)
    async with lifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        assert (await client.get("/")).json()["orders"] in ("a", "b", "c")
        assert (await client.get("/", headers={HEADER: "0"})).status_code == 504
        text = (await client.get("/metrics")).text
        assert 'noctule_calls_requests_total{service="orders"} 1' in text
        assert 'noctule_discovery_live{service="orders",tag=""} 1' in text


async def test_the_example_watches_a_service(
    small_registry: SmallRegistry, instances: list[SmallInstance], capfd: pytest.CaptureFixture[str]
) -> None:
    await register(small_registry, instances[:1])
    async with Discovery(small_registry.url) as discovery:
        tasks = [
            asyncio.create_task(show_list(discovery, "orders")),
            asyncio.create_task(ask(discovery, "orders", 0.1)),
        ]
        said = ""

        def has_said(text: str) -> bool:
            nonlocal said
            said += capfd.readouterr().out
            return text in said

        await until(lambda: has_said("200 a"), "an answer")
        await small_registry.deregister("a")
        await until(lambda: has_said("orders: nobody") and has_said("no answer: there is no instance"), "its end")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.engine("prometheus")
async def test_prometheus_can_read_the_metrics(small_registry: SmallRegistry, instances: list[SmallInstance]) -> None:
    promtool = engine_or_skip("promtool")
    await register(small_registry, instances)
    caller = Caller(breakers={"orders": CircuitBreaker("orders")})
    async with client_of("aiohttp", small_registry, 3, caller) as (client, discovery):
        await client.send("GET", "/")
        text = render_metrics(discovery.describe(), client.describe())
    check = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert (check.returncode, check.stderr) == (0, "")
