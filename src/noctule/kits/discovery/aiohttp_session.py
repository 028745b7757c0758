"""``noctule://service/path`` for aiohttp.

    async with Discovery() as discovery, DiscoverySession(discovery) as session:
        async with session.get("noctule://orders/42") as response: ...

What goes wrong is told by aiohttp's own exceptions: `aiohttp.ClientConnectionError` when there is no instance or the
breaker is open, else what the last attempt met. calls.py says what is sent again.
"""

import asyncio
from types import TracebackType
from typing import Any, Self

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from noctule.base.addresses import split_address
from noctule.base.errors import NoctuleError
from noctule.kits.discovery.caller import SCHEME, Caller, CallerPicture, GuardedAttempt
from noctule.kits.discovery.calls import INSTANCE_FAILED
from noctule.kits.discovery.discovery import Discovery

NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""The connection was never made, so nothing happened."""

_REPLAYABLE = (type(None), bytes, bytearray, memoryview, str)
"""Kinds of `data` that can be sent more than once; what `json` gives can, too."""


class DiscoverySession:
    """Sends requests to the instances of the service that a URL names. Closing it leaves the `Discovery` open.

    `caller` holds policies, zone and breakers. A `session` that is handed in stays the caller's to close. The instance
    sees the service's name as Host, and is sent plain HTTP.
    """

    def __init__(
        self, discovery: Discovery, caller: Caller | None = None, *, session: aiohttp.ClientSession | None = None
    ) -> None:
        self._discovery = discovery
        self._caller = caller or Caller()
        self._owns_session = session is None
        self._session = session

    def request(self, method: str, url: str | URL, **options: Any) -> "Exchange":
        """One request, for ``async with``; `options` are those of `aiohttp.ClientSession.request`."""
        return Exchange(self, method, URL(url), options)

    def get(self, url: str | URL, **options: Any) -> "Exchange":
        """See `request`."""
        return self.request("GET", url, **options)

    def post(self, url: str | URL, **options: Any) -> "Exchange":
        """See `request`."""
        return self.request("POST", url, **options)

    def put(self, url: str | URL, **options: Any) -> "Exchange":
        """See `request`."""
        return self.request("PUT", url, **options)

    def delete(self, url: str | URL, **options: Any) -> "Exchange":
        """See `request`."""
        return self.request("DELETE", url, **options)

    def describe(self) -> CallerPicture:
        """A frozen picture of what became of the requests."""
        return self._caller.describe()

    async def aclose(self) -> None:
        """Close the connections, if they are its own. Harmless the second time."""
        if self._owns_session and self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _send(
        self, method: str, url: URL, options: dict[str, Any]
    ) -> tuple[aiohttp.ClientResponse, GuardedAttempt]:
        service = url.host or ""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        try:
            follower = await self._discovery.follow(service, timeout_s=self._caller.first_list_timeout_s)
            is_replayable = isinstance(options.get("data"), _REPLAYABLE)
            call = self._caller.begin(service, follower, method, is_replayable=is_replayable)
        except NoctuleError as error:
            raise aiohttp.ClientConnectionError(str(error)) from error
        while True:
            try:
                attempt = call.attempt()
            except NoctuleError as error:
                raise aiohttp.ClientConnectionError(str(error)) from error
            try:
                async with asyncio.timeout(attempt.remaining_s):
                    target, its_options = _readdressed(url, options, attempt)
                    response = await self._session.request(method, target, **its_options)
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                if not attempt.failed(was_sent=not isinstance(error, NOT_SENT)):
                    raise
            except TimeoutError:
                attempt.failed(was_sent=True)
                raise aiohttp.ServerTimeoutError("no answer before the deadline") from None
            except BaseException:
                attempt.end()
                raise
            else:
                if not attempt.answered(response.status):
                    return response, attempt
                response.release()


class Exchange:
    """One request and its response: ``async with`` gives the `aiohttp.ClientResponse`."""

    def __init__(self, session: DiscoverySession, method: str, url: URL, options: dict[str, Any]) -> None:
        self._session = session
        self._method = method
        self._url = url
        self._options = options
        self._response: aiohttp.ClientResponse | None = None
        self._attempt: GuardedAttempt | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        if self._url.scheme != SCHEME or not self._url.host:
            raise aiohttp.InvalidURL(self._url, f"give {SCHEME}://<service>/<path>")
        breaker = self._session._caller.breakers.get(self._url.host)
        if breaker is None:
            self._response, self._attempt = await self._session._send(self._method, self._url, self._options)
            return self._response
        guarded = breaker.guard()
        try:
            async with guarded:
                self._response, self._attempt = await self._session._send(self._method, self._url, self._options)
                if self._response.status in INSTANCE_FAILED:
                    guarded.failed()
        except NoctuleError as error:
            raise aiohttp.ClientConnectionError(str(error)) from error
        return self._response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._attempt is not None:
            if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError):
                self._attempt.broke_off()
            self._attempt.end()
        if self._response is not None:
            self._response.release()
            await self._response.wait_for_close()


def _readdressed(url: URL, options: dict[str, Any], attempt: GuardedAttempt) -> tuple[URL, dict[str, Any]]:
    """The URL of the instance itself, and the options with what is left of the request's time."""
    host, port = split_address(attempt.authority)
    headers = CIMultiDict(options.get("headers") or {})
    headers.setdefault("Host", url.host or "")
    name, value = attempt.deadline_header
    headers[name] = value
    target = url.with_scheme("http").with_host(host).with_port(port)
    return target, {**options, "headers": headers}


__all__ = ["Caller", "DiscoverySession"]
