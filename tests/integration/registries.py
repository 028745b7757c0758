"""Registries that discovery is tested with: a small one that does what a test tells it, a real Consul, and a node.

PYTEST_DONT_REWRITE, as tests also import names from here, which pytest would warn about.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest
from aiohttp import web
from cluster_processes import SEGMENT_BYTES_MAX, NodeCluster, until_ready, write_settings
from engines import ConsulServer, free_port


class Registry(Protocol):
    """What a test does to a registry."""

    url: str

    async def start(self) -> None:
        """Serve, knowing nothing."""

    async def kill(self) -> None:
        """Be gone, with all that was known."""

    async def register(self, service: str, name: str, port: int, meta: dict[str, str] | None = None) -> None:
        """An instance that is well."""

    async def deregister(self, name: str) -> None:
        """It is gone for good."""


class SmallRegistry:
    """Answers ``/v1/health/service/<name>`` with blocking queries as Consul does, and misbehaves on demand."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.index = 0
        self.instances: dict[str, dict[str, Any]] = {}
        self.questions: list[dict[str, str]] = []
        self.tokens: set[str | None] = set()
        self.misbehaves: web.Response | asyncio.Event | None = None
        """Sent in place of the next answers, or waited for before them."""
        self.has_leader = True
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        self.index, self.instances = 1, {}
        app = web.Application()
        app.router.add_get("/v1/health/service/{service}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def kill(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def register(self, service: str, name: str, port: int, meta: dict[str, str] | None = None) -> None:
        self.instances[name] = {
            "Node": {"Node": "small", "Address": "127.0.0.1"},
            "Service": {"ID": name, "Service": service, "Address": "127.0.0.1", "Port": port, "Meta": meta or {}},
            "Checks": [{"Status": "passing"}],
        }
        self.change()

    async def deregister(self, name: str) -> None:
        del self.instances[name]
        self.change()

    def turn_critical(self, name: str) -> None:
        """Its check fails."""
        self.instances[name]["Checks"] = [{"Status": "critical"}]
        self.change()

    def change(self) -> None:
        self.index += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def _answer(self, request: web.Request) -> web.Response:
        self.questions.append(dict(request.query))
        self.tokens.add(request.headers.get("X-Consul-Token"))
        if isinstance(self.misbehaves, web.Response):
            odd = self.misbehaves
            return web.Response(status=odd.status, body=odd.body, headers=odd.headers)
        if self.misbehaves is not None:
            await self.misbehaves.wait()
        if int(request.query.get("index", 0)) >= self.index:
            wait_s = float(request.query["wait"].removesuffix("ms")) / 1000
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
        service = request.match_info["service"]
        found = [each for each in self.instances.values() if each["Service"]["Service"] == service]
        headers = {"X-Consul-Index": str(self.index), "X-Consul-KnownLeader": str(self.has_leader).lower()}
        return web.json_response(found, headers=headers)


class RealConsul:
    """A real Consul, by its HTTP API."""

    def __init__(self, directory: Path) -> None:
        self._server = ConsulServer(directory)
        self.url = self._server.url

    async def start(self) -> None:
        await asyncio.to_thread(self._server.start)

    async def kill(self) -> None:
        await asyncio.to_thread(self._server.kill)

    async def register(self, service: str, name: str, port: int, meta: dict[str, str] | None = None) -> None:
        await put_service(self.url, service, name, port, meta)

    async def deregister(self, name: str) -> None:
        await remove_service(self.url, name)


class OneNode:
    """A node of Noctule that is a cluster by itself; each of its lives has another, empty directory."""

    def __init__(self, directory: Path) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._directory = directory
        self._lives: list[NodeCluster] = []

    async def start(self) -> None:
        folder = self._directory / f"life-{len(self._lives)}"
        folder.mkdir(parents=True)
        write_settings(folder, segment_bytes_max=SEGMENT_BYTES_MAX)
        self._lives.append(NodeCluster(folder, partitions=1, nodes=1))
        (life,) = self._lives[-1].start_all(http_port=str(self._port)).values()
        await until_ready(await asyncio.to_thread(life.wait_serving))

    async def kill(self) -> None:
        for life in self._lives:
            life.close()

    async def register(self, service: str, name: str, port: int, meta: dict[str, str] | None = None) -> None:
        await put_service(self.url, service, name, port, meta)

    async def deregister(self, name: str) -> None:
        await remove_service(self.url, name)


async def put_service(url: str, service: str, name: str, port: int, meta: dict[str, str] | None = None) -> None:
    """Register an instance with the agent at this URL."""
    body = {"ID": name, "Name": service, "Address": "127.0.0.1", "Port": port, "Meta": meta or {}}
    await _put(f"{url}/v1/agent/service/register", body)


async def remove_service(url: str, name: str) -> None:
    """Deregister an instance from the agent at this URL."""
    await _put(f"{url}/v1/agent/service/deregister/{name}", None)


async def _put(url: str, body: object) -> None:
    async with aiohttp.ClientSession() as session, session.put(url, json=body) as response:
        assert response.status == 200, await response.text()


@pytest.fixture
async def small_registry() -> AsyncIterator[SmallRegistry]:
    """A running one that knows nothing."""
    registry = SmallRegistry()
    await registry.start()
    yield registry
    await registry.kill()


@pytest.fixture(params=["small", "consul", "noctule"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    """Each of them in turn, running, knowing nothing."""
    kinds: dict[str, Callable[[], Registry]] = {
        "small": SmallRegistry,
        "consul": lambda: RealConsul(tmp_path / "consul"),
        "noctule": lambda: OneNode(tmp_path / "noctule"),
    }
    one = kinds[request.param]()
    try:
        await one.start()
        yield one
    finally:
        await one.kill()
