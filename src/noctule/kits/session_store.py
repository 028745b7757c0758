"""Loads and saves of sessions: one read, one atomic script. `session_script.py` decides, `session_state.py` plans."""

import asyncio
import logging
import random
import secrets
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from noctule.base.clock import Clock
from noctule.base.errors import NoctuleError, StorageError, TooLargeError
from noctule.kits.scripts import Script
from noctule.kits.session_cookie import session_digest, session_handle, session_key
from noctule.kits.session_script import EPOCH, OURS, OWNER, SAVE, USER
from noctule.kits.session_seal import KeyRing
from noctule.kits.session_state import (
    SESSION_FIELDS_MAX,
    TOUCH_EVERY_S,
    SavePlan,
    Session,
    SessionConflictError,
    StoredSession,
    read_stored,
)
from noctule.kits.session_users import About, UserSessions, owner_digest
from noctule.kits.store import retrying_idempotent

CLASHES_MAX = 50
"""How often a save is tried again because others changed what it counts; each time one of them has got on."""
REMEMBERED_S = 15
"""How long a save is known by its name: three times as long as one is repeated."""
REMEMBERED_MAX = 64
"""Saves of one session that are known by name; more of them in that time push out the oldest."""
_PAUSE_S_MAX = 0.02

OnConflict = Literal["last_wins", "refuse"]

_SAVE = Script(SAVE)
log = logging.getLogger("noctule.kits.sessions")


@dataclass(frozen=True, slots=True)
class Saved:
    """What came of a save."""

    cookie_id: str | None = None
    """The id to hand out, with that many seconds to live; None: the browser's cookie is right as it is."""
    left_s: int = 0
    is_over: bool = False
    """The session was ended by this request, and the browser may forget it."""
    is_dropped: bool = False
    """Another request has ended the session meanwhile, so nothing was written."""
    overwritten: int = 0
    """Fields that another request had changed meanwhile."""


class SessionStore:
    """The sessions of one store. Its options are those of `Sessions`; every method raises `NoctuleError`."""

    def __init__(
        self,
        store: Redis,
        users: UserSessions,
        *,
        prefix: str,
        idle_s: int,
        absolute_s: int,
        keys: KeyRing | None,
        on_conflict: OnConflict,
        patience_s: float,
        clock: Clock,
    ) -> None:
        self._store = store
        self._users = users
        self._prefix = prefix
        self._idle_ms = idle_s * 1000
        self._absolute_ms = absolute_s * 1000
        self._keys = keys
        self._on_conflict = on_conflict
        self._patience_s = patience_s
        self._clock = clock

    async def load(self, session_id: str) -> StoredSession | None:
        """The live session that this id opens; None when there is none, or it cannot be read."""
        key = self._key(session_id)
        raw = await retrying_idempotent(
            lambda: cast("Any", self._store.hgetall(key)), writes=False, budget_s=self._patience_s
        )
        try:
            stored = read_stored(session_id, raw, self._keys.unseal if self._keys else None)
        except StorageError as error:
            log.warning("session_unreadable", extra={"reason": str(error)})
            return None
        if stored is not None and stored.user is not None:
            return stored if await self._users.is_current(stored.user, stored.epoch) else None
        return stored

    async def save(self, session: Session, about: About) -> Saved:
        """Write what the request left to be written, all of it or nothing.

        Raises `SessionConflictError` when another request has ended or changed what this one insists on,
        `OutcomeUnknownError` for the store's failures, `TooLargeError` or `RequestError` for what the app has put in.
        """
        plan = self._plan(session)
        for session_id, user in plan.ended:
            handle = session_handle(session_id)
            await self._users.end_session(handle)
            if user is not None:
                await self._unlist(user, handle)
        if plan.id is None:
            return Saved(is_over=bool(plan.ended))
        if plan.is_touch:
            return await self._touch(plan, about)
        saved = await self._write_until_agreed(session, plan, about)
        await self._note_use(plan, saved, about)
        return saved

    def _plan(self, session: Session) -> SavePlan:
        return session.plan(self._clock.wall_ms(), is_checked=self._on_conflict == "refuse")

    async def _write_until_agreed(self, session: Session, plan: SavePlan, about: About) -> Saved:
        nonce = secrets.token_urlsafe(8)
        epoch = 0
        if plan.sign_in is not None:
            epoch = await self._users.enrol(plan.sign_in, session_handle(plan.id or ""), about)
        for attempt in range(CLASHES_MAX):
            reply = await retrying_idempotent(
                partial(self._run, plan, self._arguments(plan, nonce, epoch)), writes=True, budget_s=self._patience_s
            )
            match reply[0]:
                case b"saved":
                    return _saved(plan, reply)
                case b"full":
                    raise TooLargeError(f"the session would hold more than {SESSION_FIELDS_MAX} keys")
                case b"clash":
                    stored = await self.load(plan.id or "")
                    if stored is None:
                        return self._gone(plan)
                    session.rebase(stored, {name.decode() for name in reply[1:]})
                    plan = self._plan(session)
                    await asyncio.sleep(random.uniform(0, _PAUSE_S_MAX * min(attempt, 5)))
                case _:
                    return self._gone(plan)
        raise SessionConflictError("other requests change the session all the time; try again")

    def _gone(self, plan: SavePlan) -> Saved:
        """Another request has ended the session, or given it another id. What nobody would notice is dropped."""
        if plan.is_new or plan.new_id or plan.sign_in or self._on_conflict == "refuse":
            raise SessionConflictError("the session was ended or renewed by another request meanwhile; try again")
        log.info("session_save_dropped")
        return Saved(is_dropped=True)

    async def _touch(self, plan: SavePlan, about: About) -> Saved:
        """Renew its life, once: losing it costs a minute of life, so it delays and fails no response."""
        try:
            reply = await self._run(plan, self._arguments(plan, secrets.token_urlsafe(8), 0))
        except RedisError as error:
            log.warning("session_touch_failed", extra={"reason": type(error).__name__})
            return Saved()
        saved = _saved(plan, reply) if reply[0] == b"saved" else Saved(is_dropped=True)
        await self._note_use(plan, saved, about)
        return saved

    async def _note_use(self, plan: SavePlan, saved: Saved, about: About) -> None:
        if plan.signed_in is None or plan.sign_in is not None or saved.cookie_id is None:
            return
        try:
            await self._users.seen(plan.signed_in, session_handle(plan.id or ""), about)
        except (RedisError, NoctuleError) as error:
            log.warning("session_touch_failed", extra={"reason": type(error).__name__})

    async def _unlist(self, user: str, handle: str) -> None:
        """Take a session that has ended off the list, which looks for what it shows, so that this fails nothing."""
        try:
            await self._users.forget(user, handle)
        except NoctuleError as error:
            log.info("session_not_unlisted", extra={"reason": str(error)})

    async def _run(self, plan: SavePlan, arguments: list[str | bytes | int]) -> list[Any]:
        reply: list[Any] = await _SAVE.run(self._store, [self._key(plan.id or "")], arguments)
        return reply

    def _arguments(self, plan: SavePlan, nonce: str, epoch: int) -> list[str | bytes | int]:
        session_id = plan.id or ""
        handle = session_handle(session_id)
        arguments: list[str | bytes | int] = [
            "create" if plan.is_new else "save",
            session_digest(session_id),
            nonce,
            session_digest(plan.new_id) if plan.new_id else "",
            self._idle_ms,
            self._absolute_ms,
            TOUCH_EVERY_S * 1000,
            SESSION_FIELDS_MAX + len(OURS),
            REMEMBERED_S * 1000,
            REMEMBERED_MAX,
        ]
        for change in plan.changes:
            value = b"" if change.value is None else self._sealed(change.value, f"{handle}/{change.name}")
            arguments += [change.name, change.kind, change.mark, value]
        if plan.sign_in is not None:
            user = self._sealed(msgspec.json.encode(plan.sign_in), f"{handle}/{USER}")
            for name, value in ((USER, user), (OWNER, owner_digest(plan.sign_in).encode()), (EPOCH, b"%d" % epoch)):
                arguments += [name, "own", "", value]
        return arguments

    def _sealed(self, value: bytes, place: str) -> bytes:
        return value if self._keys is None else self._keys.seal(value, place)

    def _key(self, session_id: str) -> str:
        return session_key(self._prefix, session_handle(session_id))


def _saved(plan: SavePlan, reply: list[Any]) -> Saved:
    _, left_ms, is_renewed, overwritten = reply
    return Saved(plan.cookie_id if is_renewed else None, max(1, left_ms // 1000), overwritten=overwritten)
