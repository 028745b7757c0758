"""What of a request's and a response's head passes the gateway, and what does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.gateway.answers import RefusedError
from noctule.gateway.heads import (
    Header,
    HeadReader,
    apply_rules,
    client_address,
    headers_of,
    lines_of,
    read_request,
    read_response,
    request_lines,
    response_headers,
    split_target,
)
from noctule.gateway.model import HeaderRules
from noctule.gateway.networks import is_in, parse_networks

HOST = (b"Host", b"shop.example")


def passed(*headers: Header, is_peer_trusted: bool = False, target: bytes = b"/") -> list[Header]:
    lines = request_lines(
        read_request("GET", target, headers),
        instance=b"10.9.8.7:80",
        scheme=b"http",
        peer="192.0.2.7",
        client="203.0.113.5" if is_peer_trusted else "192.0.2.7",
        is_peer_trusted=is_peer_trusted,
        request_id=b"id-1",
        trace=b"trace-1",
    )
    return headers_of(lines)


def values(headers: list[Header], name: bytes) -> list[bytes]:
    return [value for found, value in headers if found.lower() == name.lower()]


# --- Requests ---


@pytest.mark.parametrize(
    "target", ["/", "/?", "/a%2fb?x=%zz&y=a+b", "//double//slash", "/a/../b/./c", "/ü?q=ü", "/a;b=c?d=%20&e?f"]
)
def test_a_path_passes_byte_for_byte(target: str) -> None:
    assert split_target(target.encode()) == (target.encode(), None)


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://shop.example/basket?a=1", b"/basket?a=1", b"shop.example"),
        (b"HTTP://shop.example:8080", b"/", b"shop.example:8080"),
        (b"https://shop.example?a=1", b"/?a=1", b"shop.example"),
    ],
)
def test_an_absolute_target_gives_its_path_and_host(target: bytes, path: bytes, host: bytes) -> None:
    assert split_target(target) == (path, host)


@pytest.mark.parametrize("target", [b"*", b"shop.example:443", b"ftp://shop.example/", b"", b"/a#b", b"/a\xe4"])
def test_other_targets_are_refused(target: bytes) -> None:
    with pytest.raises(RefusedError, match="the request target") as caught:
        split_target(target)
    assert caught.value.answer.status == 400


def test_hop_by_hop_headers_stay_behind_and_so_do_those_named_in_connection() -> None:
    """RFC 9110 7.6.1."""
    headers = passed(
        HOST,
        (b"Connection", b"keep-alive, X-Secret"),
        (b"connection", b" x-other "),
        (b"X-Secret", b"1"),
        (b"X-Other", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"TE", b"trailers"),
        (b"Trailer", b"Expires"),
        (b"Upgrade", b"h2c"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"Proxy-Authorization", b"Basic x"),
        (b"Expect", b"100-continue"),
        (b"Accept", b"text/html"),
    )
    assert [name for name, _ in headers] == [
        b"Host",
        b"Accept",
        b"X-Real-IP",
        b"X-Forwarded-For",
        b"X-Forwarded-Proto",
        b"X-Forwarded-Host",
        b"X-Request-ID",
        b"traceparent",
    ]


def test_connection_cannot_take_away_host_or_length() -> None:
    head = read_request("POST", b"/", [HOST, (b"Content-Length", b"3"), (b"Connection", b"host, content-length")])
    assert (head.host, head.content_length) == (b"shop.example", 3)


def test_a_client_that_names_no_host_is_given_the_instances() -> None:
    """HTTP/1.0 may do without; what goes on is HTTP/1.1."""
    lines = request_lines(
        read_request("GET", b"/", [], version="1.0"),
        instance=b"10.9.8.7:80",
        scheme=b"http",
        peer="192.0.2.7",
        client="192.0.2.7",
        is_peer_trusted=False,
        request_id=b"id-1",
        trace=b"trace-1",
    )
    told = headers_of(lines)
    assert told[0] == (b"Host", b"10.9.8.7:80")
    assert not values(told, b"X-Forwarded-Host")


def test_repeated_headers_keep_their_order_and_number() -> None:
    headers = passed(HOST, (b"Cookie", b"a=1"), (b"X-A", b"1"), (b"Cookie", b"b=2"), (b"X-A", b"2"))
    assert values(headers, b"Cookie") == [b"a=1", b"b=2"]
    assert values(headers, b"X-A") == [b"1", b"2"]


def test_a_stranger_cannot_say_who_he_is() -> None:
    headers = passed(
        HOST,
        (b"X-Forwarded-For", b"10.0.0.1"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"evil.example"),
        (b"X-Forwarded-Prefix", b"/admin"),
        (b"X_Forwarded_For", b"10.0.0.1"),
        (b"x_forwarded-prefix", b"/admin"),
        (b"X_Real_IP", b"10.0.0.1"),
        (b"Forwarded", b"for=10.0.0.1"),
        (b"X-Real-IP", b"10.0.0.1"),
    )
    assert headers == [
        HOST,
        (b"X-Real-IP", b"192.0.2.7"),
        (b"X-Forwarded-For", b"192.0.2.7"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"shop.example"),
        (b"X-Request-ID", b"id-1"),
        (b"traceparent", b"trace-1"),
    ]


def test_a_trusted_proxy_is_believed_and_added_to() -> None:
    headers = passed(
        (b"Host", b"inside"),
        (b"X-Forwarded-For", b"198.51.100.1"),
        (b"X-Forwarded-For", b"203.0.113.5"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"shop.example"),
        (b"X-Forwarded-Prefix", b"/shop"),
        (b"X-Real-IP", b"6.6.6.6"),
        is_peer_trusted=True,
    )
    assert values(headers, b"X-Forwarded-For") == [b"198.51.100.1, 203.0.113.5, 192.0.2.7"]
    assert values(headers, b"X-Forwarded-Proto") == [b"https"]
    assert values(headers, b"X-Forwarded-Host") == [b"shop.example"]
    assert values(headers, b"X-Forwarded-Prefix") == [b"/shop"]
    assert values(headers, b"X-Real-IP") == [b"203.0.113.5"]


def test_the_host_of_an_absolute_target_replaces_the_header() -> None:
    """RFC 9112 3.2.2."""
    headers = passed((b"Host", b"other.example"), target=b"http://shop.example/")
    assert values(headers, b"Host") == [b"shop.example"]
    assert values(headers, b"X-Forwarded-Host") == [b"shop.example"]


@pytest.mark.parametrize(
    ("hops", "peer", "expected"),
    [
        ((b"203.0.113.5",), "192.0.2.7", "192.0.2.7"),
        ((b"203.0.113.5",), "10.0.0.1", "203.0.113.5"),
        ((b"6.6.6.6, 203.0.113.5, 10.0.0.9",), "10.0.0.1", "203.0.113.5"),
        ((b"6.6.6.6", b"203.0.113.5"), "10.0.0.1", "203.0.113.5"),
        ((b"10.0.0.8, 10.0.0.9",), "10.0.0.1", "10.0.0.8"),
        ((), "10.0.0.1", "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_hop_that_is_no_proxy_of_ours(hops: tuple[bytes, ...], peer: str, expected: str) -> None:
    head = read_request("GET", b"/", [HOST, *((b"X-Forwarded-For", hop) for hop in hops)])
    assert client_address(head, peer, parse_networks(["10.0.0.0/8"])) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("11.0.0.1", False), ("fe80::1%eth0", False), (None, False)],
)
def test_trust_goes_by_network(address: str | None, expected: bool) -> None:
    assert is_in(address, parse_networks(["10.0.0.0/8"])) is expected


@pytest.mark.parametrize(
    ("given_id", "expected"), [(b"abc-1", b"abc-1"), (b"", b"id-1"), (b"a b", b"id-1"), (b"x" * 129, b"id-1")]
)
def test_a_sane_request_id_is_kept(given_id: bytes, expected: bytes) -> None:
    assert values(passed(HOST, (b"X-Request-ID", given_id)), b"X-Request-ID") == [expected]


@pytest.mark.parametrize(
    ("trace", "is_kept"),
    [
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        (b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later", True),
        (b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", False),
        (b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01", False),
        (b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", False),
        (b"no trace", False),
    ],
)
def test_a_valid_trace_goes_on_and_another_is_begun_anew(trace: bytes, is_kept: bool) -> None:
    """W3C Trace Context 3.2.2."""
    assert values(passed(HOST, (b"traceparent", trace)), b"traceparent") == [trace if is_kept else b"trace-1"]


@pytest.mark.parametrize(
    ("method", "headers", "version"),
    [
        ("POST", [HOST, (b"Content-Length", b"4"), (b"Transfer-Encoding", b"chunked")], "1.1"),
        ("POST", [HOST, (b"Content-Length", b"4"), (b"Content-Length", b"4")], "1.1"),
        ("POST", [HOST, (b"Transfer-Encoding", b"gzip, chunked")], "1.1"),
        ("POST", [HOST, (b"Transfer-Encoding", b"chunked")], "1.0"),
        ("GET", [], "1.1"),
        ("GET", [HOST, HOST], "1.1"),
        ("GET", [(b"Host", b"a b")], "1.1"),
        ("GET", [HOST, (b"X-Name", b"caf\xe9")], "1.1"),
    ],
)
def test_what_two_could_read_differently_is_refused(method: str, headers: list[Header], version: str) -> None:
    with pytest.raises(RefusedError):
        read_request(method, b"/", headers, version=version)


def test_text_in_utf8_passes() -> None:
    assert values(passed(HOST, (b"X-Name", "café".encode())), b"X-Name") == ["café".encode()]


@pytest.mark.parametrize(
    ("method", "upgrade", "connection", "expected"),
    [
        ("GET", b"websocket", b"keep-alive, Upgrade", True),
        ("GET", b"WebSocket", b"upgrade", True),
        ("GET", b"h2c", b"Upgrade", False),
        ("GET", b"websocket, h2c", b"Upgrade", False),
        ("GET", b"websocket", b"keep-alive", False),
        ("POST", b"websocket", b"Upgrade", False),
    ],
)
def test_only_a_websocket_is_an_upgrade(method: str, upgrade: bytes, connection: bytes, expected: bool) -> None:
    """An instance that took h2c would be spoken to past every rule of the gateway."""
    head = read_request(method, b"/", [HOST, (b"Upgrade", upgrade), (b"Connection", connection)])
    assert head.is_websocket is expected


TARGETS = st.sampled_from([b"/", b"/a?b", b"//c", b"http://other.example/d", b"/e#f", b"*", b"/\xff"])
VERSIONS = st.sampled_from(["1.1", "1.0"])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["GET", "PUT"]),
            TARGETS,
            st.sampled_from(
                [[HOST], [HOST, (b"Accept", b"a")], [(b"Host", b"x y")], [HOST, (b"Content-Length", b"3")]]
            ),
            VERSIONS,
        ),
        max_size=8,
    )
)
def test_a_head_like_the_one_before_is_read_as_if_it_were_alone(
    requests: list[tuple[str, bytes, list[Header], str]],
) -> None:
    reader = HeadReader()
    for method, target, headers, version in requests:
        try:
            expected = read_request(method, target, list(headers), version=version)
        except RefusedError:
            with pytest.raises(RefusedError):
                reader.read(method, target, list(headers), version)
            continue
        found = reader.read(method, target, list(headers), version)
        for name in ("method", "target", "version", "host", "headers", "content_length", "lines"):
            assert getattr(found, name) == getattr(expected, name)


@given(st.lists(st.tuples(st.sampled_from([b"A", b"b-c"]), st.sampled_from([b"", b"1", b": x: ", b"a:b"]))))
def test_lines_are_read_as_they_were_written(headers: list[Header]) -> None:
    assert headers_of(lines_of(headers)) == headers


# --- Responses ---


def test_a_response_keeps_its_cookies_and_gains_id_and_attempts() -> None:
    head = read_response(
        200,
        b"OK",
        [
            (b"Set-Cookie", b"a=1"),
            (b"Set-Cookie", b"b=2"),
            (b"Connection", b"close, X-Hop"),
            (b"X-Hop", b"1"),
            (b"Transfer-Encoding", b"chunked"),
            (b"X-Noctule-Gateway", b"7"),
        ],
    )
    assert head.is_chunked
    assert response_headers(head, request_id=b"id-1", attempts=2) == [
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
        (b"X-Request-ID", b"id-1"),
        (b"X-Noctule-Gateway", b"2"),
    ]


@pytest.mark.parametrize(
    ("status", "header", "reason"),
    [
        (99, (b"X", b"1"), "status is 99"),
        (600, (b"X", b"1"), "status is 600"),
        (200, (b"Transfer-Encoding", b"gzip"), "not chunked"),
        (200, (b"X-Name", b"caf\xe9"), "X-Name is not valid UTF-8"),
    ],
)
def test_a_response_that_cannot_be_passed_on_is_named(status: int, header: Header, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_response(status, b"", [header])


def test_a_reason_that_is_no_text_is_not_passed_on() -> None:
    assert read_response(200, b"So It Is", []).reason == b"So It Is"
    assert read_response(200, b"\x1b[31m", []).reason == b""


# --- Rules ---


def test_rules_remove_set_and_add_in_this_order() -> None:
    rules = HeaderRules(remove=("X-Gone",), set={"X-Set": "new"}, add={"X-Add": "2", "X-Gone": "back"})
    headers = [(b"x-gone", b"1"), (b"X-SET", b"a"), (b"x-set", b"b"), (b"X-Add", b"1"), (b"Y", b"1")]
    assert apply_rules(headers, rules) == [
        (b"X-Add", b"1"),
        (b"Y", b"1"),
        (b"X-Set", b"new"),
        (b"X-Add", b"2"),
        (b"X-Gone", b"back"),
    ]


# --- Laws ---

NAMES = st.sampled_from(
    b"Accept Connection Cookie Expect Forwarded Keep-Alive Proxy-Authorization TE Trailer Upgrade X-Own X-Real-IP "
    b"X-Forwarded-For x_forwarded_for X-Forwarded-Anything".split()
)
VALUES = st.sampled_from(
    [b"1", b"close", b"cookie", b"x-own, accept", b"x-forwarded-for", b"websocket", b"x-request-id"]
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=12))
def test_whatever_a_stranger_sends_the_gateway_has_the_last_word(headers: list[Header]) -> None:
    told = passed(HOST, *headers)
    said = {
        b"Host": b"shop.example",
        b"X-Real-IP": b"192.0.2.7",
        b"X-Forwarded-For": b"192.0.2.7",
        b"X-Request-ID": b"id-1",
    }
    for name, value in said.items():
        assert values(told, name) == [value]
    names = {name.lower().replace(b"_", b"-") for name, _ in told}
    assert not names & {b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"proxy-authorization", b"expect"}
    assert not names & {b"forwarded", b"x-forwarded-anything"}
