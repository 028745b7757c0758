"""Web sessions for any ASGI app, kept in the store, so that every instance serves every visitor.

    app.add_middleware(Sessions)
    request.session["name"] = "Ada"

One read of the store for a request that brings a session cookie (two when somebody is signed in), none for one that
does not; one atomic script to save, and only when something changed. Read on in session_store.py; sealed_sessions.py
keeps sessions in the cookie itself. `docs/guides/sessions.md` shows the use.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, NoctuleError, RequestError
from noctule.base.ids import Instant
from noctule.kits.asgi import App, Receive, Scope, Send, header_values
from noctule.kits.client_address import Network, client_address, parse_networks
from noctule.kits.pre_session import PreSession
from noctule.kits.session_asgi import HeaderList, serve
from noctule.kits.session_cookie import SameSite, SessionCookie, cookie_values, new_session_id, read_session_id
from noctule.kits.session_seal import KeyRing
from noctule.kits.session_state import Session, StoredSession
from noctule.kits.session_store import OnConflict, SessionStore
from noctule.kits.session_users import ABSOLUTE_S, DEVICES_MAX, IDLE_S, PREFIX, About, UserSessions, bytes_client
from noctule.kits.store import RETRY_BUDGET_S

__all__ = ["Session", "Sessions", "SessionsPicture"]

AWAY_S = 1.0
"""Whom ``on_store_loss="anonymous"`` serves without the store does not wait for it more often than this."""
PLAIN_HTTP = "NOCTULE_PLAIN_HTTP"
"""``1`` in the environment of an app says that it is served without TLS; ``noctule up`` says so, which is for
development."""

OnStoreLoss = Literal["refuse", "anonymous"]

log = logging.getLogger("noctule.kits.sessions")


@dataclass(frozen=True, slots=True)
class SessionsPicture:
    """What this instance did with sessions, for metrics and status pages."""

    cookie: str
    """Its name."""
    is_plain_http: bool
    on_store_loss: OnStoreLoss
    is_away: bool
    """The store did not answer last time."""
    loads: int
    saves: int
    """Requests that were told to go on, after whatever they left to be written."""
    refused: int
    """Loads and saves that failed."""
    degraded: int
    """Requests that were served as anonymous while the store was away."""
    dropped: int
    """Saves that met a session which another request had ended."""
    overwritten: int
    """Fields that were written over a change of another request."""
    keys: tuple[str, ...]
    """Names of the keys that seal, the active one first; empty when values are plain."""


class Sessions:
    """ASGI middleware: ``scope["session"]`` is a `Session` in every HTTP and WebSocket request.

    `store` is a client, a URL, or None for the environment's NOCTULE_STORE_URL (see `store.connect`); a client that
    was handed in must give bytes and stays the caller's to close. A session ends `idle_s` after its last request and
    `absolute_s` after its first, by the store's clock. Of one user at most `devices_max` are signed in; the one unused
    for the longest goes. The cookie's options are told in `SessionCookie`; `plain_http` makes it one that travels over
    plain HTTP, for development (None: the environment's NOCTULE_PLAIN_HTTP says). `keys` seals what sessions hold.

    An id that the store does not know is never adopted: the first write makes a new one. A WebSocket reads its session
    and cannot change it. `on_conflict`: what happens when another request has changed the same field meanwhile. While
    the store is away, after `patience_s`, a request with a session cookie is answered 503 with Retry-After and the app
    is not called (``refuse``), or served as anonymous, marked by a header, and cannot write (``anonymous``). When a
    save fails the app's response is replaced by 503, whose outcome is ``unknown``. An app that raises or answers 5xx
    changes nothing in the session. `trusted_proxies`: whose X-Forwarded-For is believed in the list of devices.
    Raises `ConfigError` for options that cannot work.
    """

    def __init__(
        self,
        app: App,
        *,
        store: Redis | str | None = None,
        idle_s: int = IDLE_S,
        absolute_s: int = ABSOLUTE_S,
        devices_max: int = DEVICES_MAX,
        plain_http: bool | None = None,
        cookie_name: str | None = None,
        same_site: SameSite = "lax",
        path: str = "/",
        domain: str | None = None,
        prefix: str = PREFIX,
        keys: KeyRing | None = None,
        on_conflict: OnConflict = "last_wins",
        on_store_loss: OnStoreLoss = "refuse",
        patience_s: float = RETRY_BUDGET_S,
        epoch_age_s: float = 0.0,
        trusted_proxies: Sequence[str] = (),
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        self._app = app
        self._cookie = cookie_of(cookie_name, plain_http, idle_s, same_site, path, domain)
        self._form_cookie = self._cookie.for_forms()
        if absolute_s < idle_s or devices_max < 1 or on_conflict not in ("last_wins", "refuse"):
            raise ConfigError(
                "sessions: absolute_s must be idle_s or more, devices_max 1 or more, on_conflict last_wins or refuse"
            )
        if on_store_loss not in ("refuse", "anonymous"):
            raise ConfigError(f"sessions: on_store_loss {on_store_loss!r} must be refuse or anonymous")
        self._owns_store = store is None or isinstance(store, str)
        self._client = client = bytes_client(store, "Sessions")
        users = UserSessions(
            client,
            prefix=prefix,
            keys=keys,
            idle_s=idle_s,
            absolute_s=absolute_s,
            devices_max=devices_max,
            epoch_age_s=epoch_age_s,
            patience_s=patience_s,
            clock=clock,
        )
        self._store = SessionStore(
            client,
            users,
            prefix=prefix,
            idle_s=idle_s,
            absolute_s=absolute_s,
            keys=keys,
            on_conflict=on_conflict,
            patience_s=patience_s,
            clock=clock,
        )
        self._keys = keys
        self._on_store_loss = on_store_loss
        self._trusted = parse_networks(trusted_proxies)
        self._clock = clock
        self._away_until: Instant | None = None
        self._counts = dict.fromkeys(("loads", "saves", "refused", "degraded", "dropped", "overwritten"), 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            try:
                await self._app(scope, receive, send)
            finally:
                if self._owns_store:
                    await self._client.aclose()
        elif scope["type"] in ("http", "websocket"):
            await serve(self._app, self, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def describe(self) -> SessionsPicture:
        """What it has done so far."""
        names = tuple(self._keys.names) if self._keys else ()
        is_away = self._away_until is not None
        plain = not self._cookie.secure
        return SessionsPicture(self._cookie.name, plain, self._on_store_loss, is_away, **self._counts, keys=names)

    async def open(self, scope: Scope) -> Session:
        """The session of a request; raises `NoctuleError` when the store is away and such requests are refused."""
        session_id = read_session_id(scope["headers"], self._cookie.name)
        if session_id is None:
            return self._session(None, scope)
        may_degrade = self._on_store_loss == "anonymous"
        try:
            if may_degrade and self._away_until is not None and self._clock.now() < self._away_until:
                return self._degraded()
            stored = await self._store.load(session_id)
        except RequestError:  # The store is there, and refuses: nothing that being anonymous would answer.
            self._counts["refused"] += 1
            raise
        except NoctuleError as error:
            self._away_until = Instant(self._clock.now() + AWAY_S)
            if may_degrade:
                log.warning("session_degraded", extra={"reason": str(error)})
                return self._degraded()
            self._counts["refused"] += 1
            raise
        if self._away_until is not None:
            self._away_until = None
            log.info("session_store_back")
        self._counts["loads"] += 1
        return self._session(stored, scope)

    async def keep(self, session: Session, scope: Scope) -> HeaderList:
        """Save what the request did; the headers that the response needs for it. Raises `NoctuleError`."""
        try:
            saved = await self._store.save(session, about(scope, self._trusted))
        except NoctuleError:
            self._counts["refused"] += 1
            raise
        self._counts["saves"] += 1
        self._counts["dropped"] += saved.is_dropped
        self._counts["overwritten"] += saved.overwritten
        headers = self._form_cookie.render_change(session.form_cookie())
        if saved.cookie_id:
            return [(b"set-cookie", self._cookie.render(saved.cookie_id, saved.left_s)), *headers]
        return [(b"set-cookie", self._cookie.render_removal()), *headers] if saved.is_over else headers

    def _session(self, stored: StoredSession | None, scope: Scope) -> Session:
        sent = cookie_values(scope["headers"], self._form_cookie.name)
        return Session(stored, new_session_id, pre_session=PreSession(sent, stored.id if stored else None))

    def _degraded(self) -> Session:
        self._counts["degraded"] += 1
        return Session(None, new_session_id, is_degraded=True)


def cookie_of(
    name: str | None,
    plain_http: bool | None,
    max_age_s: int,
    same_site: SameSite,
    path: str,
    domain: str | None,
    what: str = "session",
) -> SessionCookie:
    """The cookie that these options ask for; says so in the log when it is not protected. Raises `ConfigError`."""
    is_plain = os.environ.get(PLAIN_HTTP) == "1" if plain_http is None else plain_http
    # The prefix allows neither a domain nor another path.
    prefix = "" if is_plain else "__Host-" if path == "/" and domain is None else "__Secure-"
    name = name or prefix + what
    cookie = SessionCookie(name, max_age_s, not is_plain, same_site, path, domain)
    cookie.validate()
    if is_plain:
        log.warning("session_cookie_unprotected", extra={"cookie": name})
    return cookie


def about(scope: Scope, trusted: Sequence[Network]) -> About:
    """What a request tells of the device that it comes from."""
    peer = scope.get("client")
    address = client_address(peer[0] if peer else None, scope["headers"], trusted)
    agents = header_values(scope["headers"], b"user-agent")
    return About(str(address or ""), agents[0].decode("latin-1") if agents else "")
