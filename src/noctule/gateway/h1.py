"""HTTP/1.1 on the wire, as the gateway writes it: heads, chunks, and how a response's end is marked."""

import functools
import http
import time
from collections.abc import Iterable
from email.utils import formatdate
from enum import Enum, auto

from noctule.gateway.heads import Header, lines_of

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class Framing(Enum):
    """How the receiver of a message knows its end (RFC 9112 6.3)."""

    NONE = auto()
    """No body."""
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()
    """The body ends with the connection: for a client that does not know chunks."""


# Looked up once: an enumeration's members cost a search each time.
_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing


def has_body(method: str, status: int) -> bool:
    """Whether a response may have a body at all (RFC 9112 6.3)."""
    return response_framing(method, status, None, knows_chunks=True) is not _NONE


def response_framing(method: str, status: int, length: int | None, *, knows_chunks: bool) -> Framing:
    """How a response to a client is ended."""
    if method == "HEAD" or status < 200 or status == 204 or status == 304:
        return _NONE
    if length is not None:
        return _LENGTH
    return _CHUNKED if knows_chunks else _CLOSE


def render_response(status: int, reason: bytes, headers: Iterable[Header]) -> bytes:
    """A response's head."""
    return b"".join((_status_line(status, reason), lines_of(headers), b"\r\n"))


def render_request(method: str, target: bytes, lines: bytes) -> bytes:
    """A request's head; its lines as `heads.lines_of` makes them."""
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode("ascii"), target, lines)


def render_chunk(piece: bytes) -> tuple[bytes, bytes, bytes]:
    """A piece as a chunk, in parts that are written one after the other; the piece must not be empty."""
    return b"%x\r\n" % len(piece), piece, b"\r\n"


def date() -> bytes:
    """Now, as the Date header says it (RFC 9110 5.6.7)."""
    return _date(int(time.time()))  # noqa: TID251 - the edge: a client is told the time of the wall


@functools.lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")


@functools.lru_cache(maxsize=256)
def _status_line(status: int, reason: bytes) -> bytes:
    if not reason:
        reason = http.HTTPStatus(status).phrase.encode("ascii") if status in set(http.HTTPStatus) else b""
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)
