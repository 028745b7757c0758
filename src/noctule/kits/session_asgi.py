"""How sessions stand between a server and an app: opened before the request, kept before the response starts."""

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from noctule.base.errors import NoctuleError, OutcomeUnknownError, RequestError
from noctule.kits.asgi import App, Message, Receive, Scope, Send, error_body, header_values, send_json
from noctule.kits.session_state import Session, SessionAwayError, SessionConflictError

RETRY_AFTER_S = 1
"""What a client is told when the store is away."""

DEGRADED_HEADER = (b"noctule-session", b"degraded")
"""Of a response that was made without looking at the visitor's session, since the store was away."""

HeaderList = list[tuple[bytes, bytes]]
log = logging.getLogger("noctule.kits.sessions")


class Keeper(Protocol):
    """Where sessions are kept."""

    async def open(self, scope: Scope) -> Session:
        """The session of a request; raises `NoctuleError` when it cannot be told."""

    async def keep(self, session: Session, scope: Scope) -> HeaderList:
        """Keep what the request did to it; the headers that the response needs for it. Raises `NoctuleError`."""


async def serve(app: App, keeper: Keeper, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one HTTP or WebSocket connection with ``scope["session"]``."""
    try:
        session = await keeper.open(scope)
    except NoctuleError as error:
        log.warning("session_load_failed", extra={"reason": str(error)})
        await _refuse(scope, send)
        return
    scope["session"] = session
    if scope["type"] == "websocket":
        session.close("a WebSocket only reads it")
        await app(scope, receive, send)
        return
    saving = _SavingSend(send, session, lambda: keeper.keep(session, scope))
    try:
        await app(scope, receive, saving)
    except SessionAwayError:
        if saving.has_started:
            raise
        await _refuse(scope, send)


class _SavingSend:
    """The app's `send`, which saves before the response starts; after a failed save the app speaks to nobody."""

    def __init__(self, send: Send, session: Session, save: Callable[[], Awaitable[HeaderList]]) -> None:
        self.has_started = False
        self._send = send
        self._session = session
        self._save = save
        self._is_refused = False

    async def __call__(self, message: Message) -> None:
        if self._is_refused:
            return
        if message["type"] == "http.response.start":
            self.has_started = True
            ours: HeaderList = []
            if self._session.is_degraded:
                ours.append(DEGRADED_HEADER)
            elif message["status"] < 500:
                self._session.close("it was saved when the response started")
                try:
                    ours = await self._save()
                except NoctuleError as error:
                    self._is_refused = True
                    await self._answer(error)
                    return
            if self._session.accessed and message["status"] < 500:
                ours.append((b"vary", b"Cookie"))
            message = {**message, "headers": merged(list(message.get("headers", ())), ours)}
        await self._send(message)

    async def _answer(self, error: NoctuleError) -> None:
        if isinstance(error, SessionConflictError):
            log.info("session_conflict")
            body = error_body(error.code, str(error), retryable=True, outcome="unknown")
            await send_json(self._send, 409, body)
            return
        log.error("session_save_failed", extra={"code": error.code, "reason": str(error)})
        if isinstance(error, RequestError):
            # The app put more into the session than fits: a fault of the app, which waiting does not mend.
            body = error_body("internal", "the session could not be saved", retryable=False, outcome="unknown")
            await send_json(self._send, 500, body)
            return
        body = error_body(
            OutcomeUnknownError.code,
            "the session could not be saved; what the request did otherwise may have taken effect",
            retryable=False,
            outcome="unknown",
        )
        await send_json(self._send, 503, body)


def merged(headers: HeaderList, ours: HeaderList) -> HeaderList:
    """A response's headers with those of a kit, which no shared cache may keep when they are somebody's own."""
    # RFC 9111 7.3: Set-Cookie alone does not keep a shared cache from handing the response to somebody else. What was
    # made without the session is for nobody to keep.
    is_personal = bool(header_values(ours, b"set-cookie")) or DEGRADED_HEADER in ours
    if is_personal and not header_values(headers, b"cache-control"):
        ours = [*ours, (b"cache-control", b"no-store")]
    return headers + ours


async def _refuse(scope: Scope, send: Send) -> None:
    body = error_body("unavailable", "the session store is away; try again", retryable=True, outcome="not_applied")
    headers = [(b"retry-after", str(RETRY_AFTER_S).encode())]
    if scope["type"] == "http":
        await send_json(send, 503, body, headers)
    elif "websocket.http.response" in scope.get("extensions", {}):
        await send_json(send, 503, body, headers, kind="websocket.http")
    else:
        # RFC 6455 7.4.1 and its IANA registry: 1013 is "try again later".
        await send({"type": "websocket.close", "code": 1013, "reason": "session store away"})
