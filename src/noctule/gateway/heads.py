"""Heads of requests and responses as they are passed on: pure text in, pure text out.

Everything that is between the two ends of one connection stays there; everything else passes unchanged, except what a
gateway has to say of the client. Sources: RFC 9110 7.6.1 (hop-by-hop), RFC 9112 3.2 (request targets).
"""

import ipaddress
import re
from collections.abc import Iterable

from multidict import CIMultiDict, CIMultiDictProxy

from noctule.gateway.answers import RefusedError, bad_request
from noctule.gateway.config import Network

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 9.2.2: doing it twice is doing it once."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""RFC 9110 9.2.1: the client asks for no change."""

# RFC 9110 7.6.1, and the credentials for a proxy, which RFC 9110 11.7 ends at the proxy. `Expect` is answered here:
# the gateway says "100 Continue" once it is willing to take the body.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# Made anew for each of the two WebSocket connections.
_WEBSOCKET_HANDSHAKE = frozenset(
    {
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
    }
)

# What apps read a client's address, scheme or host from.
_FORWARDING_PREFIX = "x-forwarded-"
_FORWARDING = frozenset({"forwarded", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip"})

# RFC 9110 7.6.1 forbids naming these in Connection; whoever does wants them lost between us and the app.
_NEVER_NAMED = frozenset({"host", "content-length", "cache-control"})

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_ABSOLUTE_TARGET = re.compile(r"https?://(?P<authority>[^/?#]+)(?P<rest>.*)", re.IGNORECASE)

Headers = CIMultiDict[str] | CIMultiDictProxy[str]


def split_target(target: str) -> tuple[str, str | None]:
    """The request target to pass on, byte for byte, and the host when the target names one (RFC 9112 3.2.1, 3.2.2).

    `RefusedError` (400) for every other form, and for characters that a target cannot have.
    """
    host = None
    if match := _ABSOLUTE_TARGET.fullmatch(target):
        host = match["authority"]
        target = match["rest"] if match["rest"].startswith("/") else "/" + match["rest"]
    if not target.startswith("/"):
        raise RefusedError(bad_request("the request target must be a path such as /page, or an http URL"))
    if not _is_passable(target) or "#" in target:
        raise RefusedError(bad_request("the request target has characters that must be percent-encoded"))
    return target, host


def choose_request_id(headers: Headers, fresh: str) -> str:
    """The client's X-Request-ID when it is 1 to 128 visible ASCII characters, else `fresh`."""
    given = headers.get("X-Request-ID", "")
    return given if _REQUEST_ID.fullmatch(given) else fresh


def is_trusted(address: str | None, networks: Iterable[Network]) -> bool:
    """Whether forwarding headers from this address are believed."""
    try:
        peer = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    mapped = peer.ipv4_mapped if isinstance(peer, ipaddress.IPv6Address) else None
    return any((mapped or peer) in network for network in networks)


def request_headers(
    headers: Headers, *, host: str | None, scheme: str, peer: str | None, is_peer_trusted: bool, request_id: str
) -> CIMultiDict[str]:
    """What the instance is told: the client's headers, and who the client is.

    `host` replaces the Host header when the request target named one. `peer` is the address the request came from.
    """
    passed = _end_to_end(headers)
    if host is not None:
        passed["Host"] = host
    if not is_peer_trusted:
        for name in [name for name in passed if _tells_of_the_client(name)]:
            passed.popall(name, None)
    hops = [*passed.popall("X-Forwarded-For", []), peer or "unknown"]
    passed["X-Forwarded-For"] = ", ".join(hops)
    passed.setdefault("X-Forwarded-Proto", scheme)
    if "Host" in passed:
        passed.setdefault("X-Forwarded-Host", passed["Host"])
    passed["X-Request-ID"] = request_id
    return passed


def response_headers(headers: Headers, *, request_id: str, attempts_header: str, attempts: int) -> CIMultiDict[str]:
    """What the client is told: the app's headers, the request's id unless the app gave one, and the attempts."""
    passed = _end_to_end(headers)
    passed.setdefault("X-Request-ID", request_id)
    passed[attempts_header] = str(attempts)
    return passed


def websocket_protocols(headers: Headers) -> tuple[str, ...]:
    """The subprotocols a client offers, in its order of preference (RFC 6455 11.3.4)."""
    offered = (name.strip() for line in headers.getall("Sec-WebSocket-Protocol", ()) for name in line.split(","))
    return tuple(name for name in offered if name)


def check_passable(headers: Headers) -> None:
    """Raise `ValueError`, naming the header, for one that would not come out as it went in.

    Bytes outside UTF-8 would be lost without a word on their way through the HTTP library.
    """
    for name, value in headers.items():
        if not _is_passable(value):
            raise ValueError(f"the header {name} is not valid UTF-8")


def _is_passable(text: str) -> bool:
    if text.isascii():
        return True
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _end_to_end(headers: Headers) -> CIMultiDict[str]:
    named = {name.strip().lower() for line in headers.getall("Connection", ()) for name in line.split(",")}
    dropped = _HOP_BY_HOP | _WEBSOCKET_HANDSHAKE | (named - _NEVER_NAMED)
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


def _tells_of_the_client(name: str) -> bool:
    # Some frameworks cannot tell an underscore from a dash once a header is in their environment.
    plain = name.lower().replace("_", "-")
    return plain.startswith(_FORWARDING_PREFIX) or plain in _FORWARDING
