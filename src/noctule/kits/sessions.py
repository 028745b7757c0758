"""Web sessions for any ASGI app, kept in the store, so that every instance serves every visitor.

    app.add_middleware(Sessions, secure=True)
    request.session["name"] = "Ada"

One read of the store for a request that brings a session cookie, none for one that does not; one round trip to save,
and only when something changed. `session_state.py` decides what is written and why nothing revives a dead session;
`docs/guides/sessions.md` shows the use.
"""

import logging
from collections.abc import Callable
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, NoctuleError, OutcomeUnknownError, RequestError
from noctule.kits.asgi import App, Message, Receive, Scope, Send, error_body, header_values, send_json
from noctule.kits.session_cookie import SameSite, SessionCookie, new_session_id, read_session_id, session_digest
from noctule.kits.session_state import DEAD, SavePlan, Session, StoredSession, read_stored
from noctule.kits.store import connect, retrying_idempotent

__all__ = ["Session", "Sessions"]

TOMBSTONE_TTL_S = 3600
"""How long a dead session is remembered: longer than any request or delayed packet that could still write to it."""

RETRY_AFTER_S = 1
"""What a client is told when the store is away."""

ANSWER_TIMEOUT_S = 2.0
"""For one command, when the kit makes the client itself: two attempts fit into the retry budget."""

log = logging.getLogger("noctule.kits.sessions")


class Sessions:
    """ASGI middleware: ``scope["session"]`` is a `Session` in every HTTP and WebSocket request.

    `store` is a client, a URL, or None for the environment's NOCTULE_STORE_URL (see `store.connect`); a client that
    was handed in must give bytes and stays the caller's to close. `ttl_s` counts from the last request. The cookie's
    options are told in `SessionCookie`. Keys in the store are ``<prefix>{<SHA-256 of the id>}``. `clock`
    decides only when a time to live is renewed.

    An id that the store does not know is never adopted: the first write makes a new one. A WebSocket reads its session
    and cannot change it. While the store is away a request with a session cookie is answered 503 with Retry-After and
    the app is not called; when a save fails the app's response is replaced by 503, whose outcome is ``unknown``.
    An app that raises or answers 5xx changes nothing in the session.
    Raises `ConfigError` for options that cannot work.
    """

    def __init__(
        self,
        app: App,
        *,
        store: Redis | str | None = None,
        cookie_name: str = "session",
        ttl_s: int = 14 * 24 * 3600,
        secure: bool = False,
        same_site: SameSite = "lax",
        path: str = "/",
        domain: str | None = None,
        prefix: str = "session:",
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        self._app = app
        self._cookie = SessionCookie(cookie_name, ttl_s, secure, same_site, path, domain)
        self._cookie.validate()
        self._owns_store = store is None or isinstance(store, str)
        if store is None or isinstance(store, str):
            store = connect(store, answer_timeout_s=ANSWER_TIMEOUT_S)
        if store.get_encoder().decode_responses:  # type: ignore[no-untyped-call]
            raise ConfigError(
                "the store client handed to Sessions must give bytes: connect it with decode_responses=False"
            )
        self._store = store
        self._prefix = prefix
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            try:
                await self._app(scope, receive, send)
            finally:
                if self._owns_store:
                    await self._store.aclose()
            return
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        session_id = read_session_id(scope["headers"], self._cookie.name)
        try:
            session = Session(await self._load(session_id) if session_id else None, new_session_id)
        except NoctuleError as error:
            log.warning("session_load_failed", extra={"reason": str(error)})
            await _refuse(scope, send)
            return
        scope["session"] = session
        if scope["type"] == "websocket":
            session.close("a WebSocket only reads it")
            await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, _SavingSend(send, lambda: self._save(session)))

    async def _load(self, session_id: str) -> StoredSession | None:
        key = self._key(session_id)
        raw = await retrying_idempotent(lambda: cast("Any", self._store.hgetall(key)), writes=False)
        return read_stored(session_id, raw)

    async def _save(self, session: Session) -> list[tuple[bytes, bytes]]:
        """Write what changed; give the headers that the response needs for it.

        Raises `OutcomeUnknownError` for the store's failures, `RequestError` for what the app put into the session.
        """
        session.close("it was saved when the response started")
        plan = session.plan(self._clock.wall_ms() // 1000)
        try:
            if plan.touch_only:
                plan = await self._touch(plan)
            elif plan.write_id:
                await retrying_idempotent(lambda: self._write(plan), writes=True)
            if plan.dead:
                dead = plan.dead
                await retrying_idempotent(lambda: self._bury(dead), writes=True)
        except RequestError as error:
            raise OutcomeUnknownError(str(error)) from error
        headers = [(b"vary", b"Cookie")] if session.accessed else []
        if plan.cookie_id:
            headers.append((b"set-cookie", self._cookie.render(plan.cookie_id)))
        elif plan.forget_cookie:
            headers.append((b"set-cookie", self._cookie.render_removal()))
        return headers

    async def _touch(self, plan: SavePlan) -> SavePlan:
        """Renew the time to live, once: losing it costs a minute of life, so it delays and fails no response."""
        try:
            await self._write(plan)
        except RedisError as error:
            log.warning("session_touch_failed", extra={"reason": type(error).__name__})
            return SavePlan()
        return plan

    async def _write(self, plan: SavePlan) -> None:
        # The time to live goes with every write: a hash that expired just now would be created anew without one.
        key = self._key(plan.write_id or "")
        mapping: dict[Any, Any] = {**plan.changed}
        async with self._store.pipeline(transaction=False) as pipeline:
            if mapping:
                pipeline.hset(key, mapping=mapping)
            if plan.removed:
                pipeline.hdel(key, *plan.removed)
            pipeline.expire(key, self._cookie.max_age_s)
            _raise_first(await pipeline.execute(raise_on_error=False))

    async def _bury(self, dead: StoredSession) -> None:
        key = self._key(dead.id)
        async with self._store.pipeline(transaction=False) as pipeline:
            pipeline.hset(key, mapping={DEAD: b"1"})
            if dead.fields:
                pipeline.hdel(key, *dead.fields)
            pipeline.expire(key, TOMBSTONE_TTL_S)
            _raise_first(await pipeline.execute(raise_on_error=False))

    def _key(self, session_id: str) -> str:
        return f"{self._prefix}{{{session_digest(session_id)}}}"


class _SavingSend:
    """The app's `send`, which saves before the response starts; after a failed save the app speaks to nobody."""

    def __init__(self, send: Send, save: Callable[[], Any]) -> None:
        self._send = send
        self._save = save
        self._refused = False

    async def __call__(self, message: Message) -> None:
        if self._refused:
            return
        if message["type"] == "http.response.start" and message["status"] < 500:
            try:
                headers = await self._save()
            except NoctuleError as error:
                self._refused = True
                await self._answer(error)
                return
            message = {**message, "headers": _merged(list(message.get("headers", ())), headers)}
        await self._send(message)

    async def _answer(self, error: NoctuleError) -> None:
        log.error("session_save_failed", extra={"code": error.code, "reason": str(error)})
        if not isinstance(error, OutcomeUnknownError):
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


def _merged(headers: list[tuple[bytes, bytes]], ours: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    # RFC 9111 7.3: Set-Cookie alone does not keep a shared cache from handing the response to somebody else.
    sets_cookie = bool(header_values(ours, b"set-cookie"))
    if sets_cookie and not header_values(headers, b"cache-control"):
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


def _raise_first(results: list[Any]) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise result
