"""Clients from the settings, and clients that are registered while the app runs, which are in the store.

What is in the settings cannot be changed from the store. A change to a registered client is known to every instance
within `CACHE_S`.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Awaitable, Iterable
from typing import Any, cast

import msgspec
from redis.asyncio import Redis

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, StorageError
from noctule.kits.oauth2.clients import CLIENT_ID_CHARACTERS_MAX, Client, new_client_secret
from noctule.kits.oauth2.opaque import digest_of
from noctule.kits.store import retrying_idempotent

CACHE_S = 10.0
CACHE_CLIENTS_MAX = 1_000


class ClientStore:
    """Who is registered. Without a store there are only those of the settings."""

    def __init__(
        self,
        fixed: Iterable[Client] = (),
        store: Redis | None = None,
        *,
        prefix: str = "oauth",
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        self._fixed = {client.id: client for client in fixed}
        self._store = store
        self._prefix = prefix
        self._clock = clock
        self._cache: OrderedDict[str, tuple[float, Client | None]] = OrderedDict()

    async def find(self, client_id: str) -> Client | None:
        """The client of that id. Raises `UnavailableError`, or `StorageError` for one that cannot be read."""
        if client_id in self._fixed:
            return self._fixed[client_id]
        if self._store is None or not client_id or len(client_id) > CLIENT_ID_CHARACTERS_MAX:
            return None
        kept = self._cache.get(client_id)
        if kept is not None and self._clock.now() < kept[0]:
            return kept[1]
        store, key = self._store, self._key(client_id)
        raw = await retrying_idempotent(lambda: cast("Awaitable[Any]", store.get(key)), writes=False)
        client = _decode(raw) if raw is not None else None
        self._cache.pop(client_id, None)
        self._cache[client_id] = (self._clock.now() + CACHE_S, client)
        if len(self._cache) > CACHE_CLIENTS_MAX:
            self._cache.popitem(last=False)
        return client

    async def save(self, client: Client) -> None:
        """Register a client, or change one. Raises `ConfigError` for one of the settings, and `OutcomeUnknownError`."""
        store = self._changeable(client.id)
        encoded = msgspec.json.encode(client)
        await retrying_idempotent(lambda: cast("Awaitable[Any]", store.set(self._key(client.id), encoded)), writes=True)
        self._cache.pop(client.id, None)

    async def renew_secret(self, client_id: str) -> str:
        """Give a client another secret, which is told once; the old one is void within `CACHE_S`."""
        self._cache.pop(client_id, None)
        client = await self.find(client_id)
        if client is None or client.is_public:
            raise ConfigError("OAuth clients: there is no client of that id that keeps a secret")
        secret, digest = new_client_secret()
        await self.save(dataclasses.replace(client, secret_sha256=digest))
        return secret

    async def remove(self, client_id: str) -> None:
        """Forget a client; what was issued to it ends when it is next refreshed."""
        store = self._changeable(client_id)
        await retrying_idempotent(lambda: cast("Awaitable[Any]", store.delete(self._key(client_id))), writes=True)
        self._cache.pop(client_id, None)

    def _changeable(self, client_id: str) -> Redis:
        if client_id in self._fixed:
            raise ConfigError(f"OAuth client {client_id!r} is one of the settings: change it there")
        if self._store is None:
            raise ConfigError("OAuth clients: no store was given to register clients in")
        return self._store

    def _key(self, client_id: str) -> str:
        return f"{self._prefix}:client:{{{digest_of('client', client_id)}}}"


def _decode(raw: bytes) -> Client:
    try:
        return msgspec.json.decode(raw, type=Client)
    except (msgspec.DecodeError, ConfigError) as error:
        raise StorageError("a client in the store is damaged") from error
