"""The gateway's HTTP server side: aiohttp's, with its own words for what is not HTTP.

aiohttp parses (llhttp, strict: a request with both Content-Length and Transfer-Encoding, a bad chunk or a bare line
feed ends its connection, so no two readers can disagree on where a request ends), keeps connections, and calls the
handler. It does not route, and it neither compresses nor unpacks. Where a body turns to garbage half way, its parser
tells nobody, so that request ends with the idle timeout (408).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from noctule.gateway.answers import Answer, bad_request, render_answer
from noctule.gateway.config import GatewayConfig

LINGER_S = 2.0
"""How long the rest of a refused body is read and dropped, so that the client sees the answer and not a reset."""

log = logging.getLogger("noctule.gateway")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class GatewayServer(web.Server):
    """Makes one `_Connection` for each client; a client that goes away ends its request with it."""

    def __init__(self, handler: Handler, config: GatewayConfig) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._config = config

    def __call__(self) -> web.RequestHandler:
        """Called by the event loop for each connection that it accepts."""
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=self._config.client_idle_s,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to say "none", missing in its types
            auto_decompress=False,
            lingering_time=LINGER_S,
            max_line_size=self._config.header_bytes_max,
            max_field_size=self._config.header_bytes_max,
        )


class _Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be parsed; the connection closes after it, for its framing is lost."""
        if status >= 500:
            log.error("gateway_error", exc_info=exc)
            if request.writer.output_size > 0:
                # aiohttp's own rule for a response that has begun: the connection is all that can still be ended.
                raise ConnectionError("the response has begun")
            answer = Answer(500, "internal", "the gateway failed; its log tells why", outcome="unknown")
        else:
            # The parser's sentence may quote the request: its first line is enough for a person, and none is logged.
            sentence = (message or "").strip().partition("\n")[0].rstrip(":")
            log.info("client_protocol_error", extra={"client": request.remote, "error": type(exc).__name__})
            answer = bad_request(f"the request is not HTTP: {sentence}" if sentence else "the request is not HTTP")
        return render_answer(answer, is_last=True)


class PassedResponse(web.StreamResponse):
    """A response of an instance: what its app did not say, the gateway does not say for it, but for the Date.

    aiohttp would add a Content-Type, which turns guessing off in browsers, and name itself as the Server. Date is a
    gateway's to add (RFC 9110 6.6.1).
    """

    async def _prepare_headers(self) -> None:
        unsaid = [name for name in (hdrs.CONTENT_TYPE, hdrs.SERVER) if name not in self.headers]
        await super()._prepare_headers()
        for name in unsaid:
            self.headers.pop(name, None)
