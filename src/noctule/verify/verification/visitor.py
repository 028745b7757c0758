"""One who asks the cluster as a browser would: each request sent once, on a connection of its own.

A balancer that spreads connections instead of requests is judged fairly by that, and a request that fails is seen to
fail.
"""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import msgspec
from yarl import URL

from noctule.client.exchange import exchange, new_session

BODY_BYTES_MAX = 1024 * 1024
"""A longer page than this is refused; the checks read small ones."""

INSTANCE_HEADER = "X-Noctule-Instance"


class _Named(msgspec.Struct, frozen=True):
    instance_id: str = msgspec.field(default="", name="instanceId")
    instance: str = ""


class Reply(msgspec.Struct, frozen=True):
    """What came back, and how long it took."""

    method: str
    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    latency_ms: float

    @property
    def instance(self) -> str:
        """Who answered: the header, or else ``instanceId`` or ``instance`` in the JSON; empty when nobody is named."""
        named = self.headers.get(INSTANCE_HEADER, "")
        if named:
            return named
        try:
            found = msgspec.json.decode(self.body, type=_Named)
        except msgspec.DecodeError:
            return ""
        return found.instance_id or found.instance

    def __str__(self) -> str:
        return f"{self.method} {self.url}: {self.status} in {self.latency_ms:.0f} ms"


class Visitor:
    """A visitor, with a cookie jar or without; use it with ``async with``.

    Requests raise `UnavailableError`, `OutcomeUnknownError` or `ProtocolError` when there is no answer; an answer may
    have any status.
    """

    def __init__(self, *, timeout_s: float, keeps_cookies: bool = False) -> None:
        self._timeout_s = timeout_s
        self._session = new_session(keeps_cookies=keeps_cookies, keeps_connections=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, url: str) -> Reply:
        """Ask for a page; redirects are not followed."""
        return await self._request("GET", url, None)

    async def post(self, url: str, form: Mapping[str, str]) -> Reply:
        """Send a form; redirects are not followed."""
        return await self._request("POST", url, form)

    def cookies(self, url: str) -> dict[str, str]:
        """The cookies that a request to this URL would carry."""
        return {name: cookie.value for name, cookie in self._session.cookie_jar.filter_cookies(URL(url)).items()}

    async def _request(self, method: str, url: str, form: Mapping[str, str] | None) -> Reply:
        begun = time.perf_counter()
        answer = await exchange(
            self._session, method, url, timeout_s=self._timeout_s, form=form, answer_bytes_max=BODY_BYTES_MAX
        )
        latency_ms = round((time.perf_counter() - begun) * 1000, 1)
        return Reply(method, url, answer.status, answer.headers, answer.body, latency_ms)
