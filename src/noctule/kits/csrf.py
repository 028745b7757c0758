"""Forms that only our own pages can post: tokens bound to the session, and what browsers say of a request's origin.

    app.add_middleware(SameOrigin)                          # all requests that change something
    {"token": csrf_token(request.session)}                  # into the form
    check_csrf(request.scope, request.session, token)       # where it arrives; 403 when it raises

The origin alone stops every browser of the last years; the token does not depend on it, nor on SameSite cookies.
"""

import base64
import binascii
import secrets
from collections.abc import Sequence
from urllib.parse import urlsplit

from noctule.base.errors import ConfigError, RequestError
from noctule.kits.asgi import App, Headers, Receive, Scope, Send, error_body, header_values, send_json
from noctule.kits.session_state import Session

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
"""RFC 9110 9.2.1: these change nothing, or the app is wrong."""
SALT_BYTES = 16
TOKEN_BYTES = SALT_BYTES + 32

_LABEL = b"csrf\0"


class CsrfError(RequestError):
    """The request was not made by a page of this app, in this session: answer 403."""

    code = "csrf"


def csrf_token(session: Session, purpose: str = "") -> str:
    """A token for a form of this session, 64 characters; another one each time, for compression tells repeated secrets.

    Good as long as the session keeps its id: signing in and out ends it. `purpose` binds it to more, such as the id of
    one form. Begins no session: a visitor who has none gets a cookie with this response that the token is bound to, and
    nothing is kept. Raises `RequestError` when that response has started.
    """
    salt = secrets.token_bytes(SALT_BYTES)
    return base64.urlsafe_b64encode(salt + session.seal(_message(salt, purpose))).decode()


def is_csrf_token(session: Session, token: str, purpose: str = "") -> bool:
    """Whether `csrf_token` gave it, in this session or to this browser before it began, and for this purpose."""
    try:
        raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(raw) == TOKEN_BYTES and session.is_sealed(_message(raw[:SALT_BYTES], purpose), raw[SALT_BYTES:])


def check_csrf(
    scope: Scope, session: Session, token: str, purpose: str = "", *, trusted_origins: Sequence[str] = ()
) -> None:
    """Raise `CsrfError` unless the request comes from a page of this app, with a token that `is_csrf_token` knows."""
    if is_foreign(scope, trusted_origins):
        raise CsrfError("this request comes from another site")
    if not is_csrf_token(session, token, purpose):
        raise CsrfError("this form is no longer valid; load its page again")


def is_foreign(scope: Scope, trusted_origins: Sequence[str] = ()) -> bool:
    """Whether a browser says that another site made this request; False when it says nothing.

    Sec-Fetch-Site counts first (Fetch Metadata; no page can set it), then Origin, whose host must be that of the
    request: a gateway has to pass Host on. `trusted_origins`: such as ``https://www.example.org``.
    """
    headers: Headers = scope["headers"]
    origins = [value.decode("latin-1") for value in header_values(headers, b"origin")]
    if any(origin in trusted_origins for origin in origins):
        return False
    sites = header_values(headers, b"sec-fetch-site")
    if sites:
        return any(site not in (b"same-origin", b"none") for site in sites)
    hosts = {host.decode("latin-1").lower() for host in header_values(headers, b"host")}
    # Whoever is on the network can make a page of http: on this host. A gateway that ends TLS may leave http in scope.
    is_secure = scope.get("scheme") in ("https", "wss")
    return any(_host_of(origin) not in hosts or (is_secure and origin.startswith("http:")) for origin in origins)


def is_browser(scope: Scope) -> bool:
    """Whether the request names its origin, as every browser does when it posts. A program that does not carries no
    visitor's cookie by accident."""
    return any(header_values(scope["headers"], name) for name in (b"origin", b"sec-fetch-site"))


class SameOrigin:
    """ASGI middleware: answers 403 to what other sites' pages ask for, by any method that may change something, and to
    their WebSockets. Pages of `trusted_origins` may. Raises `ConfigError`."""

    def __init__(self, app: App, *, trusted_origins: Sequence[str] = ()) -> None:
        for origin in trusted_origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
                raise ConfigError(f"trusted origin {origin!r} must be a scheme and a host, as in https://example.org")
        self._app = app
        self._trusted = tuple(trusted_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        changes = scope["type"] == "websocket" or (scope["type"] == "http" and scope["method"] not in SAFE_METHODS)
        if not changes or not is_foreign(scope, self._trusted):
            await self._app(scope, receive, send)
            return
        body = error_body("csrf", "this request comes from another site", retryable=False, outcome="not_applied")
        if scope["type"] == "http":
            await send_json(send, 403, body)
        else:
            # RFC 6455 7.4.1: 1008 is a policy that the message violates; before the handshake it becomes a 403.
            await send({"type": "websocket.close", "code": 1008, "reason": "another site"})


def _message(salt: bytes, purpose: str) -> bytes:
    return _LABEL + salt + purpose.encode(errors="surrogatepass")


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()  # "null", of sandboxed pages, has none.
    except ValueError:
        return ""
