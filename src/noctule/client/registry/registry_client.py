"""Asks a registry by Consul's HTTP API for the instances of a service, at one of several URLs.

It speaks nothing but that API, so the URLs may be of Noctule's nodes or of Consul's agents. They must be of one
registry.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Self
from urllib.parse import quote

import aiohttp
from msgspec import Struct
from yarl import URL

from noctule.base.errors import ConfigError, ProtocolError, UnavailableError
from noctule.client.registry.endpoints import Instance, read_instances

CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 10.0
"""Beside the time that a blocking query may wait, and its jitter of a sixteenth."""
BODY_BYTES_MAX = 8 * 1024 * 1024
CONNECTIONS_MAX = 256
"""Each service that is followed holds one."""
_REASON_CHARACTERS_MAX = 200


class Answer(Struct, frozen=True):
    """What a registry said of one service."""

    index: int
    """X-Consul-Index; 0 when it was missing or no number."""
    instances: tuple[Instance, ...]
    has_leader: bool
    """False: the node that answered is cut off, and its answer is as old as that."""


class RegistryClient:
    """Questions to one registry. Close it, or use it as a context manager."""

    def __init__(
        self, urls: Sequence[str], *, token: str = "", datacenter: str = "", is_stale_good: bool = True
    ) -> None:
        if not urls:
            raise ConfigError("a registry needs a URL, such as http://127.0.0.1:7501")
        self._urls = [_checked(url) for url in urls]
        self._parameters = ({"dc": datacenter} if datacenter else {}) | ({"stale": ""} if is_stale_good else {})
        self._headers = {"X-Consul-Token": token} if token else {}
        self._preferred = 0
        self._session: aiohttp.ClientSession | None = None

    @property
    def url_count(self) -> int:
        """How many there are to try."""
        return len(self._urls)

    @property
    def preferred_url(self) -> str:
        """Where the next question goes; without user and password."""
        return str(self._urls[self._preferred].with_user(None))

    async def ask(self, service: str, tag: str, index: int, wait_s: float) -> Answer:
        """The instances once the registry's index is above `index`, or after about `wait_s`; at once for index 0.

        `UnavailableError` when this URL has no answer, and then the next question goes to the next one.
        """
        position = self._preferred
        try:
            answer = await self._ask(self._urls[position], service, tag, index, wait_s)
        except (aiohttp.ClientError, OSError, TimeoutError, ProtocolError, UnavailableError) as error:
            self._leave(position)
            reason = str(error)[:_REASON_CHARACTERS_MAX] or type(error).__name__
            raise UnavailableError(f"the registry at {self._urls[position].with_user(None)}: {reason}") from error
        if not answer.has_leader:
            # What it says is good for now; somebody else may know more.
            self._leave(position)
        return answer

    async def aclose(self) -> None:
        """Close all connections. Harmless the second time."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _ask(self, url: URL, service: str, tag: str, index: int, wait_s: float) -> Answer:
        parameters = dict(self._parameters)
        if tag:
            parameters["tag"] = tag
        if index > 0:
            parameters |= {"index": str(index), "wait": f"{round(wait_s * 1000)}ms"}
        timeout = aiohttp.ClientTimeout(
            total=(wait_s * 17 / 16 if index > 0 else 0) + ANSWER_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S
        )
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX)
            self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        path = url.joinpath("v1/health/service/" + quote(service, safe=""), encoded=True)
        async with self._session.get(path, params=parameters, timeout=timeout, allow_redirects=False) as response:
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > BODY_BYTES_MAX:
                    raise ProtocolError(f"its answer is larger than {BODY_BYTES_MAX} bytes")
            if response.status != 200:
                text = body[:_REASON_CHARACTERS_MAX].decode("utf-8", "replace").strip()
                raise UnavailableError(f"it answered {response.status} {text}")
            header = response.headers.get("X-Consul-Index", "")
            return Answer(
                int(header) if header.isascii() and header.isdigit() else 0,
                read_instances(bytes(body)),
                response.headers.get("X-Consul-KnownLeader", "true") != "false",
            )

    def _leave(self, position: int) -> None:
        """Prefer the next URL, unless another question has already moved on."""
        if self._preferred == position:
            self._preferred = (position + 1) % len(self._urls)


def _checked(text: str) -> URL:
    try:
        url = URL(text.strip())
    except ValueError as error:
        raise ConfigError(f"registry URL {text!r} cannot be read: {error}") from None
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.fragment:
        raise ConfigError(f"registry URL {text!r} cannot be used: give http:// or https://, a host and a port")
    return url
