"""HTTP/1.1 as the gateway writes it."""

import pytest

from noctule.gateway.h1 import Framing, render_chunk, render_request, render_response, response_framing
from noctule.gateway.heads import lines_of


@pytest.mark.parametrize(
    ("method", "status", "length", "knows_chunks", "expected"),
    [
        ("GET", 200, 5, True, Framing.LENGTH),
        ("GET", 200, 0, True, Framing.LENGTH),
        ("GET", 200, None, True, Framing.CHUNKED),
        ("GET", 200, None, False, Framing.CLOSE),
        ("HEAD", 200, 5, True, Framing.NONE),
        ("HEAD", 200, None, False, Framing.NONE),
        ("GET", 204, None, True, Framing.NONE),
        ("GET", 304, 5, True, Framing.NONE),
        ("GET", 103, None, True, Framing.NONE),
    ],
)
def test_how_a_response_is_ended(
    method: str, status: int, length: int | None, knows_chunks: bool, expected: Framing
) -> None:
    """RFC 9112 6.3."""
    assert response_framing(method, status, length, knows_chunks=knows_chunks) is expected


def test_heads_are_lines() -> None:
    headers = [(b"A", b"1"), (b"a", b"2")]
    assert render_request("GET", b"/x?y", lines_of(headers)) == b"GET /x?y HTTP/1.1\r\nA: 1\r\na: 2\r\n\r\n"
    assert render_response(404, b"Gone Fishing", headers) == b"HTTP/1.1 404 Gone Fishing\r\nA: 1\r\na: 2\r\n\r\n"
    assert render_response(404, b"", []) == b"HTTP/1.1 404 Not Found\r\n\r\n"
    assert render_response(599, b"", []) == b"HTTP/1.1 599 \r\n\r\n"


def test_a_chunk_has_its_length_in_front() -> None:
    assert b"".join(render_chunk(b"x" * 26)) == b"1a\r\n" + b"x" * 26 + b"\r\n"
