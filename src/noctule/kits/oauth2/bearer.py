"""Bearer tokens at the door of any ASGI app (RFC 6750): HTTP requests and WebSocket handshakes.

    app = BearerAuth(app, checks, public=("/health",))
    token = scope["auth"]  # an AccessToken, or None where the path is public and none was brought

A WebSocket of a browser, which can set no header, brings its token as one of the subprotocols, ``bearer.<token>``; the
app does not see that one. A WebSocket ends with its token: at the next message once it has expired or was revoked.
"""

import logging
from collections.abc import Sequence

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, NoctuleError
from noctule.kits.asgi import App, Message, Receive, Scope, Send, error_body, header_values, send_json
from noctule.kits.jwt.claims import AccessToken
from noctule.kits.oauth2.checks import Checks
from noctule.kits.oauth2.errors import InvalidRequestError, OAuth2Error

RETRY_AFTER_S = 1
SUBPROTOCOL = "bearer."
POLICY_VIOLATION = 1008  # RFC 6455 7.4.1.
TRY_AGAIN_LATER = 1013

log = logging.getLogger("noctule.kits.oauth2")


class BearerAuth:
    """ASGI middleware: the app is called with a good token only, but for `public` paths and what is below them.

    ``/`` is the root page alone, as nobody means all paths by it. A bad token is refused on public paths as well.
    `checks` begin with the app's lifespan, or with the first request. Raises `ConfigError` for a path that is none.
    """

    def __init__(
        self,
        app: App,
        checks: Checks,
        *,
        public: Sequence[str] = (),
        realm: str = "",
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        if not all(prefix.startswith("/") for prefix in public):
            raise ConfigError("bearer tokens: each public path begins with a slash, as in /health")
        self._app = app
        self._checks = checks
        self._public = tuple(prefix.rstrip("/") or "/" for prefix in public)
        self._realm = realm
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            self._checks.start()
            try:
                await self._app(scope, receive, send)
            finally:
                await self._checks.aclose()
            return
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        self._checks.start()
        try:
            scope["auth"] = token = await self._token(scope)
        except OAuth2Error as error:
            await refuse(scope, send, error, self._realm)
            return
        except NoctuleError as error:
            log.warning("access_token_not_checked", extra={"reason": str(error)})
            await _unavailable(scope, send)
            return
        if token is None and not self._is_public(scope["path"]):
            await refuse(scope, send, None, self._realm)
        elif token is not None and scope["type"] == "websocket":
            guard = _Guard(self._checks, token, self._clock, receive, send)
            await self._app(scope, guard.receive, guard.send)
        else:
            await self._app(scope, receive, send)

    async def _token(self, scope: Scope) -> AccessToken | None:
        text = _text(scope)
        return None if text is None else await self._checks.check(text)

    def _is_public(self, path: str) -> bool:
        return any(path == prefix or (prefix != "/" and path.startswith(f"{prefix}/")) for prefix in self._public)


async def refuse(scope: Scope, send: Send, error: OAuth2Error | None, realm: str = "", scope_needed: str = "") -> None:
    """Answer 401 or 403 with a challenge (RFC 6750 3); without an error, that a token is needed."""
    status = error.status if error is not None else 401
    text = str(error) if error is not None else "an access token is needed"
    body = error_body(error.code if error else "unauthorized", text, retryable=False, outcome="not_applied")
    headers = [(b"www-authenticate", challenge(error, realm, scope_needed).encode("latin-1"))]
    if scope["type"] == "http":
        await send_json(send, status, body, headers)
    elif "websocket.http.response" in scope.get("extensions", {}):
        await send_json(send, status, body, headers, kind="websocket.http")
    else:
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": text[:100]})


def challenge(error: OAuth2Error | None, realm: str = "", scope_needed: str = "") -> str:
    """The value of WWW-Authenticate."""
    fields = {"realm": realm}
    if error is not None:  # RFC 6750 3.1: who brought no token is not told of an error.
        fields |= {"error": error.code, "error_description": str(error), "scope": scope_needed}
    said = ", ".join(f'{name}="{value}"' for name, value in fields.items() if value)
    return f"Bearer {said}" if said else "Bearer"


def _text(scope: Scope) -> str | None:
    """The token that was brought. Raises `InvalidRequestError` for two (RFC 6750 2)."""
    found = []
    for value in header_values(scope["headers"], b"authorization"):
        scheme, _, text = value.partition(b" ")
        if scheme.lower() == b"bearer":
            found.append(text.strip().decode("latin-1"))
    if scope["type"] == "websocket":
        offered = scope.get("subprotocols", [])
        found += [each[len(SUBPROTOCOL) :] for each in offered if each.startswith(SUBPROTOCOL)]
        scope["subprotocols"] = [each for each in offered if not each.startswith(SUBPROTOCOL)]
    if len(found) > 1:
        raise InvalidRequestError("more than one access token was brought")
    return found[0] if found else None


class _Guard:
    """The app's side of a WebSocket, which closes when its token is no longer good."""

    def __init__(self, checks: Checks, token: AccessToken, clock: Clock, receive: Receive, send: Send) -> None:
        self._checks = checks
        self._token = token
        self._clock = clock
        self._receive = receive
        self._send = send
        self._code = 0
        """With which it was closed from here; 0 while it is open."""

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.receive" and await self._is_over():
            return {"type": "websocket.disconnect", "code": self._code, "reason": ""}
        return message

    async def send(self, message: Message) -> None:
        # The app learns of the end by its next receive.
        if message["type"] == "websocket.send" and await self._is_over():
            return
        if not self._code:
            await self._send(message)

    async def _is_over(self) -> bool:
        if self._code:
            return True
        try:
            is_alive = not self._token.is_expired(self._clock.wall_ms() / 1000) and await self._checks.is_alive(
                self._token
            )
            self._code = 0 if is_alive else POLICY_VIOLATION
        except NoctuleError:
            self._code = TRY_AGAIN_LATER
        if self._code:
            await self._send({"type": "websocket.close", "code": self._code, "reason": "the access token is over"})
        return bool(self._code)


async def _unavailable(scope: Scope, send: Send) -> None:
    text = "it cannot be told whether the access token is good; try again"
    body = error_body("unavailable", text, retryable=True, outcome="not_applied")
    headers = [(b"retry-after", str(RETRY_AFTER_S).encode())]
    if scope["type"] == "http":
        await send_json(send, 503, body, headers)
    elif "websocket.http.response" in scope.get("extensions", {}):
        await send_json(send, 503, body, headers, kind="websocket.http")
    else:
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "tokens cannot be checked"})
