"""``noctule://service/path`` for httpx: needs ``noctule[httpx]``.

    async with Discovery() as discovery:
        transport = DiscoveryTransport(discovery)
        async with httpx.AsyncClient(mounts={"noctule://": transport}) as client:
            response = await client.get("noctule://orders/42")

What goes wrong is told by httpx's own exceptions: `httpx.ConnectError` when there is no instance or the breaker is
open, `httpx.ConnectTimeout` when no time was left, else what the last attempt met. calls.py says what is sent again.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

from noctule.base.addresses import split_address
from noctule.base.errors import NoctuleError, UnavailableError
from noctule.client.registry.follower import Follower
from noctule.kits.background_loop import BackgroundLoop
from noctule.kits.breaker import Call as BreakerCall
from noctule.kits.discovery.caller import Caller, CallerPicture, GuardedAttempt, GuardedCall
from noctule.kits.discovery.calls import INSTANCE_FAILED
from noctule.kits.discovery.discovery import FIRST_LIST_TIMEOUT_S, Discovery

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout)
"""The connection was never made, so nothing happened."""


class DiscoveryTransport(httpx.AsyncBaseTransport):
    """Sends requests to the instances of the service that a URL names. Closing it leaves the `Discovery` open.

    `caller` holds policies, zone and breakers. `inner` makes the connections; by default httpx's own transport. The
    instance sees the service's name as Host, and is sent plain HTTP.
    """

    def __init__(
        self, discovery: Discovery, caller: Caller | None = None, *, inner: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._discovery = discovery
        self._caller = caller or Caller()
        self._inner = inner or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; see the module for what it raises."""
        breaker = self._caller.breakers.get(request.url.host)
        if breaker is None:
            return await self._send(request)
        try:
            async with breaker.guard() as guarded:
                return _judged(await self._send(request), guarded)
        except UnavailableError as error:
            raise httpx.ConnectError(str(error), request=request) from error

    async def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            timeout_s = self._caller.first_list_timeout_s
            follower = await self._discovery.follow(request.url.host, timeout_s=timeout_s)
        except NoctuleError as error:
            raise httpx.ConnectError(str(error), request=request) from error
        call = _begin(self._caller, follower, request)
        while True:
            attempt = _attempt(call, request)
            try:
                async with asyncio.timeout(attempt.remaining_s):
                    response = await self._inner.handle_async_request(_readdressed(request, attempt))
            except httpx.PoolTimeout:
                attempt.end()  # Too many of our own connections: no fault of the instance.
                raise
            except httpx.TransportError as error:
                if not attempt.failed(was_sent=not isinstance(error, NOT_SENT)):
                    raise
            except TimeoutError:
                attempt.failed(was_sent=True)
                raise httpx.ReadTimeout("no answer before the deadline", request=request) from None
            except BaseException:
                attempt.end()
                raise
            else:
                if not attempt.answered(response.status_code):
                    response.stream = _AsyncBody(response, attempt)
                    return response
                await response.aclose()

    def describe(self) -> CallerPicture:
        """A frozen picture of what became of the requests."""
        return self._caller.describe()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class SyncDiscoveryTransport(httpx.BaseTransport):
    """The same for synchronous clients. It makes its own `Discovery` of these arguments, in a thread, and closes it."""

    def __init__(
        self,
        urls: Any = None,
        *,
        caller: Caller | None = None,
        inner: httpx.BaseTransport | None = None,
        **options: Any,
    ) -> None:
        self._discovery = Discovery(urls, **options)
        self._background = BackgroundLoop("discovery")
        self._followers: dict[str, Follower] = {}
        self._caller = caller or Caller()
        self._inner = inner or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; see the module for what it raises."""
        breaker = self._caller.breakers.get(request.url.host)
        if breaker is None:
            return self._send(request)
        try:
            with breaker.guard() as guarded:
                return _judged(self._send(request), guarded)
        except UnavailableError as error:
            raise httpx.ConnectError(str(error), request=request) from error

    def _send(self, request: httpx.Request) -> httpx.Response:
        call = _begin(self._caller, self._follower(request), request)
        while True:
            attempt = _attempt(call, request)
            try:
                response = self._inner.handle_request(_readdressed(request, attempt))
            except httpx.PoolTimeout:
                attempt.end()
                raise
            except httpx.TransportError as error:
                if not attempt.failed(was_sent=not isinstance(error, NOT_SENT)):
                    raise
            except BaseException:
                attempt.end()
                raise
            else:
                if not attempt.answered(response.status_code):
                    response.stream = _SyncBody(response, attempt)
                    return response
                response.close()

    def describe(self) -> CallerPicture:
        """A frozen picture of what became of the requests."""
        return self._caller.describe()

    def close(self) -> None:
        """Close the connections, and end the thread."""
        self._inner.close()
        try:
            self._background.call(self._discovery.aclose(), FIRST_LIST_TIMEOUT_S)
        except (TimeoutError, UnavailableError):
            pass  # The thread ends, and what runs in it is cancelled.
        self._background.close()

    def _follower(self, request: httpx.Request) -> Follower:
        service = request.url.host
        follower = self._followers.get(service)
        if follower is None:
            try:
                follower = self._background.call(self._discovery.follow(service), 2 * FIRST_LIST_TIMEOUT_S)
            except (NoctuleError, TimeoutError) as error:
                raise httpx.ConnectError(str(error), request=request) from error
            self._followers[service] = follower
        return follower


class _AsyncBody(httpx.AsyncByteStream):
    """A response's body, until the end of which the request is in flight."""

    def __init__(self, response: httpx.Response, attempt: GuardedAttempt) -> None:
        self._stream: Any = response.stream
        self._attempt = attempt

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._stream:
                yield piece
        except httpx.TransportError:
            self._attempt.broke_off()
            raise

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._attempt.end()


class _SyncBody(httpx.SyncByteStream):
    def __init__(self, response: httpx.Response, attempt: GuardedAttempt) -> None:
        self._stream: Any = response.stream
        self._attempt = attempt

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except httpx.TransportError:
            self._attempt.broke_off()
            raise

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._attempt.end()


def _begin(caller: Caller, follower: Follower, request: httpx.Request) -> GuardedCall:
    is_replayable = isinstance(request.stream, httpx.ByteStream)
    try:
        return caller.begin(request.url.host, follower, request.method, is_replayable=is_replayable)
    except NoctuleError as error:
        raise httpx.ConnectError(str(error), request=request) from error


def _attempt(call: GuardedCall, request: httpx.Request) -> GuardedAttempt:
    try:
        return call.attempt()
    except UnavailableError as error:
        raise httpx.ConnectError(str(error), request=request) from error


def _readdressed(request: httpx.Request, attempt: GuardedAttempt) -> httpx.Request:
    """The request to the instance itself, with what is left of its time."""
    host, port = split_address(attempt.authority)
    remaining_s = attempt.remaining_s
    wanted = request.extensions.get("timeout", {})
    timeout = {each: min(remaining_s, wanted.get(each) or remaining_s) for each in ("connect", "read", "write", "pool")}
    headers = request.headers.copy()
    name, value = attempt.deadline_header
    headers[name] = value
    return httpx.Request(
        request.method,
        request.url.copy_with(scheme="http", host=host, port=port),
        headers=headers,
        stream=request.stream,
        extensions={**request.extensions, "timeout": timeout},
    )


def _judged(response: httpx.Response, guarded: BreakerCall) -> httpx.Response:
    if response.status_code in INSTANCE_FAILED:
        guarded.failed()
    return response


__all__ = ["Caller", "DiscoveryTransport", "SyncDiscoveryTransport"]
