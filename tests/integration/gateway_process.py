"""A gateway in a process of its own, and toy instances for it in this one."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

DEADLINE_S = 20.0


@dataclass
class Toy:
    """An instance that answers with its name; `?s=` seconds later, and at /held once `gate` is open."""

    name: str
    port: int
    paths: list[str] = field(default_factory=list)
    is_ready: bool = True
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


class GatewayProcess:
    """``noctule gateway`` with a config in a folder of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.config = folder / "gateway.toml"
        self.log = folder / "gateway.log"
        self.access_log = folder / "access.log"
        self._arguments = (*(arguments or ("--config", str(self.config))), "--access-log", str(self.access_log))
        self.process: asyncio.subprocess.Process | None = None
        self.facts: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.facts['port']}"

    async def start(self) -> None:
        """Returns once it serves; fails with its log when it ends instead."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "noctule", "gateway", *self._arguments, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            line = await self.process.stdout.readline()
        assert line, self.log.read_text()
        self.facts = json.loads(line)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def wait_end(self) -> int:
        assert self.process is not None
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()

    async def end(self) -> None:
        """Whatever happened before."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it has logged under an event's name."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]


class Client:
    """Of one gateway."""

    def __init__(self, gateway: GatewayProcess, session: aiohttp.ClientSession) -> None:
        self._gateway = gateway
        self._session = session

    async def get(self, path: str = "/", **headers: str) -> tuple[int, str]:
        async with self._session.get(self._gateway.url + path, headers=headers) as response:
            return response.status, await response.text()

    async def admin(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        url = f"{self._gateway.url}/__noctule/{path}"
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        async with self._session.request(method, url, data=data) as response:
            return response.status, json.loads(await response.read())

    async def wait_healthy(self, count: int) -> None:
        """Until every worker sees so many healthy instances: a picture tells what most of them see."""

        async def are_healthy() -> bool:
            _, found = await self.admin("GET", "status")
            states = [each["state"] for service in found["traffic"]["services"] for each in service["instances"]]
            return states.count("healthy") == count == len(states)

        await wait_until(are_healthy)


async def wait_until(condition: Callable[[], Awaitable[object]], deadline_s: float = DEADLINE_S) -> None:
    """Poll a condition; fails when it does not come true in time."""
    async with asyncio.timeout(deadline_s):
        while not await condition():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def toys(*names: str) -> AsyncIterator[list[Toy]]:
    """Instances on ports that the system chose."""
    async with contextlib.AsyncExitStack() as exits:
        made = []
        for name in names:
            toy = Toy(name, 0)
            runner = web.AppRunner(_app(toy), access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            exits.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            toy.port = runner.addresses[0][1]
            made.append(toy)
        yield made


@contextlib.asynccontextmanager
async def serving(gateway: GatewayProcess) -> AsyncIterator[Client]:
    """The gateway started, and a client of it; ended in any case."""
    try:
        await gateway.start()
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        # Each request a connection of its own: so every worker has its part of them.
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            yield Client(gateway, session)
    finally:
        await gateway.end()


def _app(toy: Toy) -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/health/ready":
            return web.Response(status=200 if toy.is_ready else 503)
        toy.paths.append(request.path)
        await asyncio.sleep(float(request.query.get("s", "0")))
        if request.path == "/held":
            await toy.gate.wait()
        return web.Response(text=toy.name)

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    return app
