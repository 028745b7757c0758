"""A gateway before toys: apps in this process, servers of hand-made bytes, and processes that may be killed."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDictProxy

from noctule.gateway.gateway import Gateway
from noctule.gateway.instances import Instance
from noctule.gateway.model import (
    ActiveCheck,
    Certificate,
    Compression,
    GatewayModel,
    HeaderRules,
    Limits,
    Route,
    Service,
    Share,
)
from noctule.gateway.orders import Orders
from noctule.gateway.plane import DataPlane

DEADLINE_S = 10.0
MIB = 1024 * 1024
SERVICE = "app"


@dataclass(frozen=True)
class Settings:
    """What tests change of a model of one service and one route."""

    port: int = 0
    health_interval_s: float = 0.05
    response_timeout_s: float = 30.0
    idle_timeout_s: float = 60.0
    body_bytes_max: int = 64 * MIB
    in_flight_max: int = 4_096
    trusted_proxies: tuple[str, ...] = ()
    head_timeout_s: float = 10.0
    connections_max: int = 16_384
    tls: tuple[Certificate, ...] = ()
    """Certificates; the port for TLS is then the system's choice too."""
    tls_port: int = 0
    redirect_to_tls: bool = False
    compression: Compression = field(default_factory=lambda: Compression(enabled=False))
    request_headers: HeaderRules = field(default_factory=HeaderRules)
    response_headers: HeaderRules = field(default_factory=HeaderRules)

    def model(self) -> GatewayModel:
        service = Service(
            name=SERVICE,
            check=ActiveCheck(interval_s=self.health_interval_s),
            response_timeout_s=self.response_timeout_s,
            idle_timeout_s=self.idle_timeout_s,
        )
        return GatewayModel(
            port=self.port,
            services=(service,),
            routes=(
                Route(
                    name=SERVICE,
                    shares=(Share(SERVICE),),
                    request_headers=self.request_headers,
                    response_headers=self.response_headers,
                ),
            ),
            limits=Limits(
                in_flight_max=self.in_flight_max,
                body_bytes_max=self.body_bytes_max,
                head_timeout_s=self.head_timeout_s,
                connections_max=self.connections_max,
            ),
            trusted_proxies=self.trusted_proxies,
            tls_port=self.tls_port,
            certificates=self.tls,
            redirect_to_tls=self.redirect_to_tls,
            compression=self.compression,
        )


CONFIG = Settings()

# An instance in a process of its own, which says its port and then serves until it is killed.
PROCESS = """
import asyncio, os
from aiohttp import web

async def page(request):
    await asyncio.sleep(0.02)  # So that a kill finds requests in flight.
    return web.Response(text=os.environ["INSTANCE_ID"])

async def socket(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws

async def main():
    app = web.Application()
    app.router.add_get("/ws", socket)
    app.router.add_get("/{any:.*}", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def wait_until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Poll a condition; fails when it does not come true in time."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


@dataclass
class Toy:
    """An app in this process; `seen` are the requests that reached it, probes left out."""

    id: str
    instance: Instance
    runner: web.AppRunner
    is_ready: bool = True
    seen: list[web.Request] = field(default_factory=list)


class World:
    """Toys, a gateway before them, and a client of the gateway."""

    def __init__(self, gateway: Gateway, client: aiohttp.ClientSession, exits: contextlib.AsyncExitStack) -> None:
        self.gateway = gateway
        self.listed: dict[str, Instance] = {}
        self.client = client
        self._exits = exits

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    @property
    def plane(self) -> DataPlane:
        """The gateway's sockets."""
        assert self.gateway.plane is not None
        return self.gateway.plane

    @property
    def in_flight(self) -> int:
        """Requests that have begun, whether an instance has them or not."""
        return self.plane.in_flight

    async def toy(self, instance_id: str, handler: Handler) -> Toy:
        """An aiohttp app that answers every path with `handler`, known to the gateway and healthy."""
        app = web.Application(client_max_size=100 * MIB)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        toy = Toy(instance_id, Instance(instance_id, "127.0.0.1", 0), runner)

        async def dispatch(request: web.Request) -> web.StreamResponse:
            if request.path == "/health/ready":
                return web.Response(status=200 if toy.is_ready else 503)
            toy.seen.append(request)
            return await handler(request)

        app.router.add_route("*", "/{any:.*}", dispatch)
        await runner.setup()
        self._exits.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        toy.instance = Instance(instance_id, "127.0.0.1", runner.addresses[0][1])
        await self.add(toy.instance)
        return toy

    async def raw(self, instance_id: str, serve: Callable[..., Awaitable[None]]) -> Instance:
        """An instance of hand-made bytes: `serve(head, reader, writer)` for each request but the probes."""

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while head := await reader.readuntil(b"\r\n\r\n"):
                    if b"/health/ready" in head:
                        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                        break
                    await serve(head, reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self._exits.callback(server.close)
        instance = Instance(instance_id, "127.0.0.1", server.sockets[0].getsockname()[1])
        await self.add(instance)
        return instance

    async def process(self, instance_id: str, directory: Path) -> subprocess.Popen[str]:
        """An instance in a process of its own."""
        script = directory / "instance.py"
        script.write_text(PROCESS)
        process = subprocess.Popen(
            [sys.executable, str(script)],
            env={**os.environ, "INSTANCE_ID": instance_id},
            stdout=subprocess.PIPE,
            text=True,
        )
        self._exits.callback(_end, process)
        assert process.stdout is not None
        port = int(await asyncio.to_thread(process.stdout.readline))
        await self.add(Instance(instance_id, "127.0.0.1", port))
        return process

    async def add(self, instance: Instance) -> None:
        self.list(instance)
        await wait_until(lambda: self.state(instance.id) == "healthy")

    def list(self, *instances: Instance, drained: tuple[str, ...] = ()) -> None:
        """Tell the gateway of instances beside those it knows, or that one is drained."""
        self.listed |= {instance.id: instance for instance in instances}
        model = self.gateway.traffic.orders.model
        taken_out = tuple((SERVICE, instance_id) for instance_id in drained)
        self.gateway.traffic.apply(Orders(model, {SERVICE: tuple(self.listed.values())}, taken_out))

    def remove(self, instance_id: str) -> None:
        del self.listed[instance_id]
        self.list()

    async def drain(self, instance_id: str, timeout_s: float = 30.0) -> bool:
        self.list(drained=(instance_id,))
        return await self.gateway.wait_idle(SERVICE, instance_id, timeout_s)

    def state(self, instance_id: str) -> str:
        return {instance.id: instance.state for instance in self.gateway.picture().instances}[instance_id]

    async def get(self, path: str = "/", **options: Any) -> tuple[int, str, CIMultiDictProxy[str]]:
        async with self.client.get(self.url + path, **options) as response:
            return response.status, await response.text(), response.headers

    async def exchange(self, request: bytes) -> bytes:
        """The whole answer to hand-made bytes; the request has to make the gateway close the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        try:
            writer.write(request)
            async with asyncio.timeout(DEADLINE_S):
                return await reader.read()
        finally:
            writer.close()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


MakeWorld = Callable[..., Awaitable[World]]


def named(instance_id: str) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text=instance_id)

    return answer


@pytest.fixture
async def make_world() -> AsyncIterator[MakeWorld]:
    """Starts gateways with the settings given; everything ends with the test."""
    async with contextlib.AsyncExitStack() as exits:

        async def make(config: Settings, **options: Any) -> World:
            gateway = Gateway(Orders(config.model()), **options)
            await gateway.start()
            exits.push_async_callback(gateway.stop, 0.0)
            client = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=DEADLINE_S), cookie_jar=aiohttp.DummyCookieJar()
            )
            await exits.enter_async_context(client)
            return World(gateway, client, exits)

        yield make


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    """One gateway with the settings of production, but for quicker probes."""
    return await make_world(CONFIG)
