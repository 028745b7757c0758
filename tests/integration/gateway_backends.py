"""Small apps for the tests of gateways: processes that can be killed, and count what they were asked."""

import asyncio
import contextlib
import json
import secrets
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from noctule.gateway.instances import Instance

HELD_S_MAX = 10.0
"""How long a gateway may take to bring requests to instances, on a busy machine."""

# GET /any: what it was asked, as JSON, after ?ms=N, or with ?hold=NAME after GET /_let_go?hold=NAME. POST /any: the
# same, and counted by the header X-Key. /ws echoes.
# POST /hangup: counted, and the connection ends without an answer. /break?by=NAME: as /any, but the connection to that
# instance ends within its answer. /big: text that is worth compressing.
# GET /_count: what was asked so far. /health/ready: 200.
PROGRAM = """
import asyncio, collections, json, os, sys
from aiohttp import WSMsgType, web

NAME = sys.argv[1]
counts = collections.Counter()
gates = collections.defaultdict(asyncio.Event)

async def answer(request):
    counts[request.method] += 1
    if key := request.headers.get("X-Key"):
        counts["key " + key] += 1
    body = await request.read()
    await asyncio.sleep(float(request.query.get("ms", 0)) / 1000)
    if hold := request.query.get("hold"):
        counts["hold " + hold] += 1
        await gates[hold].wait()
    facts = {"instance": NAME, "method": request.method, "path": request.raw_path, "body_bytes": len(body),
             "peer_port": request.transport.get_extra_info("peername")[1],
             "headers": [[name, value] for name, value in request.headers.items()]}
    return web.json_response(facts, headers={"X-Powered-By": "backend"})

async def hang_up(request):
    counts["key " + request.headers["X-Key"]] += 1
    await request.read()
    request.transport.close()
    return web.Response()

async def break_off(request):
    if request.query["by"] != NAME:
        return await answer(request)
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"part")
    await asyncio.sleep(0.02)
    request.transport.abort()
    return response

async def big(request):
    return web.Response(text="all work and no play " * 1000)

async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str(NAME)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket

async def let_go(request):
    gates[request.query["hold"]].set()
    return web.Response()

async def count(request):
    return web.json_response(counts)

async def ready(request):
    return web.Response(text="ok")

async def main():
    app = web.Application(client_max_size=100 * 1024 * 1024)
    app.router.add_get("/_count", count)
    app.router.add_get("/_let_go", let_go)
    app.router.add_get("/health/ready", ready)
    app.router.add_get("/ws", echo)
    app.router.add_get("/big", big)
    app.router.add_get("/break", break_off)
    app.router.add_post("/hangup", hang_up)
    app.router.add_route("*", "/{any:.*}", answer)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=75)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[2]), reuse_address=True).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Backend:
    """One process."""

    def __init__(self, name: str, script: Path) -> None:
        self.name = name
        self._script = script
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """On the same port as before; returns once it listens."""
        command = [sys.executable, str(self._script), self.name, str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    @property
    def instance(self) -> Instance:
        """As a gateway is told of it."""
        return Instance(self.name, "127.0.0.1", self.port)

    @property
    def counts(self) -> Counter[str]:
        """What it was asked, by method, by ``key <X-Key>`` and by ``hold <name>``."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_count", timeout=5) as response:
            return Counter(json.load(response))

    def let_go(self, hold: str) -> None:
        """Answer all that was and will be asked with ``?hold=<this name>``."""
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_let_go?hold={hold}", timeout=5).close()

    def kill(self) -> None:
        """As kill -9; nothing happens when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


class Held:
    """Requests that instances answer when they are let go, and not before: no busy machine ends them too soon."""

    def __init__(self, apps: Iterable[Backend]) -> None:
        self._apps = list(apps)
        self._name = secrets.token_hex(4)
        self.path = f"/?hold={self._name}"
        """What to ask."""

    async def until_there(self, count: int) -> Counter[str]:
        """Return once instances hold so many: how many each."""
        async with asyncio.timeout(HELD_S_MAX):
            while (there := self._there()).total() < count:
                await asyncio.sleep(0.02)
        return there

    def _there(self) -> Counter[str]:
        return Counter({each.name: each.counts[f"hold {self._name}"] for each in self._apps})

    def let_go(self) -> None:
        """Have all of them answered."""
        for each in self._apps:
            each.let_go(self._name)


@contextlib.contextmanager
def backends(*names: str) -> Iterator[dict[str, Backend]]:
    """Processes that serve, by their names."""
    with tempfile.TemporaryDirectory(prefix="backends") as folder:
        script = Path(folder, "backend.py")
        script.write_text(PROGRAM)
        found = {name: Backend(name, script) for name in names}
        try:
            for each in found.values():
                each.start()
            yield found
        finally:
            for each in found.values():
                each.kill()


def header(answer: dict[str, Any], name: str) -> list[str]:
    """The values of a header that a backend was sent."""
    return [value for found, value in answer["headers"] if found.lower() == name.lower()]
