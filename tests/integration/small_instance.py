"""An instance of a service as a process of its own, that can be killed. Its port is its first line.

Its pages: ``/`` its name; ``/slow`` the same after 5 s; ``/status/<code>``; ``/headers`` what it was sent; ``/endless``
a body that never ends; ``/count`` how many requests to other pages it has had.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

SLOW_S = 5.0


class SmallInstance:
    """The process, seen from outside."""

    def __init__(self, name: str, port: int = 0, *flags: str) -> None:
        command = [sys.executable, __file__, name, str(port), *flags]
        self.name = name
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        """End it at once. Harmless the second time."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def small_instances(*names: str, flags: tuple[str, ...] = ()) -> Iterator[list[SmallInstance]]:
    """Running instances, which have ended after the block. The flag ``broken`` makes every page a 503."""
    started: list[SmallInstance] = []
    try:
        started.extend(SmallInstance(name, 0, *flags) for name in names)
        yield started
    finally:
        for instance in started:
            instance.kill()


async def serve(name: str, port: int, *, is_broken: bool) -> None:
    count = 0

    async def page(request: web.Request) -> web.StreamResponse:
        nonlocal count
        if request.path == "/count":
            return web.json_response(count)
        count += 1
        await request.read()
        if is_broken:
            return web.Response(status=503, text=name)
        if request.path == "/slow":
            await asyncio.sleep(SLOW_S)
        elif request.path.startswith("/status/"):
            return web.Response(status=int(request.path.rpartition("/")[2]), text=name)
        elif request.path == "/headers":
            return web.json_response(dict(request.headers))
        elif request.path == "/endless":
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 1_000)
                await asyncio.sleep(0.01)
        return web.Response(text=name)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), is_broken="broken" in sys.argv[3:]))
