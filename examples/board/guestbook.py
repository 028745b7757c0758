"""The guestbook: one hash in the store, a field for each entry, named so that the names sort by time."""

import re
import secrets
import time
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


class Entry(msgspec.Struct, frozen=True):
    """What one visitor wrote."""

    name: str
    text: str
    instance: str
    written_ms: int

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


@dataclass(frozen=True, slots=True)
class Guestbook:
    """The entries in one store; every method raises `NoctuleError` when the store does not serve."""

    store: Redis
    cache: Cache[list[Entry]]

    async def add(self, entry_id: str, entry: Entry) -> None:
        """Write the entry; the same id again, from a second click or a retry, changes nothing that is seen."""
        encoded = msgspec.json.encode(entry)
        await retrying_idempotent(lambda: self.store.hset(KEY, entry_id, encoded), writes=True)
        await self.cache.delete(PAGE)

    async def newest(self) -> list[Entry]:
        """The newest entries, newest first."""
        return await self.cache.get(PAGE, self._read_newest)

    async def prune(self) -> None:
        """Remove what is older than the newest `KEPT_MAX`."""
        old = sorted(await self._all(), reverse=True)[KEPT_MAX:]
        if old:
            await retrying_idempotent(lambda: self.store.hdel(KEY, *old), writes=True)

    async def _read_newest(self) -> list[Entry]:
        raw = await self._all()
        return [msgspec.json.decode(raw[name], type=Entry) for name in sorted(raw, reverse=True)[:SHOWN_MAX]]

    async def _all(self) -> dict[bytes, bytes]:
        # redis-py types the answer for both settings of decode_responses; this client gives bytes.
        return await retrying_idempotent(lambda: cast("Any", self.store.hgetall(KEY)), writes=False)
