"""The drivers of HAProxy and nginx: when they reload, what they refuse, and what becomes of a process that dies."""

import asyncio
import datetime
import os
import signal
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from cryptography import x509
from engines import engine_or_skip, free_port
from gateway_backends import Backend, Held, backends
from gateway_engines import running

from noctule.adapters.certificates import CertificateAuthority
from noctule.base.errors import ConfigError, RequestError
from noctule.gateway.engines.haproxy_driver import HAProxyDriver
from noctule.gateway.engines.nginx_driver import NginxDriver
from noctule.gateway.instances import Standing
from noctule.gateway.model import Certificate, GatewayModel, Limits, Route, Service, Share

pytestmark = pytest.mark.integration

DRIVERS = {"haproxy": HAProxyDriver, "nginx": NginxDriver}


@pytest.fixture(scope="module")
def apps() -> Iterator[dict[str, Backend]]:
    with backends("a", "b", "c") as found:
        yield found


@pytest.fixture(params=["haproxy", "nginx"])
def engine(request: pytest.FixtureRequest) -> str:
    engine_or_skip(request.param)
    return request.param


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gw") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def model_of(port: int, **changes: object) -> GatewayModel:
    services = (Service(name="blue", registry="app"), Service(name="green", registry="app"))
    routes = (Route(name="all", shares=(Share("blue"),)),)
    model = GatewayModel(port=port, services=services, routes=routes, limits=Limits(connections_max=1_000))
    return msgspec.structs.replace(model, **changes)


async def ask(port: int, path: str = "/") -> str:
    """The instance that answered."""
    async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}{path}") as response:
        return str((await response.json())["instance"]) if response.status == 200 else str(response.status)


async def until(condition: Callable[[], Awaitable[bool]], deadline_s: float = 10.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_haproxy_follows_instances_and_shares_without_a_reload(apps: dict[str, Backend]) -> None:
    engine_or_skip("haproxy")
    model = model_of(free_port())
    a, b, c = (apps[name].instance for name in "abc")
    async with running("haproxy", model, {"blue": [a]}) as driver:
        pid = (await driver.status()).pid
        await driver.apply(model, {"blue": [a, b], "green": [c]})
        assert {await ask(model.port) for _ in range(8)} == {"a", "b"}
        # Another port under the same id, other weights, and one that has gone.
        moved = msgspec.structs.replace(b, port=c.port, weight=7)
        await driver.apply(model, {"blue": [moved], "green": [c]})
        assert {await ask(model.port) for _ in range(4)} == {"c"}
        await driver.apply(model, {"blue": [a], "green": [c]})
        assert await ask(model.port) == "a"
        await driver.set_shares("all", (Share("blue", 0), Share("green", 100)))
        assert {await ask(model.port) for _ in range(4)} == {"c"}
        critical = msgspec.structs.replace(c, standing=Standing.CRITICAL)
        await driver.apply(with_share(model, "green"), {"green": [critical]})
        assert await ask(model.port) == "503"
        status = await driver.status()
        assert (status.reloads, status.pid) == (0, pid)


def with_share(model: GatewayModel, service: str) -> GatewayModel:
    return msgspec.structs.replace(model, routes=(Route(name="all", shares=(Share(service),)),))


async def test_another_treatment_of_all_servers_is_a_reload(apps: dict[str, Backend]) -> None:
    """A server that is there keeps what it was added with; only a reload tells it of a new bound."""
    engine_or_skip("haproxy")
    model = model_of(free_port())
    listed = {"blue": [apps["a"].instance]}
    async with running("haproxy", model, listed) as driver:
        bounded = msgspec.structs.replace(model.services[0], connections_max=1)
        changed = msgspec.structs.replace(model, services=(bounded, model.services[1]))
        await driver.apply(changed, listed)
        assert (await driver.status()).reloads == 1
        began = time.monotonic()
        assert await asyncio.gather(*(ask(model.port, "/?ms=300") for _ in range(2))) == ["a", "a"]
        assert time.monotonic() - began > 0.55


async def test_a_removed_server_is_deleted_once_its_connections_are_gone() -> None:
    engine_or_skip("haproxy")
    model = model_of(free_port())
    with backends("a", "b") as own:
        a, b = own["a"].instance, own["b"].instance
        async with running("haproxy", model, {"blue": [a, b]}) as driver:
            held = Held(own.values())
            slow = [asyncio.create_task(ask(model.port, held.path)) for _ in range(4)]
            await held.until_there(4)
            await driver.apply(model, {"blue": [a]})
            held.let_go()
            assert sorted(await asyncio.gather(*slow)) == ["a", "a", "b", "b"]
            own["b"].kill()  # What has answered keeps its connections, and HAProxy drops them after 5 to 20 s.
            assert isinstance(driver, HAProxyDriver)

            async def is_deleted() -> bool:
                return ("blue", "b") not in await driver._socket.servers()

            await until(is_deleted)


async def test_what_the_program_refuses_is_not_swapped_in(engine: str, apps: dict[str, Backend], folder: Path) -> None:
    """A certificate that is none: only the real program sees it."""
    (folder / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    bad = Certificate(str(folder / "bad.pem"), str(folder / "bad.pem"), ("x.example.com",))
    model = model_of(free_port())
    async with running(engine, model, {"blue": [apps["a"].instance]}) as driver:
        with pytest.raises(ConfigError, match=f"{engine} refuses the config"):
            await driver.apply(
                msgspec.structs.replace(model, tls_port=free_port(), certificates=(bad,)),
                {"blue": [apps["b"].instance]},
            )
        assert await ask(model.port) == "a"
        assert "refuses" in (await driver.status()).last_error
        await driver.apply(model, {"blue": [apps["b"].instance]})
        assert await ask(model.port) == "b"
        assert (await driver.status()).last_error == ""


async def test_a_new_certificate_is_shown(engine: str, apps: dict[str, Backend], folder: Path) -> None:
    certificate = Certificate(str(folder / "c.pem"), str(folder / "c.key"))
    model = model_of(free_port(), tls_port=free_port(), certificates=(certificate,))
    write_certificate(folder, "one.example.com")
    async with running(engine, model, {"blue": [apps["a"].instance]}):
        assert "one.example.com" in await names_shown(model.tls_port)
        write_certificate(folder, "two.example.com")

        async def is_new() -> bool:
            return "two.example.com" in await names_shown(model.tls_port)

        await until(is_new)


def write_certificate(folder: Path, host: str) -> None:
    now = datetime.datetime.now(datetime.UTC)
    pem, key = CertificateAuthority("test", now).issue([host], now)
    (folder / "c.key").write_bytes(key)
    (folder / "c.pem").write_bytes(pem)


async def names_shown(port: int) -> str:
    """The certificate that is shown, in text, whoever signed it."""
    pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
    names = x509.load_pem_x509_certificate(pem.encode()).extensions
    return str(names.get_extension_for_class(x509.SubjectAlternativeName).value)


async def test_a_port_that_is_taken_is_told(engine: str, apps: dict[str, Backend], folder: Path) -> None:
    model = model_of(apps["a"].port)
    with pytest.raises(ConfigError, match="did not start"):
        await DRIVERS[engine](folder).start(model, {"blue": [apps["a"].instance]})
    # Nothing is left: neither the lock nor a process.
    model = model_of(free_port())
    async with running(engine, model, {"blue": [apps["a"].instance]}, folder):
        assert await ask(model.port) == "a"


async def test_a_killed_engine_is_started_again(engine: str, apps: dict[str, Backend]) -> None:
    model = model_of(free_port())
    async with running(engine, model, {"blue": [apps["a"].instance]}) as driver:
        await driver.apply(model, {"blue": [apps["b"].instance]})
        killed = (await driver.status()).pid
        os.kill(killed, signal.SIGKILL)

        async def is_back() -> bool:
            status = await driver.status()
            return status.restarts == 1 and status.pid not in (0, killed)

        await until(is_back)
        assert await ask(model.port) == "b"


async def test_a_stop_waits_for_what_is_in_flight_and_not_for_idle_clients(
    engine: str, apps: dict[str, Backend], folder: Path
) -> None:
    model = model_of(free_port())
    driver = DRIVERS[engine](folder)
    await driver.start(model, {"blue": [apps["a"].instance]})
    async with aiohttp.ClientSession() as idle:
        async with idle.get(f"http://127.0.0.1:{model.port}/") as response:
            assert response.status == 200
        held = Held(apps.values())
        slow = asyncio.create_task(ask(model.port, held.path))
        await held.until_there(1)
        stopping = asyncio.create_task(driver.stop(20))
        await asyncio.sleep(0.3)
        assert not stopping.done()
        began = time.monotonic()
        held.let_go()
        await stopping
        assert time.monotonic() - began < 5
        assert await slow == "a"
        with pytest.raises(aiohttp.ClientError):
            await ask(model.port)


async def test_a_port_that_is_taken_later_leaves_the_old_config(
    engine: str, apps: dict[str, Backend], folder: Path
) -> None:
    """The program's check sees nothing wrong; only its start does. A restart must not find it on disk."""
    model = model_of(free_port())
    async with running(engine, model, {"blue": [apps["a"].instance]}, folder) as driver:
        with pytest.raises(ConfigError, match=r"did not (start|take)"):
            await driver.apply(model_of(apps["b"].port), {"blue": [apps["b"].instance]})
        assert await ask(model.port) == "a"
        killed = (await driver.status()).pid
        os.kill(killed, signal.SIGKILL)

        async def is_back() -> bool:
            return (await driver.status()).pid not in (0, killed)

        await until(is_back)
        assert await ask(model.port) == "a"


async def test_a_running_engine_is_taken_over(engine: str, apps: dict[str, Backend], folder: Path) -> None:
    """The driver was killed, the engine was not; clients see nothing of the next driver's start."""
    model = model_of(free_port())
    first = DRIVERS[engine](folder)
    await first.start(model, {"blue": [apps["a"].instance]})
    # As kill -9 would leave it: no goodbye, and the lock gone with the process.
    for task in first._tasks:
        task.cancel()
    first._folder.close()
    held = Held(apps.values())
    slow = asyncio.create_task(ask(model.port, held.path))
    await held.until_there(1)
    async with running(engine, model, {"blue": [apps["b"].instance]}, folder):
        assert await ask(model.port) == "b"
        held.let_go()
        assert await slow == "a"


async def test_two_drivers_in_one_folder_are_refused(engine: str, apps: dict[str, Backend], folder: Path) -> None:
    model = model_of(free_port())
    async with running(engine, model, {"blue": [apps["a"].instance]}, folder):
        with pytest.raises(ConfigError, match="in use"):
            await DRIVERS[engine](folder).start(model, {})


async def test_nginx_reloads_only_for_changes_and_not_more_often_than_it_may(apps: dict[str, Backend]) -> None:
    engine_or_skip("nginx")
    model = model_of(free_port())
    a, b, c = (apps[name].instance for name in "abc")
    async with running("nginx", model, {"blue": [a]}) as driver:
        await driver.apply(model, {"blue": [a]})
        assert (await driver.status()).reloads == 0
        await asyncio.gather(*(driver.apply(model, {"blue": found}) for found in ([a, b], [b], [c, a], [c])))
        assert {await ask(model.port) for _ in range(4)} == {"c"}
        assert (await driver.status()).reloads == 1


async def test_names_are_resolved_and_one_that_nobody_knows_stops_nothing(
    engine: str, apps: dict[str, Backend]
) -> None:
    model = model_of(free_port())
    named = msgspec.structs.replace(apps["a"].instance, host="localhost")
    lost = msgspec.structs.replace(apps["c"].instance, host="no-such-host.invalid")
    async with running(engine, model, {"blue": [named, lost]}) as driver:
        assert {await ask(model.port) for _ in range(6)} == {"a"}
        await driver.apply(model, {"blue": [named, lost, apps["b"].instance]})
        assert {await ask(model.port) for _ in range(12)} == {"a", "b"}


async def test_draining_what_is_not_there_is_an_error(engine: str, apps: dict[str, Backend]) -> None:
    model = model_of(free_port())
    async with running(engine, model, {"blue": [apps["a"].instance]}) as driver:
        with pytest.raises(RequestError, match="no instance 'z'"):
            await driver.drain("blue", "z")
        with pytest.raises(RequestError, match="no route 'z'"):
            await driver.set_shares("z", (Share("blue"),))


async def test_a_missing_program_is_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-haproxy is not installed"):
        await HAProxyDriver(folder, program="no-such-haproxy").start(model_of(1), {})
