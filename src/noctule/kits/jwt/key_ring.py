"""The ring of signing keys in the store: one for all instances, turned by one of them at a time.

Each instance keeps a copy, at most `RingPolicy.refresh_s` old, and reads anew when it meets a key that is not in it.
When the ring is due, whoever notices takes a lease; the ring takes changes from the holder of the newest lease only,
and only to the version that was read, so one that was paused for longer than its lease changes nothing.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import msgspec
from joserfc.jwk import OKPKey, RSAKey
from redis.asyncio import Redis

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, NoctuleError, StorageError, UnavailableError
from noctule.kits.jwt.app_keys import AppKeys
from noctule.kits.jwt.ring_state import Algorithm, Ring, RingKey, RingPolicy, turned
from noctule.kits.locks import Locks
from noctule.kits.scripts import Script
from noctule.kits.store import RETRY_BUDGET_S, connect, retrying_idempotent

LEASE_S = 10.0
"""Making an RSA key takes some 0.1 s."""
UNKNOWN_KEY_EVERY_S = 1.0
"""A key that is not in the copy makes the ring be read again this often at most."""
FIRST_RING_TRIES = 50
FIRST_RING_PAUSE_S = 0.05
"""For the first ring of a deployment, which another instance may be making."""
READ_S = 2.0
"""For reading the ring anew while there is a copy of it."""
AWAY_S = 10.0
"""A store that did not answer then is not asked again for so long: it holds up few requests, and not each."""
COPY_S_MAX = 3600.0
"""For how long a copy serves while the store is away; a key that was withdrawn meanwhile is believed for so long."""

SigningKey = OKPKey | RSAKey

_LOAD = Script("""
local time = redis.call('TIME')
local kept = redis.call('HMGET', KEYS[1], 'version', 'ring')
return {string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), kept[1] or '0', kept[2] or ''}
""")
_SAVE = Script("""
local kept = redis.call('HMGET', KEYS[1], 'version', 'ring', 'token')
local token, version = tonumber(ARGV[1]), tonumber(kept[1] or '0')
if version == tonumber(ARGV[2]) + 1 and kept[2] == ARGV[3] then return 1 end
if version ~= tonumber(ARGV[2]) or token < tonumber(kept[3] or '0') then return 0 end
redis.call('HSET', KEYS[1], 'version', version + 1, 'ring', ARGV[3], 'token', ARGV[1])
return 1
""")

log = logging.getLogger("noctule.kits.jwt")


@dataclass(frozen=True, slots=True)
class KeyPicture:
    """One key, for status pages."""

    kid: str
    alg: Algorithm
    state: str
    """``next``, ``signing`` or ``retiring``."""
    sealed_with: str


@dataclass(frozen=True, slots=True)
class _Copy:
    ring: Ring
    version: int
    store_ms: int
    """When it was read, by the store."""
    read_at: float
    """And by this instance."""


class SigningKeyRing:
    """The keys of all instances. Without `app_keys` it only verifies: it makes no key and opens none.

    `store` as everywhere. Tokens of two deployments in one store need two prefixes.
    """

    def __init__(
        self,
        store: Redis | str | None = None,
        app_keys: AppKeys | None = None,
        *,
        policy: RingPolicy = RingPolicy(),  # noqa: B008 - it is frozen
        prefix: str = "oauth",
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        self._owns_store = store is None or isinstance(store, str)
        if store is None or isinstance(store, str):
            store = connect(store)
        if store.get_encoder().decode_responses:  # type: ignore[no-untyped-call]
            raise ConfigError("the store client handed to a SigningKeyRing must give bytes: decode_responses=False")
        self._store = store
        self._app_keys = app_keys
        self._policy = policy
        self._key = f"{{{prefix}:keys}}ring"
        self._locks = Locks(store, prefix=f"{prefix}:lock:")
        self._clock = clock
        self._copy: _Copy | None = None
        self._turn = asyncio.Lock()
        self._loaded: dict[str, SigningKey] = {}
        self._private: dict[str, SigningKey] = {}
        self._unknown_at = float("-inf")
        self._failed_at = float("-inf")

    async def signing_key(self) -> tuple[str, Algorithm, SigningKey]:
        """The key to sign with: its id, algorithm and private half. Raises `UnavailableError` or `ConfigError`."""
        if self._app_keys is None:
            raise ConfigError("this key ring has no app keys, so it only verifies")
        copy = await self._fresh()
        key = copy.ring.signing(self._now_ms(copy))
        if key is None:
            raise UnavailableError("the key ring holds no key that may sign yet")
        if key.kid not in self._private:
            opened = self._app_keys.open(key.sealed, key.sealed_with, key.kid)
            self._private = {key.kid: _import(key.alg, msgspec.json.decode(opened))}
        return key.kid, key.alg, self._private[key.kid]

    async def public_key(self, kid: str) -> tuple[Algorithm, SigningKey] | None:
        """The key to verify with, and the only algorithm it is for; None for one that is not in the ring."""
        copy = await self._fresh()
        found = next((key for key in copy.ring.public(self._now_ms(copy)) if key.kid == kid), None)
        if found is None and self._clock.now() >= self._unknown_at + UNKNOWN_KEY_EVERY_S:
            self._unknown_at = self._clock.now()
            copy = await self._fresh(at_most_s=0.0)
            found = next((key for key in copy.ring.public(self._now_ms(copy)) if key.kid == kid), None)
        if found is None:
            return None
        if kid not in self._loaded:
            self._loaded = {key.kid: _import(key.alg, key.public) for key in copy.ring.keys}
        return found.alg, self._loaded[kid]

    async def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """The key set for others (RFC 7517 5)."""
        copy = await self._fresh()
        return {"keys": [key.public for key in copy.ring.public(self._now_ms(copy))]}

    async def rotate(self) -> None:
        """Let a new key sign from now on. Others that cache the key set may not know it for some minutes.

        Raises `UnavailableError` when another instance is changing the ring.
        """
        await self._tend(await self._read(), at_once=True)

    async def withdraw(self, kid: str) -> None:
        """Take a key out that is no longer secret, and let a new one sign.

        What it signed is not believed any more: here at once, on all instances within `RingPolicy.refresh_s`. Raises
        `UnavailableError` as `rotate` does.
        """
        copy = await self._read()
        kept = tuple(key for key in copy.ring.keys if key.kid != kid)
        await self._tend(_Copy(Ring(kept), copy.version, copy.store_ms, copy.read_at), at_once=True)

    def describe(self) -> tuple[KeyPicture, ...]:
        """The keys of this instance's copy."""
        copy = self._copy
        if copy is None:
            return ()
        now_ms = self._now_ms(copy)
        signing = copy.ring.signing(now_ms)
        return tuple(
            KeyPicture(
                key.kid,
                key.alg,
                "signing" if key is signing else "next" if key.signs_from_ms > now_ms else "retiring",
                key.sealed_with,
            )
            for key in copy.ring.public(now_ms)
        )

    async def aclose(self) -> None:
        """Close the store's client if this ring made it."""
        if self._owns_store:
            await self._store.aclose()

    # Inside -----------------------------------------------------------------------------------------------------------

    def _now_ms(self, copy: _Copy) -> int:
        return copy.store_ms + int((self._clock.now() - copy.read_at) * 1000)

    async def _fresh(self, at_most_s: float | None = None) -> _Copy:
        at_most_s = self._policy.refresh_s if at_most_s is None else at_most_s
        if self._copy is not None and self._clock.now() < self._copy.read_at + at_most_s:
            return self._copy
        asked_at = self._clock.now()
        async with self._turn:
            # Whoever was here before has read it, or tried to.
            tried_at = max(self._copy.read_at, self._failed_at + AWAY_S) if self._copy is not None else float("-inf")
            if self._copy is not None and tried_at >= asked_at and asked_at <= self._copy.read_at + COPY_S_MAX:
                return self._copy
            try:
                copy = await self._read(RETRY_BUDGET_S if self._copy is None else READ_S)
                if self._is_due(copy):
                    copy = await self._tend(copy)
            except ConfigError:
                raise
            except NoctuleError as error:
                if self._copy is None or self._clock.now() > self._copy.read_at + COPY_S_MAX:
                    raise UnavailableError("the key ring cannot be read") from error
                self._failed_at = self._clock.now()
                log.warning("key_ring_not_read", extra={"reason": str(error)})
                return self._copy
            self._copy = copy if copy.ring.keys else None
            return copy

    async def _read(self, budget_s: float = RETRY_BUDGET_S) -> _Copy:
        read_at = self._clock.now()
        now_ms, version, encoded = await self._run(_LOAD, writes=False, budget_s=budget_s)
        try:
            ring = msgspec.json.decode(encoded, type=Ring) if encoded else Ring()
        except msgspec.DecodeError as error:
            raise StorageError("the key ring in the store is damaged") from error
        return _Copy(ring, int(version), int(now_ms), read_at)

    def _is_due(self, copy: _Copy) -> bool:
        if self._app_keys is None:
            return False
        is_resealed = all(key.sealed_with == self._app_keys.newest for key in copy.ring.keys)
        return not is_resealed or turned(copy.ring, copy.store_ms, self._policy, self._unmade) is not copy.ring

    async def _tend(self, copy: _Copy, *, at_once: bool = False) -> _Copy:
        """Bring the ring to what it should be, if this instance gets the lease; the ring as it is then."""
        if self._app_keys is None:
            raise ConfigError("this key ring has no app keys, so it only verifies")
        app_keys, is_saved = self._app_keys, False
        lease = await self._locks.acquire("keys", ttl_s=LEASE_S)
        if lease is not None:
            due = turned(copy.ring, copy.store_ms, self._policy, self._unmade, at_once=at_once)
            keys = [key if key.kid else await asyncio.to_thread(_make, key, app_keys) for key in due.keys]
            ring = Ring(tuple(_resealed(key, app_keys) for key in keys))
            is_saved = bool(await self._run(_SAVE, lease.token, copy.version, msgspec.json.encode(ring)))
            if is_saved:
                log.info("key_ring_turned", extra={"version": copy.version + 1, "keys": len(ring.keys)})
            await self._locks.release(lease)
        # Whether it was this instance or another: what holds is what the store has.
        read = await self._read()
        for _ in range(FIRST_RING_TRIES if not read.ring.keys else 0):
            await asyncio.sleep(FIRST_RING_PAUSE_S)
            read = await self._read()
            if read.ring.keys:
                break
        self._copy = read if read.ring.keys else None
        if at_once and not is_saved:
            raise UnavailableError("another instance is changing the key ring; try again")
        return read

    def _unmade(self, signs_from_ms: int) -> RingKey:
        """Where a key will be: making one takes long, and may turn out to be somebody else's turn."""
        return RingKey("", self._policy.alg, {}, b"", "", signs_from_ms)

    async def _run(
        self, script: Script, *arguments: str | bytes | int, writes: bool = True, budget_s: float = RETRY_BUDGET_S
    ) -> Any:
        return await retrying_idempotent(
            lambda: script.run(self._store, [self._key], arguments), writes=writes, budget_s=budget_s
        )


def _make(place: RingKey, app_keys: AppKeys) -> RingKey:
    alg = place.alg
    key: SigningKey = OKPKey.generate_key("Ed25519") if alg == "EdDSA" else RSAKey.generate_key(2048)
    kid = key.thumbprint()
    named = {"kid": kid, "use": "sig", "alg": alg}
    private = msgspec.json.encode({**key.as_dict(private=True), **named})
    public = {**key.as_dict(private=False), **named}
    return RingKey(kid, alg, public, app_keys.seal(private, kid), app_keys.newest, place.signs_from_ms)


def _resealed(key: RingKey, app_keys: AppKeys) -> RingKey:
    if key.sealed_with == app_keys.newest:
        return key
    opened = app_keys.open(key.sealed, key.sealed_with, key.kid)
    return msgspec.structs.replace(key, sealed=app_keys.seal(opened, key.kid), sealed_with=app_keys.newest)


def _import(alg: Algorithm, jwk: dict[str, Any]) -> SigningKey:
    return OKPKey.import_key(jwk) if alg == "EdDSA" else RSAKey.import_key(jwk)
