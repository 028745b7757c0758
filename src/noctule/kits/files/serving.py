"""The other end of links into a folder: an ASGI app that answers as S3 would, so that the same client code serves both.

    app.mount("/files", FileLinks(files))

GET and HEAD with ranges, PUT by an upload link. What is given out cannot run in the app's origin: browsers are told not
to guess the type, to sandbox what they show, and to save what is not harmless to show.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import NoctuleError, RequestError, StorageError, TooLargeError, UnavailableError
from noctule.kits.asgi import Headers, Receive, Scope, Send, header_values
from noctule.kits.files.chain import FileNotFoundInStoreError, StoredFile
from noctule.kits.files.content import disposition_of, type_of_extension
from noctule.kits.files.file_store import FileStore
from noctule.kits.files.keys import INCOMING, check_key, extension_of, is_incoming
from noctule.kits.files.local_urls import Grant, LinkRefusedError

KEY_SEGMENTS = 5
"""Of the key of a file; an upload's has one more. What stands before them in a path is where this app is mounted."""

_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")
_DIGITS = re.compile(rb"[0-9]{1,15}")

_SAFE: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
    (b"cross-origin-resource-policy", b"same-site"),
)


class FileLinks:
    """Answers the links that `files` signs, and public URLs where its first store is declared public.

    Raises `ConfigError` without secrets for links.
    """

    def __init__(self, files: FileStore, *, clock: Clock = SystemClock()) -> None:  # noqa: B008 - it holds nothing
        self._files = files
        files.links.signer  # noqa: B018 - better missed here than at the first request
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        if scope["type"] != "http":
            raise RuntimeError(f"FileLinks answers http, not {scope['type']}: mount it as an app")
        try:
            await self._answer(scope, receive, send)
        except _AnsweredError as answer:
            await _send_error(send, answer.status, answer.code, str(answer), answer.headers)
        except LinkRefusedError as error:
            await _send_error(send, 403, error.s3_code, str(error))
        except FileNotFoundInStoreError as error:
            await _send_error(send, 404, "NoSuchKey", str(error))
        except TooLargeError as error:
            await _send_error(send, 413, "EntityTooLarge", str(error))
        except UnavailableError as error:
            await _send_error(send, 503, "SlowDown", str(error), [(b"retry-after", b"1")])
        except RequestError as error:
            await _send_error(send, 400, "InvalidRequest", str(error))
        except StorageError as error:
            await _send_error(send, 500, "InternalError", str(error))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        if method not in ("GET", "HEAD", "PUT"):
            raise _AnsweredError(
                405, "MethodNotAllowed", "files are read, or put by a link", [(b"allow", b"GET, HEAD, PUT")]
            )
        try:
            key = _key_of(scope["path"])
        except RequestError:
            raise FileNotFoundInStoreError("there is no such file") from None
        query = scope["query_string"].decode("latin-1")
        if method != "PUT" and not query and self._files.links.are_public and not is_incoming(key):
            grant = Grant("", 0)
        else:
            grant = self._files.links.signer.check(method, key, query, self._clock.wall_ms())
        if method == "PUT":
            await self._put(key, grant, scope, receive, send)
        else:
            await self._give(key, grant, scope, receive, send)

    # Reading ----------------------------------------------------------------------------------------------------------

    async def _give(self, key: str, grant: Grant, scope: Scope, receive: Receive, send: Send) -> None:
        saved = await self._files.stat(key)
        etag = saved.etag.encode("latin-1")
        headers = [*_SAFE, (b"etag", etag), (b"accept-ranges", b"bytes"), (b"cache-control", b"private")]
        if etag and etag in b",".join(header_values(scope["headers"], b"if-none-match")).replace(b" ", b"").replace(
            b"W/", b""
        ).split(b","):
            await _send_start(send, 304, headers)
            await send({"type": "http.response.body", "body": b""})
            return
        wanted = _wanted_range(scope["headers"], saved, etag)
        status, (start, end) = (200, (0, saved.size_bytes)) if wanted is None else (206, wanted)
        headers += [(b"content-type", saved.content_type.encode()), (b"content-length", str(end - start).encode())]
        if disposition := disposition_of(saved.content_type, grant.disposition):
            headers.append((b"content-disposition", disposition.encode()))
        if wanted is not None:
            headers.append((b"content-range", f"bytes {start}-{end - 1}/{saved.size_bytes}".encode()))
        if scope["method"] == "HEAD" or start == end:
            await _send_start(send, status, headers)
            await send({"type": "http.response.body", "body": b""})
            return
        pieces = self._files.stream(key) if wanted is None else self._files.stream(key, start=start, end=end)
        await _send_pieces(receive, send, status, headers, pieces)

    # Uploads ----------------------------------------------------------------------------------------------------------

    async def _put(self, key: str, grant: Grant, scope: Scope, receive: Receive, send: Send) -> None:
        length = b"".join(header_values(scope["headers"], b"content-length")) or b"0"
        if not _DIGITS.fullmatch(length):
            raise RequestError("Content-Length must be a number of bytes")
        if int(length) > grant.bytes_max:
            raise TooLargeError(f"the link is for at most {grant.bytes_max} bytes")
        plain = type_of_extension(extension_of(key)).name.partition(";")[0]
        # Bytes of no known type may be anything.
        allowed = (plain,) if extension_of(key) else ()
        await self._files.replace(key, _body(receive), allowed=allowed, bytes_max=grant.bytes_max)
        await _send_start(send, 200, [*_SAFE, (b"content-length", b"0")])
        await send({"type": "http.response.body", "body": b""})


class _AnsweredError(NoctuleError):
    """An answer of HTTP that no other error stands for."""

    def __init__(self, status: int, code: str, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code  # type: ignore[misc]
        self.headers = headers


def _key_of(path: str) -> str:
    """The key that a path ends with. Raises `RequestError`."""
    before, *segments = path.split("/")[-KEY_SEGMENTS - 1 :]
    return check_key("/".join([before, *segments] if before == INCOMING else segments))


def _wanted_range(headers: Headers, saved: StoredFile, etag: bytes) -> tuple[int, int] | None:
    """The one range that is asked for, as bytes from and to before; None for the whole file (RFC 9110 14.2).

    Several ranges, or what is no range, are the whole file. Raises for one that lies behind the end.
    """
    values = header_values(headers, b"range")
    if_range = b"".join(header_values(headers, b"if-range"))
    if len(values) != 1 or (if_range and if_range != etag):
        return None
    match = _RANGE.fullmatch(values[0].decode("latin-1").strip())
    if match is None or not (match[1] or match[2]):
        return None
    size = saved.size_bytes
    if match[1]:
        start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
        if match[2] and int(match[2]) < int(match[1]):
            return None
    else:
        start, end = max(size - int(match[2]), 0), size
    if start >= end:
        raise _AnsweredError(
            416, "InvalidRange", "the range lies behind the file", [(b"content-range", f"bytes */{size}".encode())]
        )
    return start, end


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("the upload broke off")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


async def _send_pieces(
    receive: Receive, send: Send, status: int, headers: Headers, pieces: AsyncGenerator[bytes, None]
) -> None:
    """Start with the first piece, so that what goes wrong before it has a status of its own; end with the client."""
    gone = asyncio.create_task(_until_gone(receive), name="file-client")
    is_started = False
    try:
        async with aclosing(pieces) as stream:
            async for piece in stream:
                if gone.done():
                    return
                if not is_started:
                    is_started = True
                    await _send_start(send, status, headers)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except NoctuleError:
        # The server cuts the connection, as fewer bytes came than were promised: the client sees that it is not whole.
        if not is_started:
            raise
    finally:
        gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_start(send: Send, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def _send_error(send: Send, status: int, code: str, message: str, headers: Headers = ()) -> None:
    """As S3 tells it; messages are ours and hold no markup."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    start = [*_SAFE, (b"content-type", b"application/xml"), (b"cache-control", b"no-store"), *headers]
    await _send_start(send, status, [*start, (b"content-length", str(len(body.encode())).encode())])
    await send({"type": "http.response.body", "body": body.encode()})
