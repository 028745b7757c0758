"""Heads of requests and responses as they are passed on: pure bytes in, pure bytes out.

Everything that is between the two ends of one connection stays there; everything else passes unchanged, except what a
gateway has to say of the client. Each head is gone through once, with a look into a table for each name: most of the
work of a small request is here. Sources: RFC 9110 7.6.1 (hop-by-hop), RFC 9112 3.2 (request targets), 6.1 (framing).
"""

import functools
import re
from collections.abc import Iterable

from noctule.gateway.answers import ATTEMPTS_HEADER, Answer, RefusedError, bad_request
from noctule.gateway.model import HeaderRules
from noctule.gateway.networks import Network, is_in

Header = tuple[bytes, bytes]
"""A name as it was written, and its value without white space around it."""

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 9.2.2: doing it twice is doing it once."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""RFC 9110 9.2.1: the client asks for no change."""

# What a name is to us; everything that is none of these passes. 0 must stay that one: the loops ask for truth.
_PASSES, _DROPPED, _CONNECTION, _LENGTH, _CODING, _HOST, _EXPECT, _UPGRADE, _FORWARDING = range(9)
_HOPS, _REQUEST_ID, _TRACE, _ACCEPT_ENCODING, _DATE, _ATTEMPTS = range(9, 15)

_KINDS = {
    # RFC 9110 7.6.1, and the credentials for a proxy, which RFC 9110 11.7 ends at the proxy. Trailers are dropped, so
    # nothing that promises or asks for them passes either.
    b"connection": _CONNECTION,
    b"keep-alive": _DROPPED,
    b"proxy-authenticate": _DROPPED,
    b"proxy-authorization": _DROPPED,
    b"proxy-connection": _DROPPED,
    b"te": _DROPPED,
    b"trailer": _DROPPED,
    b"http2-settings": _DROPPED,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"host": _HOST,
    # Answered here: the gateway says "100 Continue" once it is willing to take the body.
    b"expect": _EXPECT,
    b"upgrade": _UPGRADE,
    # What apps read a client's address, scheme or host from.
    b"x-forwarded-for": _HOPS,
    b"forwarded": _FORWARDING,
    b"x-real-ip": _FORWARDING,
    b"x-client-ip": _FORWARDING,
    b"x-cluster-client-ip": _FORWARDING,
    b"true-client-ip": _FORWARDING,
    b"x-request-id": _REQUEST_ID,
    b"traceparent": _TRACE,
    b"accept-encoding": _ACCEPT_ENCODING,
    b"date": _DATE,
    ATTEMPTS_HEADER.lower(): _ATTEMPTS,
}

_BLANKS = frozenset((b" ", b"\t"))

# RFC 9110 7.6.1 forbids naming these in Connection; whoever does wants them lost between us and the app.
_NEVER_NAMED = frozenset({b"host", b"content-length", b"cache-control"})

_REQUEST_ID_PATTERN = re.compile(rb"[\x21-\x7e]{1,128}")
# W3C Trace Context 2.2; version ff and ids of zeros are invalid.
_TRACE_PATTERN = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_ABSOLUTE_TARGET = re.compile(rb"https?://(?P<authority>[^/?#]+)(?P<rest>.*)", re.IGNORECASE)
# RFC 3986 3.2: no user names, no spaces, nothing that ends a header or begins a path.
_HOST_PATTERN = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*")


class RequestHead:
    """A request's head, read: what is passed on, and what the gateway acts on."""

    host: bytes | None = None
    content_length: int | None = None
    is_chunked = False
    expects_continue = False
    is_websocket = False
    """Asks for an upgrade to WebSocket, the only one that is passed on."""
    has_forwarding = False
    request_id = b""
    """The client's, where it is a sane one."""
    trace = b""
    """The client's traceparent, where it is a valid one."""
    accept_encoding = b""
    forwarding: tuple[Header, ...] = ()
    """What tells of the client, but for X-Forwarded-For; to be believed from a trusted proxy only."""
    hops: tuple[bytes, ...] = ()
    """Values of X-Forwarded-For."""

    def __init__(self, method: str, target: bytes, version: str = "1.1") -> None:
        self.method = method
        self.target = target
        """Origin form: a path, and perhaps a query."""
        self.version = version
        self.headers: list[Header] = []
        """End to end, without Host, length, and all that tells of the client."""

    def again(self, target: bytes) -> "RequestHead":
        """The same head with another target, which must have been checked."""
        head = RequestHead.__new__(RequestHead)
        head.__dict__.update(self.__dict__)
        head.target = target
        return head

    @functools.cached_property
    def host_name(self) -> str:
        """`host` as text, empty where there is none."""
        return self.host.decode("ascii") if self.host is not None else ""

    @functools.cached_property
    def lines(self) -> bytes:
        """`headers` as they are passed on."""
        return lines_of(self.headers)

    def header(self, name: str) -> str | None:
        """The first value of a header by its lower-case name, None when there is none."""
        key = name.encode("ascii", "replace")
        if key == b"host":
            return None if self.host is None else self.host.decode()
        for found, value in self.headers:
            if found.lower() == key:
                return value.decode()
        return None

    @property
    def has_body(self) -> bool:
        """Whether a body follows, be it empty."""
        return self.is_chunked or bool(self.content_length)


def read_request(method: str, target: bytes, headers: Iterable[Header], *, version: str = "1.1") -> RequestHead:
    """The head of one request, checked; `RefusedError` (400, 405) for what two could read differently.

    The parser has refused before what is no HTTP at all: bare line feeds, folded lines, two lengths, NUL.
    """
    target, authority = split_target(target, method)
    head = RequestHead(method, target, version)
    passed = head.headers
    named: list[bytes] = []
    upgrade = b""
    for header in headers:
        name, value = header
        if not value.isascii():
            _check_text(name, value)
        if value[-1:] in _BLANKS:
            value = value.rstrip(b" \t")
            header = name, value
        kind = _kind(name)
        if not kind or kind >= _DATE:
            passed.append(header)
        elif kind == _HOST:
            if head.host is not None:
                raise RefusedError(bad_request("the request has more than one Host header"))
            head.host = value
        elif kind == _LENGTH:
            if head.content_length is not None:
                raise RefusedError(bad_request("the request has more than one Content-Length"))
            head.content_length = int(value)
        elif kind == _CODING:
            _read_coding(head, value, version)
        elif kind == _CONNECTION:
            named += [token.strip().lower() for token in value.split(b",")]
        elif kind == _EXPECT:
            head.expects_continue = value.lower() == b"100-continue"
        elif kind == _UPGRADE:
            upgrade = value.lower()
        elif kind == _HOPS:
            head.hops = (*head.hops, value)
            head.has_forwarding = True
        elif kind == _FORWARDING:
            head.forwarding = (*head.forwarding, (name, value))
            head.has_forwarding = True
        elif kind == _REQUEST_ID:
            head.request_id = value if _REQUEST_ID_PATTERN.fullmatch(value) else b""
        elif kind == _TRACE:
            head.trace = value if _TRACE_PATTERN.fullmatch(value) else b""
        elif kind == _ACCEPT_ENCODING:
            head.accept_encoding = head.accept_encoding + b"," + value if head.accept_encoding else value
            passed.append(header)
    if named:
        head.headers = [header for header in passed if not _is_named(header[0], named)]
        head.is_websocket = upgrade == b"websocket" and b"upgrade" in named and method == "GET" and version == "1.1"
    if authority is not None:
        head.host = authority
    _check_whole(head)
    return head


class HeadReader:
    """Reads the heads of one connection's requests, as `read_request` does.

    Most clients say the same with each request but for the target; then it costs a comparison.
    """

    __slots__ = ("_head", "_headers")

    def __init__(self) -> None:
        self._head: RequestHead | None = None
        self._headers: list[Header] = []

    def read(self, method: str, target: bytes, headers: list[Header], version: str) -> RequestHead:
        """One more; the list is not to be changed any more."""
        before = self._head
        if (
            before is not None
            and headers == self._headers
            and method == before.method
            and version == before.version
            and target.startswith(b"/")
        ):
            return before.again(split_target(target)[0])
        head = read_request(method, target, headers, version=version)
        # A host that came with the target is none of the headers.
        self._head = head if target.startswith(b"/") else None
        self._headers = headers
        return head


def split_target(target: bytes, method: str = "GET") -> tuple[bytes, bytes | None]:
    """The request target to pass on, byte for byte, and the host when the target names one (RFC 9112 3.2.1, 3.2.2).

    `RefusedError` for every other form (405 for CONNECT), and for characters that a target cannot have.
    """
    if method == "CONNECT":
        raise RefusedError(Answer(405, "method_not_allowed", "CONNECT is for forward proxies; this is a gateway"))
    host = None
    if not target.startswith(b"/"):
        if match := _ABSOLUTE_TARGET.fullmatch(target):
            host = match["authority"]
            target = match["rest"] if match["rest"].startswith(b"/") else b"/" + match["rest"]
        else:
            raise RefusedError(bad_request("the request target must be a path such as /page, or an http URL"))
    if b"#" in target or not (target.isascii() or _is_utf8(target)):
        raise RefusedError(bad_request("the request target has characters that must be percent-encoded"))
    return target, host


def client_address(head: RequestHead, peer: str, networks: Iterable[Network]) -> str:
    """Who asks: the peer, or behind trusted proxies the last hop that is none of them."""
    if not head.hops or not is_in(peer, networks):
        return peer
    hops = [hop.strip().decode("ascii", "replace") for line in head.hops for hop in line.split(b",")]
    for hop in reversed(hops):
        if not is_in(hop, networks):
            return hop or peer
    return hops[0] or peer


def request_lines(
    head: RequestHead,
    *,
    instance: bytes,
    scheme: bytes,
    peer: str,
    client: str,
    is_peer_trusted: bool,
    request_id: bytes,
    trace: bytes,
) -> bytes:
    """The lines that tell the instance: Host first, the client's headers, and who the client is.

    `instance` is its address, the host of a client of HTTP/1.0 that names none. `peer` is the address the request came
    from, `client` that of who asked (see `client_address`); `request_id` and `trace` stand for what the client did not
    give.
    """
    if is_peer_trusted and head.has_forwarding:
        client_lines = lines_of(_forwarding(head, scheme, peer.encode(), client.encode()))
    else:
        client_lines = _client_lines(head.host, scheme, peer)
    host = head.host if head.host is not None else instance
    ids = head.request_id or request_id, head.trace or trace
    return b"Host: %b\r\n%b%bX-Request-ID: %b\r\ntraceparent: %b\r\n" % (host, head.lines, client_lines, *ids)


@functools.lru_cache(maxsize=1024)
def _client_lines(host: bytes | None, scheme: bytes, peer: str) -> bytes:
    """What is said of a client for which nobody speaks: the same for all its requests."""
    address = peer.encode()
    told = [(b"X-Real-IP", address), (b"X-Forwarded-For", address), (b"X-Forwarded-Proto", scheme)]
    if host is not None:
        told.append((b"X-Forwarded-Host", host))
    return lines_of(told)


def _forwarding(head: RequestHead, scheme: bytes, peer: bytes, client: bytes) -> list[Header]:
    """What a trusted proxy said of its client, with the proxy as one more hop."""
    proto, host = scheme, head.host
    told: list[Header] = []
    for name, value in head.forwarding:
        key = name.lower()
        if key == b"x-forwarded-proto":
            proto = value
        elif key == b"x-forwarded-host":
            host = value
        elif key != b"x-real-ip":
            told.append((name, value))
    told.append((b"X-Real-IP", client))
    told.append((b"X-Forwarded-For", b", ".join([*head.hops, peer])))
    told.append((b"X-Forwarded-Proto", proto))
    if host is not None:
        told.append((b"X-Forwarded-Host", host))
    return told


class ResponseHead:
    """A response's head, read."""

    content_length: int | None = None
    is_chunked = False
    has_date = False
    has_request_id = False

    def __init__(self, status: int, reason: bytes) -> None:
        self.status = status
        self.reason = reason
        self.headers: list[Header] = []
        """End to end, without the length."""

    def value(self, name: bytes) -> bytes:
        """Of a header by its lower-case name; several of one name joined by commas, empty when there is none."""
        return b", ".join([value for found, value in self.headers if found.lower() == name])

    @property
    def is_to_the_end(self) -> bool:
        """Whether a body ends with its connection."""
        return not self.is_chunked and self.content_length is None


def read_response(status: int, reason: bytes, headers: Iterable[Header]) -> ResponseHead:
    """The head of one response; `ValueError`, saying what, for one that cannot be passed on.

    Also for a transfer coding other than chunked: who does not know it cannot know where the response ends.
    """
    if not 100 <= status <= 599:
        raise ValueError(f"its status is {status}")
    head = ResponseHead(status, _printable(reason))
    passed = head.headers
    named: list[bytes] = []
    for header in headers:
        name, value = header
        if not value.isascii() and not _is_utf8(value):
            raise ValueError(f"the header {name.decode('ascii', 'replace')} is not valid UTF-8")
        if value[-1:] in _BLANKS:
            value = value.rstrip(b" \t")
            header = name, value
        kind = _kind(name)
        if not kind:
            passed.append(header)
        elif kind == _LENGTH:
            head.content_length = int(value)
        elif kind == _CODING:
            if value.lower() != b"chunked":
                raise ValueError("its transfer coding is not chunked")
            head.is_chunked = True
        elif kind == _CONNECTION:
            named += [token.strip().lower() for token in value.split(b",")]
        elif kind in (_DROPPED, _UPGRADE, _ATTEMPTS):
            pass
        else:
            head.has_date = head.has_date or kind == _DATE
            head.has_request_id = head.has_request_id or kind == _REQUEST_ID
            passed.append(header)
    if named:
        head.headers = [header for header in passed if not _is_named(header[0], named)]
    return head


def response_headers(head: ResponseHead, *, request_id: bytes, attempts: int) -> list[Header]:
    """What the client is told: the app's headers, the request's id unless the app gave one, and the attempts."""
    told = head.headers
    if not head.has_request_id:
        told.append((b"X-Request-ID", request_id))
    told.append((ATTEMPTS_HEADER, b"1" if attempts == 1 else b"%d" % attempts))
    return told


def lines_of(headers: Iterable[Header]) -> bytes:
    """Headers as they are written, each with its line's end."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def headers_of(lines: bytes) -> list[Header]:
    """What `lines_of` made lines of."""
    found = (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])
    return [(name, value) for name, _, value in found]


def apply_rules(headers: list[Header], rules: HeaderRules) -> list[Header]:
    """Headers as a route wants them: remove, set, add, in this order."""
    if not (rules.remove or rules.set or rules.add):
        return headers
    gone = {name.lower().encode() for name in (*rules.remove, *rules.set)}
    kept = [header for header in headers if header[0].lower() not in gone]
    said = [*rules.set.items(), *rules.add.items()]
    return kept + [(name.encode("ascii"), value.encode()) for name, value in said]


@functools.lru_cache(maxsize=1024)
def _kind(name: bytes) -> int:
    key = name.lower()
    # Some frameworks cannot tell an underscore from a dash once a header is in their environment.
    plain = key.replace(b"_", b"-")
    if plain != key:
        is_forwarding = _KINDS.get(plain) in (_FORWARDING, _HOPS) or plain.startswith(b"x-forwarded-")
        return _FORWARDING if is_forwarding else _PASSES
    return _KINDS.get(key, _FORWARDING if key.startswith(b"x-forwarded-") else _PASSES)


@functools.lru_cache(maxsize=256)
def _printable(reason: bytes) -> bytes:
    """A reason phrase, or none where it is no text."""
    return reason if reason.isascii() and reason.decode("ascii").isprintable() else b""


def _read_coding(head: RequestHead, value: bytes, version: str) -> None:
    # HTTP/1.0 has no transfer codings, so whoever reads that request by its version sees another end (RFC 9112 6.1).
    if version != "1.1":
        raise RefusedError(bad_request("Transfer-Encoding needs HTTP/1.1"))
    if value.lower() != b"chunked":
        raise RefusedError(bad_request("the only transfer coding spoken here is chunked"))
    head.is_chunked = True


def _check_whole(head: RequestHead) -> None:
    if head.is_chunked and head.content_length is not None:
        raise RefusedError(bad_request("the request has both Content-Length and Transfer-Encoding"))
    if head.host is None:
        if head.version != "1.0":
            raise RefusedError(bad_request("the request has no Host header"))
    elif not _is_host(head.host):
        raise RefusedError(bad_request("the request's host is not a host"))
    if head.is_websocket and head.has_body:
        raise RefusedError(bad_request("a WebSocket handshake has no body"))


def _check_text(name: bytes, value: bytes) -> None:
    if not _is_utf8(value):
        raise RefusedError(bad_request(f"the header {name.decode('ascii', 'replace')} is not valid UTF-8"))


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


@functools.lru_cache(maxsize=256)
def _is_host(host: bytes) -> bool:
    return _HOST_PATTERN.fullmatch(host) is not None


def _is_named(name: bytes, named: list[bytes]) -> bool:
    key = name.lower()
    return key in named and key not in _NEVER_NAMED
