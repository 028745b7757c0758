"""The guestbook: one hash in the store, a field for each entry, named so that the names sort by time."""

import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
from redis.asyncio import Redis

from noctule.kits.cache import Cache
from noctule.kits.store import retrying_idempotent

KEY = "board:guestbook"
PAGE = "board:newest"
"""What the cache calls the page."""
SHOWN_MAX = 50
KEPT_MAX = 200
"""Older entries are removed, so that reading the whole hash stays cheap."""

_ENTRY_ID = re.compile(r"[0-9]{19}-[0-9a-f]{16}")


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one visitor wrote."""

    name: str
    text: str
    instance: str
    written_ms: int
    has_account: bool = False
    """Whether the name is that of an account, which nobody else can take."""
    picture: str = ""
    """The key of a file; empty for none."""

    @property
    def written(self) -> str:
        """When, for people: UTC to the minute."""
        return datetime.fromtimestamp(self.written_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def new_cache(store: Redis) -> Cache[list[Entry]]:
    """A cache of pages in the store, and none in memory: who has written sees it at once, on whichever instance."""
    return Cache(store, local_ttl_s=0, decode=msgspec.json.Decoder(list[Entry]).decode)


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def new_entry_id() -> str:
    """An id for a form: nineteen digits of nanoseconds, for two entries fit into a millisecond; then 64 random bits."""
    return f"{time.time_ns():019d}-{secrets.token_hex(8)}"


def is_entry_id(text: str) -> bool:
    """Whether this could have come from `new_entry_id`."""
    return bool(_ENTRY_ID.fullmatch(text))


async def put_once(store: Redis, key: str, field: str, value: bytes) -> bool:
    """Write a field of a hash that nobody has written yet; whether it holds this value now.

    So it may be asked again when the answer was lost. Raises `NoctuleError` when the store does not serve.
    """

    async def put() -> bool:
        # redis-py types the answers for both of its clients; this one is awaited and gives bytes.
        await cast("Any", store.hsetnx(key, field, value))
        return bool(await cast("Any", store.hget(key, field)) == value)

    return await retrying_idempotent(put, writes=True)


@dataclass(frozen=True, slots=True)
class Guestbook:
    """The entries in one store; every method raises `NoctuleError` when the store does not serve."""

    store: Redis
    cache: Cache[list[Entry]]

    async def add(self, entry_id: str, entry: Entry) -> bool:
        """Write the entry; False, and nothing changes, when another one has the id, as after a second click."""
        is_there = await put_once(self.store, KEY, entry_id, msgspec.json.encode(entry))
        await self.cache.delete(PAGE)
        return is_there

    async def newest(self) -> list[Entry]:
        """The newest entries, newest first."""
        return await self.cache.get(PAGE, self._read_newest)

    async def prune(self, delete_picture: Callable[[str], Awaitable[None]]) -> None:
        """Remove what is older than the newest `KEPT_MAX`; pictures first, so that none is left if this breaks off."""
        raw = await self._all()
        old = sorted(raw, reverse=True)[KEPT_MAX:]
        for name in old:
            if picture := _decode(raw[name]).picture:
                await delete_picture(picture)
        if old:
            await retrying_idempotent(lambda: self.store.hdel(KEY, *old), writes=True)

    async def _read_newest(self) -> list[Entry]:
        raw = await self._all()
        return [_decode(raw[name]) for name in sorted(raw, reverse=True)[:SHOWN_MAX]]

    async def _all(self) -> dict[bytes, bytes]:
        return await retrying_idempotent(lambda: cast("Any", self.store.hgetall(KEY)), writes=False)


_decode = msgspec.json.Decoder(Entry).decode
