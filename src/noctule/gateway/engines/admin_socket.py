"""The gateway's own pages and API behind an engine: a Unix socket to which the engine passes `/__noctule/` requests.

The engine has let in only clients on this machine for whom nobody speaks; the Host header is looked at here, so that no
page in a browser comes by a name of its own.
"""

from pathlib import Path

from aiohttp import web

from noctule.gateway.admin import BODY_BYTES_MAX, Admin, is_admitted

_HEADERS = ("host", "origin")


class AdminSocket:
    """Serves from `start` to `stop`, in the running event loop."""

    def __init__(self, path: Path, admin: Admin) -> None:
        self._path = path
        self._admin = admin
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        """Listen; a socket that an earlier process left is replaced."""
        self._path.unlink(missing_ok=True)
        runner = self._runner = web.ServerRunner(web.Server(self._answer, access_log=None))
        await runner.setup()
        await web.UnixSite(runner, str(self._path)).start()
        # The engine's workers may be another user's; its folder, and what it lets in, are the lock.
        self._path.chmod(0o666)

    async def stop(self) -> None:
        """Close it, and what is connected."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._path.unlink(missing_ok=True)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        # The engine has written the headers by which a proxy speaks for others itself; it looked for them before.
        told = {name: request.headers[name] for name in _HEADERS if name in request.headers}
        if not is_admitted("127.0.0.1", request.path, told.get):
            return web.Response(status=403, text="ask by localhost, 127.0.0.1 or [::1]\n")
        body = await request.content.read(BODY_BYTES_MAX + 1)
        found = await self._admin(request.method, request.path_qs, body)
        return web.Response(status=found.status, body=found.body, headers=list(found.headers))
