"""The HTTP door of a node: sockets, framing and bounds around `HttpApi`.

aiohttp parses and frames; every answer, that to a malformed request included, is made in http_api.py, so that a
client sees one kind of error. Read http_routes.py for what is served.
"""

import asyncio
import errno
import logging
from collections.abc import AsyncIterator

from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import LineTooLong

from noctule.base.bounds import KEY_BYTES_MAX
from noctule.base.ensure import ensure
from noctule.base.errors import ConfigError, InternalError, RequestError, TooLargeError, UnavailableError
from noctule.node.api import Node
from noctule.servers.http_api import HttpApi, error_answer
from noctule.servers.http_body import BodyBudget, BodyReader
from noctule.servers.http_request import Request
from noctule.servers.http_route import Answer

LINE_BYTES_MAX = 3 * KEY_BYTES_MAX + 1024
"""The request line: three bytes for each byte of the longest key, percent-encoded, and the rest."""

HEADER_BYTES_MAX = 8 * 1024
"""One header line."""

HEADERS_MAX = 64
"""Header lines of one request."""

STREAMS_MAX = 64
"""Answers that go on for as long as their client stays; one more is answered 503."""

REQUESTS_RUNNING_MAX = 1024
"""Requests being answered at once; one more is answered 503. Health and metrics are always let in.

Those that only wait, as Consul's blocking queries, do not count: they have a bound of their own (consul/waiting.py).
"""

IDLE_S_MAX = 75.0
"""A connection that sends no whole request head for this long is closed."""

LINGER_S_MAX = 2.0
"""How long the rest of a refused body is read and dropped, so that the client gets to see the answer."""

_LISTEN_BACKLOG = 512
_CLOSE_S_MAX = 0.5
_ALWAYS_LET_IN = ("/health", "/metrics")
_COMMON_HEADERS = {hdrs.CACHE_CONTROL: "no-store", hdrs.SERVER: "noctule", "X-Content-Type-Options": "nosniff"}
_logger = logging.getLogger(__name__)


class HttpServer:
    """Serves one node's HTTP API in the running event loop, from `start` to `stop`."""

    def __init__(self, node: Node, host: str, port: int) -> None:
        self._api = HttpApi(node)
        self._host = host
        self._port = port
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None
        self._budget = BodyBudget()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._streams: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port listened on; once started never 0."""
        return self._site.port if self._site is not None else self._port

    async def start(self) -> None:
        """Listen. Raises `ConfigError` when that cannot be; nothing is left open then."""
        ensure(self._runner is None, "an HTTP server starts once")
        runner = web.ServerRunner(_Server(self._serve), shutdown_timeout=_CLOSE_S_MAX)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port, backlog=_LISTEN_BACKLOG)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigError(_cannot_listen(self._host, self._port, error)) from error
        self._runner, self._site = runner, site

    async def stop(self, drain_s: float) -> None:
        """Take no more connections, let running requests end for at most `drain_s` seconds, then close all.

        What still runs after that is cancelled and its connection closed without an answer. May be called twice.
        """
        if self._runner is None or self._site is None or self._stopping:
            return
        self._stopping = True
        await self._site.stop()
        await self._api.close()
        for stream in self._streams:
            stream.cancel()
        try:
            async with asyncio.timeout(drain_s):
                await self._idle.wait()
        except TimeoutError:
            _logger.warning("http_drain_cut", extra={"fields": {"running": self._running, "drain_s": drain_s}})
        await self._runner.cleanup()

    async def _serve(self, http: web.BaseRequest) -> web.StreamResponse:
        body = BodyReader(http, self._budget)
        self._running += 1
        self._idle.clear()
        try:
            answer = await self._answer(http, body)
            if answer.stream is not None:
                return await self._stream(http, answer, answer.stream)
            response = _response(answer)
        finally:
            body.release()
            self._running -= 1
            if not self._running:
                self._idle.set()
        if self._stopping:
            response.force_close()
        return response

    async def _stream(self, http: web.BaseRequest, answer: Answer, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
        """Send what comes until the client goes, which a write notices, or this server stops."""
        if len(self._streams) >= STREAMS_MAX:
            return _response(
                error_answer(UnavailableError(f"this node serves {STREAMS_MAX} streams, which is the limit"))
            )
        response = web.StreamResponse(status=answer.status, headers=_headers(answer))
        await response.prepare(http)

        async def send() -> None:
            # A client that does not read holds up this one stream, and nothing gathers for it meanwhile.
            async for piece in pieces:
                await response.write(piece)

        if http.method != hdrs.METH_HEAD:
            task = asyncio.create_task(send(), name="http-stream")
            self._streams.add(task)
            try:
                await task
            except (asyncio.CancelledError, ConnectionError):
                if not task.done():  # This request was cancelled, and not the stream.
                    task.cancel()
                    raise
            finally:
                self._streams.discard(task)
        response.force_close()
        return response

    async def _answer(self, http: web.BaseRequest, body: BodyReader) -> Answer:
        if self._running - self._api.waiting > REQUESTS_RUNNING_MAX and not http.raw_path.startswith(_ALWAYS_LET_IN):
            return error_answer(UnavailableError(f"this node is answering {REQUESTS_RUNNING_MAX} requests; try again"))
        try:
            body.check_length()
        except TooLargeError as error:
            return error_answer(error)
        return await self._api.answer(
            Request(
                method=http.method,
                target=http.raw_path,
                accept=",".join(http.headers.getall(hdrs.ACCEPT, [])),
                content_encoding=http.headers.get(hdrs.CONTENT_ENCODING, ""),
                read_body=body.read,
                is_gone=lambda: http.transport is None or http.transport.is_closing(),
            )
        )


class _Connection(web.RequestHandler):
    """One connection, whose errors below the API are answered as those of the API are."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            # The client went away: there is nobody to answer, and aiohttp closes quietly on this.
            raise exc
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun, so no other can be sent")
        response = _response(error_answer(_parse_error(exc)))
        response.force_close()
        return response


class _Server(web.Server):
    """Makes the connections, with our bounds and without a log of accesses."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            # A body is stored as it came; what it is encoded in is refused before (see http_api.py).
            auto_decompress=False,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=HEADERS_MAX,
            keepalive_timeout=IDLE_S_MAX,
            lingering_time=LINGER_S_MAX,
        )


def _parse_error(error: BaseException | None) -> Exception:
    if isinstance(error, LineTooLong):
        return TooLargeError(
            f"the request line is over {LINE_BYTES_MAX} bytes or a header over {HEADER_BYTES_MAX}, which are the limits"
        )
    if isinstance(error, HttpProcessingError):
        _logger.debug("http_request_malformed", exc_info=error)
        first_line = error.message.strip().partition("\n")[0].rstrip(":") if error.message else "Bad request"
        return RequestError(f"malformed HTTP request: {first_line}")
    return error if isinstance(error, Exception) else InternalError("a request failed and nobody said why")


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=_headers(answer))


def _headers(answer: Answer) -> dict[str, str]:
    return {hdrs.CONTENT_TYPE: answer.content_type, **_COMMON_HEADERS, **answer.headers}


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"http port {port} on {host} is in use: stop what listens there, or set http_port to another port "
            "(0 lets the system choose)"
        )
    reason = (error.strerror or str(error)).lower()
    return (
        f"cannot serve HTTP on {host}:{port}: {reason}; set host to an address of this machine, http_port to a free one"
    )
