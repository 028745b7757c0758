"""Who is signed in where: the list of a user's devices, and the end of one or all of them.

    users = UserSessions()
    await users.devices("ada@example.org")
    await users.end_all("ada@example.org")

A session and its user are two keys, on a cluster in two slots, so nothing changes both at once. Each thing is decided
in one of them: whether a session is alive in its own hash; whether all of a user's are in the user's *epoch*, which
each session carries and every load compares. The list is for people, and for ending what is listed without waiting
for its next load; a session that it lacks is ended by the epoch all the same.
"""

import asyncio
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from redis.asyncio import Redis

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, StorageError
from noctule.base.ids import Instant
from noctule.kits.scripts import Script
from noctule.kits.session_cookie import session_key
from noctule.kits.session_script import BORN, END, ENROL, EPOCH, OWNER, RAISE, SEEN
from noctule.kits.session_seal import KeyRing
from noctule.kits.store import RETRY_BUDGET_S, connect, retrying_idempotent

ANSWER_TIMEOUT_S = 2.0
"""For one command, when the kit makes the client itself: two attempts fit into the retry budget."""
TOMBSTONE_TTL_S = 3600
"""How long a dead session is remembered: longer than any request or delayed packet that could still create it."""
IDLE_S = 14 * 24 * 3600
ABSOLUTE_S = 30 * 24 * 3600
DEVICES_MAX = 50
EPOCHS_MAX = 10_000
"""Epochs of users that one instance remembers."""
AGENT_CHARACTERS_MAX = 120
PREFIX = "session:"

_HANDLE = re.compile(r"[0-9a-f]{64}")  # As `session_handle` makes it.
_END, _ENROL, _SEEN, _RAISE = Script(END), Script(ENROL), Script(SEEN), Script(RAISE)


class Device(msgspec.Struct, frozen=True):
    """One signed-in session, as its user may see it."""

    id: str
    """For `UserSessions.end`; it signs nobody in."""
    created_ms: int
    """Since 1970, by the store's clock, as all times here."""
    seen_ms: int
    """To the minute."""
    address: str
    agent: str
    """The beginning of what the browser calls itself."""


class About(msgspec.Struct, frozen=True):
    """What a request tells of the device that it comes from."""

    address: str = ""
    agent: str = ""


@dataclass(frozen=True, slots=True)
class _Known:
    epoch: int | None
    at: Instant


class UserSessions:
    """Of all users whose sessions are kept by `Sessions` with the same store, `prefix` and `keys`.

    `store` as everywhere: a client that gives bytes, a URL, or the environment's. `idle_s` and `absolute_s` as for
    `Sessions`. `epoch_age_s`: how old a user's epoch may be that a load is compared with; 0 asks every time. Every
    method raises `UnavailableError` or `OutcomeUnknownError` when the store does not answer within `patience_s`.
    """

    def __init__(
        self,
        store: Redis | str | None = None,
        *,
        prefix: str = PREFIX,
        keys: KeyRing | None = None,
        idle_s: int = IDLE_S,
        absolute_s: int = ABSOLUTE_S,
        devices_max: int = DEVICES_MAX,
        epoch_age_s: float = 0.0,
        patience_s: float = RETRY_BUDGET_S,
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        self._owns_store = store is None or isinstance(store, str)
        self._store = bytes_client(store, "UserSessions")
        self._prefix = prefix
        self._keys = keys
        self._idle_ms = idle_s * 1000
        self._keep_ms = 2 * absolute_s * 1000
        self._devices_max = devices_max
        self._epoch_age_s = epoch_age_s
        self._patience_s = patience_s
        self._clock = clock
        self._epochs: OrderedDict[str, _Known] = OrderedDict()

    async def devices(self, user: str) -> list[Device]:
        """The sessions in which this user is signed in, the one used last first."""
        raw = await self._ask(lambda: cast("Any", self._store.hgetall(self._key(user))), writes=False)
        epoch = int(raw.get(EPOCH.encode(), b"0"))
        handles = [name.decode() for name, entry in raw.items() if _is_entry(name) and int(entry[26:39]) >= epoch]
        alive = await asyncio.gather(*(self._is_alive(handle, user) for handle in handles))
        found = [
            self._device(user, handle, raw[handle.encode()])
            for handle, is_alive in zip(handles, alive, strict=True)
            if is_alive
        ]
        return sorted(found, key=lambda device: device.seen_ms, reverse=True)

    async def end(self, user: str, device_id: str) -> bool:
        """End one session of this user; whether there was one. Nobody ends another user's by its id."""
        if not _HANDLE.fullmatch(device_id):  # Visitors send it; what else is in the list is not theirs to remove.
            return False
        is_listed = await self._ask(lambda: cast("Any", self._store.hexists(self._key(user), device_id)), writes=False)
        if not is_listed:
            return False
        is_ended = await self.end_session(device_id, user)
        await self.forget(user, device_id)
        return is_ended

    async def end_all(self, user: str, *, keep: str | None = None) -> int:
        """Sign the user out everywhere; how many sessions were listed. None of them is loaded by any instance once this
        returns, nor one that is not listed, except as `epoch_age_s` lets an instance believe an older epoch.

        `keep`: the handle of the session that goes on; call its `sign_in` in the same request, for its epoch is old.
        When this raises, some may be ended already; calling it again is safe.
        """
        nonce = secrets.token_urlsafe(8)
        epoch, *older = await self._ask(lambda: _RAISE.run(self._store, [self._key(user)], [nonce, self._keep_ms]))
        self._remember(user, int(epoch))
        handles = [handle.decode() for handle in older if handle.decode() != keep]
        for handle in handles:
            await self.end_session(handle, user)
            await self.forget(user, handle)
        return len(handles)

    async def aclose(self) -> None:
        """Close the client, if this made it."""
        if self._owns_store:
            await self._store.aclose()

    # What the middleware asks -----------------------------------------------------------------------------------------

    async def enrol(self, user: str, handle: str, about: About) -> int:
        """List a session that is about to sign in; the user's epoch. The oldest of too many sessions are ended."""
        arguments: list[str | bytes | int] = [
            handle,
            self._sealed(user, about),
            self._idle_ms,
            self._keep_ms,
            self._devices_max,
        ]
        epoch, *left = await self._ask(lambda: _ENROL.run(self._store, [self._key(user)], arguments))
        for other in left:
            await self.end_session(other.decode(), user)
        self._remember(user, int(epoch))
        return int(epoch)

    async def seen(self, user: str, handle: str, about: About) -> None:
        """Note that a listed session is in use; one attempt, which raises what redis-py does."""
        await _SEEN.run(self._store, [self._key(user)], [handle, self._sealed(user, about), self._keep_ms])

    async def is_current(self, user: str, epoch: int) -> bool:
        """Whether a session of this epoch is signed in. A user of whom nothing is known any more is not."""
        known = self._epochs.get(user)
        # A user who was unknown may have signed in since, at another instance.
        if known is None or known.epoch is None or self._clock.now() - known.at >= self._epoch_age_s:
            raw = await self._ask(lambda: cast("Any", self._store.hget(self._key(user), EPOCH)), writes=False)
            known = self._remember(user, None if raw is None else int(raw))
        return known.epoch is not None and epoch >= known.epoch

    async def end_session(self, handle: str, user: str | None = None) -> bool:
        """Delete a session and leave a tombstone; with `user` only if it is that user's."""
        owner = "" if user is None else owner_digest(user)
        key = session_key(self._prefix, handle)
        return bool(await self._ask(lambda: _END.run(self._store, [key], [owner, TOMBSTONE_TTL_S * 1000])))

    async def forget(self, user: str, handle: str) -> None:
        """Take a session off the list."""
        await self._ask(lambda: cast("Any", self._store.hdel(self._key(user), handle)))

    def _key(self, user: str) -> str:
        return f"{self._prefix}user:{{{owner_digest(user)}}}"

    def _remember(self, user: str, epoch: int | None) -> _Known:
        known = self._epochs[user] = _Known(epoch, self._clock.now())
        self._epochs.move_to_end(user)
        if len(self._epochs) > EPOCHS_MAX:
            self._epochs.popitem(last=False)
        return known

    async def _is_alive(self, handle: str, user: str) -> bool:
        """Whether it is this user's: a sign-in that was listed may have been overtaken by another's."""
        key = session_key(self._prefix, handle)
        born, owner = await self._ask(lambda: cast("Any", self._store.hmget(key, [BORN, OWNER])), writes=False)
        return born is not None and owner == owner_digest(user).encode()

    def _device(self, user: str, handle: str, entry: bytes) -> Device:
        text = entry[39:]
        try:
            opened = text if self._keys is None else self._keys.unseal(text, owner_digest(user))
            about = msgspec.json.decode(opened, type=About)
        except (StorageError, msgspec.DecodeError):  # Of a key that is gone: the session is there all the same.
            about = About()
        return Device(handle, int(entry[:13]), int(entry[13:26]), about.address, about.agent)

    def _sealed(self, user: str, about: About) -> bytes:
        text = msgspec.json.encode(About(about.address, about.agent[:AGENT_CHARACTERS_MAX]))
        return text if self._keys is None else self._keys.seal(text, owner_digest(user))

    async def _ask(self, operation: Callable[[], Awaitable[Any]], *, writes: bool = True) -> Any:
        return await retrying_idempotent(operation, writes=writes, budget_s=self._patience_s)


def bytes_client(store: Redis | str | None, whose: str) -> Redis:
    """The client itself, or one of the URL. Raises `ConfigError` for one that gives str."""
    client = connect(store, answer_timeout_s=ANSWER_TIMEOUT_S) if store is None or isinstance(store, str) else store
    if client.get_encoder().decode_responses:  # type: ignore[no-untyped-call]
        raise ConfigError(f"the store client handed to {whose} must give bytes: connect it with decode_responses=False")
    return client


def owner_digest(user: str) -> str:
    """What the store calls a user."""
    return hashlib.sha256(user.encode(errors="surrogatepass")).hexdigest()


def _is_entry(name: bytes) -> bool:
    return not name.startswith(b"__")
