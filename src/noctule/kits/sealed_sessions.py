"""Sessions without a store: the whole session is in the cookie, sealed, and any instance can open it.

    app.add_middleware(SealedSessions, keys=KeyRing.parse(os.environ["SESSION_KEYS"]), users=None)

Nothing is kept on the server, so nothing can be taken back there: logout only asks the browser to forget, a copied
cookie is good until it ends, and of two requests at once the later cookie wins. With `users` one thing can be taken
back: a user's sessions of before a moment, by the user's epoch in the store. When that matters, use `Sessions`.
"""

import base64
import binascii
import logging
from typing import Literal

import msgspec
from redis.exceptions import RedisError

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, NoctuleError, StorageError, TooLargeError
from noctule.kits.asgi import App, Receive, Scope, Send
from noctule.kits.pre_session import PreSession
from noctule.kits.session_asgi import HeaderList, serve
from noctule.kits.session_cookie import SameSite, cookie_values, new_session_id, session_handle
from noctule.kits.session_seal import KeyRing
from noctule.kits.session_state import Session, StoredSession
from noctule.kits.session_users import About, UserSessions
from noctule.kits.sessions import cookie_of

COOKIE_CHARACTERS_MAX = 3_800
"""Browsers keep 4096 bytes of a cookie with its name and attributes (RFC 6265 6.1)."""
IDLE_S = 24 * 3600
ABSOLUTE_S = 7 * 24 * 3600

OnEpochLoss = Literal["refuse", "accept"]

log = logging.getLogger("noctule.kits.sessions")


class _Content(msgspec.Struct):
    """What the cookie holds, in JSON."""

    id: str
    born_ms: int
    touched_ms: int
    values: dict[str, msgspec.Raw]
    user: str | None = None
    epoch: int = 0


class SealedSessions:
    """ASGI middleware: ``scope["session"]`` is a `Session`, as with `Sessions`, kept in the cookie alone.

    A session ends `idle_s` after its last request and `absolute_s` after its first, by the instances' clocks, which
    should agree to the minute. `users`: where epochs of users are kept, so that `UserSessions.end_all` ends sealed
    sessions too, on every instance within the `epoch_age_s` that it was made with; None says that nothing can be taken
    back. `on_epoch_loss`: whether signed-in sessions are refused with 503, or accepted unchecked, while that store is
    away. The other options are those of `Sessions`. Raises `ConfigError`.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: KeyRing,
        users: UserSessions | None,
        on_epoch_loss: OnEpochLoss = "refuse",
        idle_s: int = IDLE_S,
        absolute_s: int = ABSOLUTE_S,
        plain_http: bool | None = None,
        cookie_name: str | None = None,
        same_site: SameSite = "lax",
        path: str = "/",
        domain: str | None = None,
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        if on_epoch_loss not in ("refuse", "accept") or absolute_s < idle_s:
            raise ConfigError("sealed sessions: on_epoch_loss must be refuse or accept, absolute_s idle_s or more")
        if keys.accepts_plain:
            # In a store only our own writing is plain; a cookie is whatever the visitor writes.
            raise ConfigError(
                "sealed sessions: keys must not be made with accept_plain, or anybody signs in as anybody"
            )
        self._app = app
        self._keys = keys
        self._users = users
        self._on_epoch_loss = on_epoch_loss
        self._idle_ms, self._absolute_ms = idle_s * 1000, absolute_s * 1000
        self._cookie = cookie_of(cookie_name, plain_http, idle_s, same_site, path, domain)
        self._form_cookie = self._cookie.for_forms()
        self._place = f"cookie/{self._cookie.name}"
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] in ("http", "websocket"):
            await serve(self._app, self, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def open(self, scope: Scope) -> Session:
        """The session of a request; raises `NoctuleError` when its user's epoch cannot be told."""
        content = self._content(scope)
        if content is None or not await self._is_signed_in(content):
            return Session(None, new_session_id, pre_session=self._pre_session(scope, None))
        values = {name: bytes(value) for name, value in content.values.items()}
        scope["noctule.sealed"] = content
        return Session(
            StoredSession(content.id, values, content.touched_ms, user=content.user, epoch=content.epoch),
            new_session_id,
            pre_session=self._pre_session(scope, content.id),
        )

    async def keep(self, session: Session, scope: Scope) -> HeaderList:
        """The cookies that hold what the request left. Raises `NoctuleError`."""
        return [*await self._keep(session, scope), *self._form_cookie.render_change(session.form_cookie())]

    def _pre_session(self, scope: Scope, session_id: str | None) -> PreSession:
        return PreSession(cookie_values(scope["headers"], self._form_cookie.name), session_id)

    async def _keep(self, session: Session, scope: Scope) -> HeaderList:
        now_ms = self._clock.wall_ms()
        plan = session.plan(now_ms)
        if plan.id is None:
            return [(b"set-cookie", self._cookie.render_removal())] if plan.ended else []
        if not (plan.is_new or plan.new_id or plan.changes or plan.sign_in or plan.is_touch):
            return []
        before: _Content | None = None if plan.is_new else scope.get("noctule.sealed")
        epoch = before.epoch if before else 0
        if plan.sign_in is not None and self._users is not None:
            epoch = await self._users.enrol(plan.sign_in, session_handle(plan.id), About())
        content = _Content(
            plan.cookie_id or "",
            before.born_ms if before else now_ms,
            now_ms,
            {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in session.items()},
            session.user,
            epoch,
        )
        left_ms = min(self._idle_ms, content.born_ms + self._absolute_ms - now_ms)
        sealed = base64.urlsafe_b64encode(self._keys.seal(msgspec.json.encode(content), self._place)).decode()
        sealed = sealed.rstrip("=")
        if len(sealed) > COOKIE_CHARACTERS_MAX:
            raise TooLargeError(
                f"the sealed session takes {len(sealed)} characters; a cookie may hold {COOKIE_CHARACTERS_MAX}"
            )
        return [(b"set-cookie", self._cookie.render(sealed, max(1, left_ms // 1000)))]

    def _content(self, scope: Scope) -> _Content | None:
        now_ms = self._clock.wall_ms()
        for value in cookie_values(scope["headers"], self._cookie.name):
            if not value or len(value) > COOKIE_CHARACTERS_MAX:
                continue
            try:
                raw = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
                content = msgspec.json.decode(self._keys.unseal(raw, self._place), type=_Content)
            except (binascii.Error, ValueError, StorageError, msgspec.DecodeError):
                log.info("session_cookie_unreadable")
                continue
            if now_ms < min(content.touched_ms + self._idle_ms, content.born_ms + self._absolute_ms):
                return content
        return None

    async def _is_signed_in(self, content: _Content) -> bool:
        if content.user is None or self._users is None:
            return True
        try:
            return await self._users.is_current(content.user, content.epoch)
        except (NoctuleError, RedisError) as error:
            if self._on_epoch_loss == "refuse":
                raise
            log.warning("session_epoch_unknown", extra={"reason": type(error).__name__})
            return True
