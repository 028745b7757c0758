"""Connections to instances, and one attempt at one of them.

aiohttp's client sends an idempotent request a second time by itself when its connection breaks. Attempts are this
gateway's to count, on instances of its own choice, so `_one_attempt` turns the errors that trigger it into others.

There are two pools. Safe repetition decides which: an idempotent request takes a kept connection (idle for 4 s at
most; uvicorn closes its own after 5), for if the instance has just closed it, the request can go elsewhere. Every
other request takes a fresh connection: on a kept one, "closed before the request came" and "closed because of it"
look the same, and a POST could only be answered 502. One handshake to a near machine buys that away.
"""

import asyncio
import errno
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from noctule.gateway.config import GatewayConfig
from noctule.gateway.instances import Instance
from noctule.gateway.websocket import CLOSE_TIMEOUT_S

KEPT_IDLE_S_MAX = 4.0
# Headers that aiohttp adds where the client has none; the app shall see what the client sent.
_AUTOMATIC_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class NotSentError(Exception):
    """No connection could be made, so nothing of the request was sent. `is_gone`: nothing listens at the address."""

    def __init__(self, reason: str, *, is_gone: bool) -> None:
        super().__init__(reason)
        self.is_gone = is_gone


class BrokenError(Exception):
    """The connection ended, or what came over it is not HTTP; the request may have been acted on.

    `was_kept`: the connection had served a request before, so the instance may only have tired of it.
    """

    def __init__(self, reason: str, *, was_kept: bool = False) -> None:
        super().__init__(reason)
        self.was_kept = was_kept


@dataclass(frozen=True, slots=True)
class OpenWebSocket:
    """An instance that took the handshake, and the headers it took it with."""

    websocket: aiohttp.ClientWebSocketResponse
    headers: CIMultiDictProxy[str]


class _Attempt:
    """What the tracing notes of one request."""

    __slots__ = ("was_kept",)

    def __init__(self) -> None:
        self.was_kept = False


class _DeniedError(Exception):
    """The instance answered a WebSocket handshake with an ordinary response, which is still to be read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        super().__init__("denied")
        self.response = response


class Upstream:
    """The gateway's client side. Make it in a running loop; `close` it there."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        # No limit of their own: the gateway bounds the requests in flight, and a queue here would be an unseen wait.
        self._kept_connections = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_IDLE_S_MAX)
        self._fresh_connections = aiohttp.TCPConnector(limit=0, force_close=True)
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        self._kept = self._session(self._kept_connections, _one_attempt, tracing)
        self._fresh = self._session(self._fresh_connections, _one_attempt)

    async def close(self) -> None:
        """Close every connection; requests still in flight break."""
        await self._kept.close()
        await self._fresh.close()
        await self._kept_connections.close()
        await self._fresh_connections.close()

    async def ask(
        self,
        instance: Instance,
        method: str,
        target: str,
        headers: CIMultiDict[str],
        data: bytes | AsyncIterator[bytes] | None,
        *,
        may_use_kept: bool,
    ) -> aiohttp.ClientResponse:
        """Send one request once and return its response with the body unread; the caller closes it.

        `NotSentError` or `BrokenError`; the caller bounds the wait.
        """
        attempt = _Attempt()
        session = self._kept if may_use_kept else self._fresh
        try:
            return await session.request(
                method,
                _url(instance, target),
                headers=headers,
                data=data,
                skip_auto_headers=_AUTOMATIC_HEADERS,
                allow_redirects=False,
                trace_request_ctx=attempt,
            )
        except BrokenError as error:
            error.was_kept = attempt.was_kept
            raise

    async def ask_websocket(
        self, instance: Instance, target: str, headers: CIMultiDict[str], protocols: tuple[str, ...]
    ) -> OpenWebSocket | aiohttp.ClientResponse:
        """Open a WebSocket, or return the ordinary response that the instance gave instead, its body unread.

        `NotSentError` or `BrokenError`; the caller bounds the wait and closes what it gets.
        """
        taken: list[aiohttp.ClientResponse] = []

        async def watch(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
            response = await _one_attempt(request, handler)
            if response.status != 101:
                raise _DeniedError(response)
            taken.append(response)
            return response

        # The handshake's response can be seen by a session's middleware only; the session is no more than that, and
        # the connection outlives it.
        session = self._session(self._fresh_connections, watch)
        try:
            websocket = await session.ws_connect(
                _url(instance, target),
                headers=headers,
                protocols=protocols,
                autoclose=False,
                autoping=False,
                heartbeat=self._config.websocket_heartbeat_s,
                max_msg_size=self._config.websocket_message_bytes_max,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
            )
        except _DeniedError as denied:
            return denied.response
        except aiohttp.WSServerHandshakeError as error:
            raise BrokenError(f"the instance broke the WebSocket handshake: {error.message}") from error
        finally:
            await session.close()
        return OpenWebSocket(websocket, taken[0].headers)

    async def probe(self, instance: Instance, path: str, timeout_s: float) -> int:
        """The status of a GET on a fresh connection. `NotSentError`, `BrokenError`, or `TimeoutError`."""
        headers = {"User-Agent": "noctule-gateway", "Accept": "application/json"}
        async with asyncio.timeout(timeout_s):
            response = await self._fresh.get(_url(instance, path), headers=headers, allow_redirects=False)
            response.close()
            return response.status

    def _session(
        self,
        connector: aiohttp.TCPConnector,
        middleware: aiohttp.ClientMiddlewareType,
        tracing: aiohttp.TraceConfig | None = None,
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            connector_owner=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._config.connect_timeout_s),
            max_line_size=self._config.header_bytes_max,
            max_field_size=self._config.header_bytes_max,
            middlewares=(middleware,),
            trace_configs=[tracing] if tracing is not None else None,
        )


async def _one_attempt(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """One sending; its errors say whether anything was sent, and are none that aiohttp repeats a request for."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError as error:
        is_gone = error.os_error.errno == errno.ECONNREFUSED
        raise NotSentError("connection refused" if is_gone else "cannot connect", is_gone=is_gone) from error
    except aiohttp.ConnectionTimeoutError as error:
        raise NotSentError("connecting took too long", is_gone=False) from error
    except aiohttp.ClientResponseError as error:
        raise BrokenError("the response is not HTTP") from error
    except (aiohttp.ClientError, OSError) as error:
        raise BrokenError("the connection closed before the response") from error


async def _note_reuse(
    session: aiohttp.ClientSession, context: SimpleNamespace, parameters: aiohttp.TraceConnectionReuseconnParams
) -> None:
    context.trace_request_ctx.was_kept = True


def _url(instance: Instance, target: str) -> URL:
    # The whole target goes in as a path that is encoded already: yarl then sends exactly these bytes, an empty query
    # and odd escapes included, where a parsed query would be tidied up.
    return URL.build(scheme="http", host=instance.host, port=instance.port, path=target, encoded=True)
