"""The head of a request of HTTP/2, as HTTP/1.1 would have it; the library in front refuses much of this by itself."""

import pytest

from noctule.gateway.answers import RefusedError
from noctule.gateway.h2 import read_http2_request
from noctule.gateway.heads import Header, RequestHead


def read(
    *headers: Header,
    method: bytes = b"GET",
    path: bytes = b"/",
    authority: bytes = b"shop.example",
    has_body: bool = False,
) -> RequestHead:
    pseudo = [(b":method", method), (b":scheme", b"https"), (b":authority", authority), (b":path", path)]
    return read_http2_request([*pseudo, *headers], has_body=has_body, headers_max=10, header_bytes_max=100)


def test_pseudo_headers_become_a_request_line_and_a_host() -> None:
    head = read((b"accept", b"*/*"), method=b"PUT", path=b"/a?b=%2F", has_body=True)
    assert (head.method, head.target, head.host) == ("PUT", b"/a?b=%2F", b"shop.example")
    assert head.headers == [(b"accept", b"*/*")]
    assert head.is_chunked


def test_a_length_is_kept_and_then_nothing_is_chunked() -> None:
    head = read((b"content-length", b"5"), method=b"POST", has_body=True)
    assert (head.content_length, head.is_chunked) == (5, False)
    assert not read().has_body


@pytest.mark.parametrize(
    "header",
    [
        (b"x-a", b"1\r\nx-b: 2"),
        (b"x-a", b"1\n2"),
        (b"x-a", b"1\r2"),
        (b"x-a", b"1\x002"),
        (b"x-a: 1\r\nx-b", b"2"),
        (b"x a", b"1"),
        (b"X-A", b"1"),
        (b"", b"1"),
        (b"host", b"other.example"),
        (b"content-length", b"+5"),
        (b"content-length", b"5, 5"),
        (b"transfer-encoding", b"chunked"),
    ],
)
def test_what_would_be_two_headers_of_http1_is_refused(header: Header) -> None:
    with pytest.raises(RefusedError):
        read(header, method=b"POST", has_body=True)


@pytest.mark.parametrize("path", [b"/a b", b"/ HTTP/1.1\r\nX: y", b"/\x00", b"*", b"", b"/#x", b"//[\r"])
def test_a_path_that_would_end_the_request_line_is_refused(path: bytes) -> None:
    with pytest.raises(RefusedError):
        read(path=path)


@pytest.mark.parametrize("method", [b"", b"GET /x", b"get", b"G\r\nT", b"CONNECT"])
def test_a_method_that_would_begin_another_is_refused(method: bytes) -> None:
    with pytest.raises(RefusedError):
        read(method=method)


@pytest.mark.parametrize("authority", [b"a/b", b"a b", b"a\r\nb", b"a@b"])
def test_an_authority_that_is_no_host_is_refused(authority: bytes) -> None:
    with pytest.raises(RefusedError):
        read(authority=authority)


def test_heads_have_bounds() -> None:
    with pytest.raises(RefusedError) as caught:
        read((b"x", b"y" * 100))
    assert caught.value.answer.status == 431
    with pytest.raises(RefusedError) as caught:
        read(*((b"x-%d" % number, b"1") for number in range(11)))
    assert caught.value.answer.status == 431
