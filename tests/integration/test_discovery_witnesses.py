"""Programs of others find services in Noctule: dig, HAProxy by DNS, Prometheus by `http_sd`."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from engines import engine_or_skip, free_port, shown_in_guide
from own_node import own_node
from scenarios import Run

from noctule.core.registry.objects import CheckStatus

pytestmark = pytest.mark.integration

NOTICED_S_MAX = 15.0
"""How long a change in the registry may take until it is seen outside."""


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    try:
        async with asyncio.timeout(NOTICED_S_MAX):
            while not await condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"{what} did not happen within {NOTICED_S_MAX:g} s")


@asynccontextmanager
async def running(program: str, *arguments: str, folder: Path) -> AsyncIterator[None]:
    """An engine, until it is killed."""
    with (folder / "engine.log").open("wb") as log:
        process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
    try:
        yield
    except BaseException:
        print((folder / "engine.log").read_text(errors="replace")[-5_000:])
        raise
    finally:
        process.kill()
        process.wait()


async def checked(program: str, *arguments: str) -> str:
    """What a program that ends prints; it must end well."""
    done = await asyncio.to_thread(subprocess.run, [program, *arguments], capture_output=True, text=True, timeout=15)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@asynccontextmanager
async def app_instance(port: int) -> AsyncIterator[int]:
    """An HTTP server that says on which port it is, and has a metric."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/stats":
            return web.Response(text=f"# TYPE witness_port gauge\nwitness_port {port}\n")
        return web.Response(text=str(port))

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


# dig ------------------------------------------------------------------------------------------------------------------


def test_dig_reads_every_answer(run: Run, tmp_path: Path) -> None:
    """Its parser is as strict as parsers of DNS are."""
    dig = engine_or_skip("dig")

    async def scenario() -> None:
        async with own_node(tmp_path) as node:
            for port in range(8001, 8061):
                await node.register("web", port, ["blue"], f"10.0.0.{port - 8000}")
            await node.register("six", 8100, [], "fd00::1")

            async def ask(*words: str) -> list[str]:
                output = await checked(dig, "@127.0.0.1", "-p", str(node.dns_port), "+time=2", "+tries=1", *words)
                assert "warning" not in output.lower(), output
                return [line for line in output.splitlines() if line and not line.startswith(";")]

            assert len(await ask("web.service.consul", "A", "+short", "+bufsize=4096")) == 60
            assert await ask("six.service.consul", "AAAA", "+short") == ["fd00::1"]
            assert await ask("_six._tcp.service.consul", "SRV", "+short") == ["1 1 8100 host-8100.node.dc1.consul."]
            # Without +ignore dig asks by TCP what was cut by UDP.
            assert len(await ask("web.service.consul", "SRV", "+short")) == 60
            cut = await ask("web.service.consul", "SRV", "+short", "+ignore", "+noedns")
            assert 0 < len(cut) < 60
            assert len(await ask("blue.web.service.consul", "SRV", "+tcp", "+short")) == 60
            (soa,) = await ask("consul", "SOA", "+noall", "+answer")
            assert soa.split()[4:6] == ["node-1.node.dc1.consul.", "hostmaster.consul."]
            refused = await checked(dig, "@127.0.0.1", "-p", str(node.dns_port), "example.com", "A")
            assert "status: REFUSED" in refused

    run(scenario())


# HAProxy --------------------------------------------------------------------------------------------------------------

HAPROXY = """
global
  stats socket {folder}/socket mode 600 level admin
defaults
  mode http
  timeout connect 1s
  timeout client 10s
  timeout server 10s
  option redispatch
frontend web
  bind 127.0.0.1:{port}
  default_backend web
"""
"""What stands around the part that the guide shows."""


def haproxy_config(folder: Path, port: int, nameserver: str) -> str:
    """What the guide shows, with a frontend before it."""
    shown = shown_in_guide("dns.md", "haproxy").replace("tcp@127.0.0.1:7553", nameserver)
    return HAPROXY.format(folder=folder, port=port) + shown


async def servers_of(folder: Path) -> int:
    """How many servers of HAProxy have an address."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(folder / "socket"))
    except OSError:
        return 0
    writer.write(b"show servers state web\n")
    lines = (await reader.read()).decode().splitlines()
    writer.close()
    return sum(" 127.0.0.1 " in line for line in lines)


async def seen(url: str) -> set[str]:
    """Who answers twenty requests; empty while nobody does."""
    found: set[str] = set()
    async with aiohttp.ClientSession() as session:
        for _ in range(20):
            async with session.get(url) as answer:
                if answer.status == 200:
                    found.add(await answer.text())
    return found


@pytest.mark.parametrize("protocol", ["", "tcp@"], ids=["udp", "tcp"])
def test_haproxy_follows_instances_as_they_come_and_go(run: Run, tmp_path: Path, protocol: str) -> None:
    haproxy = engine_or_skip("haproxy")

    async def scenario() -> None:
        async with own_node(tmp_path / "node") as node, AsyncExitStack() as stack:
            port = free_port()
            file = tmp_path / "haproxy.cfg"
            file.write_text(haproxy_config(tmp_path, port, f"{protocol}127.0.0.1:{node.dns_port}"))
            await checked(haproxy, "-c", "-f", str(file))
            first, second, third = [await stack.enter_async_context(app_instance(free_port())) for _ in range(3)]
            await node.register("web", first)
            await node.register("web", second)
            await stack.enter_async_context(running(haproxy, "-db", "-f", str(file), folder=tmp_path))

            async def goes_to(*ports: int) -> bool:
                try:
                    return await seen(f"http://127.0.0.1:{port}/") == set(map(str, ports))
                except aiohttp.ClientError:
                    return False

            await until(lambda: goes_to(first, second), "both instances getting requests")
            await node.register("web", third)
            await until(lambda: goes_to(first, second, third), "the third getting requests")
            await node.tell(first, CheckStatus.CRITICAL)
            await until(lambda: goes_to(second, third), "the critical one getting none")
            await node.deregister(second)
            await until(lambda: goes_to(third), "the deregistered one getting none")
            await node.tell(first, CheckStatus.PASSING)
            await until(lambda: goes_to(first, third), "the healthy one getting some again")

    run(scenario())


def test_haproxy_by_tcp_knows_more_instances_than_a_packet_holds(run: Run, tmp_path: Path) -> None:
    haproxy = engine_or_skip("haproxy")

    async def scenario() -> None:
        async with own_node(tmp_path / "node") as node, AsyncExitStack() as stack:
            for port in range(9001, 9061):
                await node.register("web", port)
            file = tmp_path / "haproxy.cfg"
            config = haproxy_config(tmp_path, free_port(), f"tcp@127.0.0.1:{node.dns_port}")
            file.write_text(config.replace("server-template web 10", "server-template web 80"))
            await stack.enter_async_context(running(haproxy, "-db", "-f", str(file), folder=tmp_path))

            async def knows_all() -> bool:
                return await servers_of(tmp_path) == 60

            await until(knows_all, "60 servers having an address")

    run(scenario())


# Prometheus -----------------------------------------------------------------------------------------------------------

PROMETHEUS = """
global:
  scrape_interval: 500ms
  scrape_timeout: 400ms
"""
"""What stands before the part that the guide shows."""


def test_prometheus_scrapes_what_the_registry_names(tmp_path: Path) -> None:
    """It takes what it has discovered every five seconds, whatever the refresh interval."""
    prometheus, promtool = engine_or_skip("prometheus"), engine_or_skip("promtool")

    async def scenario() -> None:
        async with own_node(tmp_path / "node") as node, AsyncExitStack() as stack:
            port = free_port()
            file = tmp_path / "prometheus.yml"
            shown = re.sub(r"http://127\.0\.0\.1:750\d", node.url, shown_in_guide("prometheus.md", "yaml"))
            file.write_text(PROMETHEUS + shown.replace("refresh_interval: 10s", "refresh_interval: 1s"))
            await checked(promtool, "check", "config", str(file))
            discovered = await checked(promtool, "check", "service-discovery", "--timeout=1s", str(file), "noctule")
            assert '"node": "node-1"' in discovered
            flags = [f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'data'}"]
            flags.append(f"--web.listen-address=127.0.0.1:{port}")
            await stack.enter_async_context(running(prometheus, *flags, folder=tmp_path))

            targets = f"http://127.0.0.1:{port}/api/v1/targets?state=active"

            async def up() -> dict[str, str]:
                """By service and id, what Prometheus says of its targets."""
                try:
                    async with aiohttp.ClientSession() as session, session.get(targets) as answer:
                        found = json.loads(await answer.text())["data"]["activeTargets"]
                except (aiohttp.ClientError, KeyError, ValueError):
                    return {}
                named = {
                    f"{each['labels']['service']} {each['labels'].get('id', '')}": each["health"] for each in found
                }
                assert len(named) == len(found), "each is scraped once, however many nodes tell of it"
                return named

            async def is_up(*targets: str) -> bool:
                return await up() == dict.fromkeys(targets, "up")

            await until(lambda: is_up("noctule "), "the node being scraped")
            first = await stack.enter_async_context(app_instance(free_port()))
            await node.register("web", first, ["metrics"], metrics_path="/stats")
            await node.register("quiet", free_port())
            await until(lambda: is_up("noctule ", f"web {first}"), "the new instance being scraped")
            await node.tell(first, CheckStatus.CRITICAL)
            await until(lambda: is_up("noctule "), "the dead instance being left out")

    asyncio.run(scenario())
