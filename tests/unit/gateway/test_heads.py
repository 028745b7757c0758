"""What of a request's and a response's head passes the gateway, and what does not."""

import ipaddress

import pytest
from multidict import CIMultiDict

from noctule.gateway.answers import RefusedError
from noctule.gateway.heads import (
    check_passable,
    choose_request_id,
    is_trusted,
    request_headers,
    response_headers,
    split_target,
    websocket_protocols,
)


def passed(*headers: tuple[str, str], is_peer_trusted: bool = False, host: str | None = None) -> CIMultiDict[str]:
    return request_headers(
        CIMultiDict(headers),
        host=host,
        scheme="http",
        peer="192.0.2.7",
        is_peer_trusted=is_peer_trusted,
        request_id="id-1",
    )


@pytest.mark.parametrize(
    "target", ["/", "/?", "/a%2fb?x=%zz&y=a+b", "//double//slash", "/a/../b/./c", "/ü?q=ü", "/a;b=c?d=%20&e?f"]
)
def test_a_path_passes_byte_for_byte(target: str) -> None:
    assert split_target(target) == (target, None)


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        ("http://shop.example/basket?a=1", "/basket?a=1", "shop.example"),
        ("HTTP://shop.example:8080", "/", "shop.example:8080"),
        ("https://shop.example?a=1", "/?a=1", "shop.example"),
    ],
)
def test_an_absolute_target_gives_its_path_and_host(target: str, path: str, host: str) -> None:
    assert split_target(target) == (path, host)


@pytest.mark.parametrize("target", ["*", "shop.example:443", "ftp://shop.example/", "", "/a#b", "/a\udce4"])
def test_other_targets_are_refused(target: str) -> None:
    with pytest.raises(RefusedError, match="the request target") as caught:
        split_target(target)
    assert caught.value.answer.status == 400


def test_hop_by_hop_headers_stay_behind_and_so_do_those_named_in_connection() -> None:
    """RFC 9110 7.6.1."""
    headers = passed(
        ("Host", "shop.example"),
        ("Connection", "keep-alive, X-Secret"),
        ("connection", " x-other "),
        ("X-Secret", "1"),
        ("X-Other", "1"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("Trailer", "Expires"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic x"),
        ("Expect", "100-continue"),
        ("Accept", "text/html"),
    )
    assert set(headers) == {
        "Host",
        "Accept",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Request-ID",
    }


def test_connection_cannot_take_away_host_or_length() -> None:
    headers = passed(("Host", "shop.example"), ("Content-Length", "3"), ("Connection", "host, content-length"))
    assert headers["Host"] == "shop.example"
    assert headers["Content-Length"] == "3"


def test_repeated_headers_keep_their_order_and_number() -> None:
    headers = passed(("Cookie", "a=1"), ("X-A", "1"), ("Cookie", "b=2"), ("X-A", "2"))
    assert headers.getall("Cookie") == ["a=1", "b=2"]
    assert headers.getall("X-A") == ["1", "2"]


def test_a_stranger_cannot_say_who_he_is() -> None:
    headers = passed(
        ("Host", "shop.example"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Prefix", "/admin"),
        ("X_Forwarded_For", "10.0.0.1"),
        ("Forwarded", "for=10.0.0.1"),
        ("X-Real-IP", "10.0.0.1"),
    )
    assert headers == CIMultiDict(
        {
            "Host": "shop.example",
            "X-Forwarded-For": "192.0.2.7",
            "X-Forwarded-Proto": "http",
            "X-Forwarded-Host": "shop.example",
            "X-Request-ID": "id-1",
        }
    )


def test_a_trusted_proxy_is_believed_and_added_to() -> None:
    headers = passed(
        ("Host", "inside"),
        ("X-Forwarded-For", "198.51.100.1"),
        ("X-Forwarded-For", "203.0.113.5"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "shop.example"),
        is_peer_trusted=True,
    )
    assert headers.getall("X-Forwarded-For") == ["198.51.100.1, 203.0.113.5, 192.0.2.7"]
    assert headers["X-Forwarded-Proto"] == "https"
    assert headers["X-Forwarded-Host"] == "shop.example"


def test_the_host_of_an_absolute_target_replaces_the_header() -> None:
    """RFC 9112 3.2.2."""
    headers = passed(("Host", "other.example"), host="shop.example")
    assert headers.getall("Host") == ["shop.example"]
    assert headers["X-Forwarded-Host"] == "shop.example"


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("11.0.0.1", False), ("fe80::1%eth0", False), (None, False)],
)
def test_trust_goes_by_network(address: str | None, expected: bool) -> None:
    assert is_trusted(address, [ipaddress.ip_network("10.0.0.0/8")]) is expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [("abc-1", "abc-1"), ("", "fresh"), ("a b", "fresh"), ("x" * 129, "fresh"), ("ü", "fresh")],
)
def test_a_sane_request_id_is_kept(given: str, expected: str) -> None:
    assert choose_request_id(CIMultiDict({"X-Request-ID": given}), "fresh") == expected


def test_a_response_keeps_its_cookies_and_gains_id_and_attempts() -> None:
    headers = response_headers(
        CIMultiDict(
            [
                ("Set-Cookie", "a=1"),
                ("Set-Cookie", "b=2"),
                ("Connection", "close"),
                ("Transfer-Encoding", "chunked"),
                ("X-Noctule-Gateway", "7"),
            ]
        ),
        request_id="id-1",
        attempts_header="X-Noctule-Gateway",
        attempts=2,
    )
    assert headers.getall("Set-Cookie") == ["a=1", "b=2"]
    assert headers.getall("X-Noctule-Gateway") == ["2"]
    assert headers["X-Request-ID"] == "id-1"
    assert "Connection" not in headers
    assert "Transfer-Encoding" not in headers


def test_bytes_outside_utf8_are_named_and_not_lost_in_silence() -> None:
    check_passable(CIMultiDict({"X-Name": "café"}))
    with pytest.raises(ValueError, match="X-Name is not valid UTF-8"):
        check_passable(CIMultiDict({"X-Name": "caf\udce9"}))


def test_offered_subprotocols_keep_the_clients_preference() -> None:
    headers = CIMultiDict([("Sec-WebSocket-Protocol", "chat.v2, chat.v1"), ("Sec-WebSocket-Protocol", "soap,")])
    assert websocket_protocols(headers) == ("chat.v2", "chat.v1", "soap")
