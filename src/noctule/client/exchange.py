"""One HTTP request and its whole answer: sent once, bounded in time and bytes, failures told apart by their outcome.

aiohttp by itself sends GET, PUT and DELETE a second time when the connection breaks (IDEMPOTENT_METHODS in its
client.py). That would hide from the verifier exactly what it looks for, and apply a write twice behind the back of a
client whose history somebody checks. `_send_once` turns such a failure into ours before aiohttp sees it.
"""

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from noctule.base.errors import ConfigError, OutcomeUnknownError, ProtocolError, UnavailableError

CONNECT_TIMEOUT_S = 2.0
"""For the TCP connection alone; a dead machine costs this once."""

ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""The largest body that is read. A page of 10,000 keys of ordinary length fits many times."""


class Answer:
    """What came back, whole."""

    __slots__ = ("body", "headers", "method", "status", "url")

    def __init__(self, method: str, url: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.method = method
        self.url = url
        self.status = status
        self.headers = headers
        """Names in any case."""
        self.body = body

    def __repr__(self) -> str:
        return f"<Answer {self.status} to {self.method} {self.url}, {len(self.body)} bytes>"


def base_url(text: str, *, what: str) -> str:
    """Give an http(s) URL of host and port without its final slash; raises `ConfigError` naming `what` is wrong."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        raise ConfigError(f"{what} {text!r} is not a URL of host and port; write it as in http://127.0.0.1:7501")
    return text.rstrip("/")


def new_session(*, keeps_cookies: bool = False, keeps_connections: bool = True) -> aiohttp.ClientSession:
    """Give a session for `exchange`, to be closed by the caller; cookies are kept for IP addresses too.

    Without `keeps_connections` every request is a connection of its own, as from a visitor that is new.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=not keeps_connections),
        cookie_jar=aiohttp.CookieJar(unsafe=True) if keeps_cookies else aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        middlewares=(_send_once,),
    )


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    timeout_s: float,
    body: bytes | None = None,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    answer_bytes_max: int = ANSWER_BYTES_MAX,
) -> Answer:
    """Send one request and read the answer whole, within `timeout_s` together; redirects are not followed.

    `url` is sent as it is: whoever builds it has encoded it. Raises `UnavailableError` when no connection was made, so
    that nothing was sent; `OutcomeUnknownError` when the answer did not come or broke off; `ProtocolError` when what
    came is not HTTP or too long.
    """
    data = aiohttp.FormData(form) if form is not None else body
    try:
        async with (
            asyncio.timeout(timeout_s),
            session.request(
                method, URL(url, encoded=True), data=data, headers=headers, allow_redirects=False
            ) as response,
        ):
            content = await _read(response, answer_bytes_max)
            return Answer(method, url, response.status, response.headers, content)
    except TimeoutError as error:
        raise OutcomeUnknownError(f"{method} {url}: no answer within {timeout_s:.3g} s") from error
    except aiohttp.InvalidURL as error:
        raise ConfigError(f"{method} {url}: not a URL that can be asked") from error
    except (aiohttp.ClientError, OSError) as error:
        raise OutcomeUnknownError(f"{method} {url}: the answer broke off: {_words(error)}") from error


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > bytes_max:
            response.close()
            raise ProtocolError(f"{response.method} {response.url}: the answer is longer than {bytes_max} bytes")
    return bytes(content)


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise UnavailableError(f"{request.method} {request.url}: cannot connect: {_words(error)}") from error
    except aiohttp.ClientResponseError as error:
        raise ProtocolError(f"{request.method} {request.url}: the answer is not HTTP: {_words(error)}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise OutcomeUnknownError(f"{request.method} {request.url}: no answer: {_words(error)}") from error


def _words(error: Exception) -> str:
    """The reason alone, in one line."""
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return "connection refused" if refused else error.os_error.strerror or str(error)
    words = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    return " ".join(words.split()) or type(error).__name__
