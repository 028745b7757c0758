"""What a store of the chain lacks, or should have lost: kept in the Redis store until it has been mended.

One hash, a field for each file; the same file noted twice is one note.
"""

import logging
from typing import Any, Literal, cast

import msgspec
from redis.asyncio import Redis

from noctule.base.errors import NoctuleError
from noctule.kits.store import retrying_idempotent

KEY = "files:repairs"
UNSAVED_MAX = 10_000
"""Notes kept in memory while the store is away; the oldest is lost first, and said to be."""
NOTE_S_MAX = 1.0
PAGE = 100

log = logging.getLogger("noctule.kits.files")


class Repair(msgspec.Struct, frozen=True):
    """One thing to do."""

    op: Literal["copy", "delete"]
    at: tuple[str, ...]
    """Names of the endpoints where it is to be done."""


class Journal:
    """The notes of all instances."""

    def __init__(self, store: Redis) -> None:
        self._store = store
        self._unsaved: dict[str, Repair] = {}

    async def note(self, key: str, repair: Repair) -> None:
        """Note it, if need be in memory until the store answers again."""
        self._unsaved.pop(key, None)
        self._unsaved[key] = repair
        if len(self._unsaved) > UNSAVED_MAX:
            log.error("repair_forgotten", extra={"key": next(iter(self._unsaved))})
            del self._unsaved[next(iter(self._unsaved))]
        await self.save()

    async def save(self) -> None:
        """Save what could not be saved before."""
        for key, repair in list(self._unsaved.items()):
            encoded = msgspec.json.encode(repair)
            try:
                await retrying_idempotent(
                    lambda key=key, encoded=encoded: cast("Any", self._store.hset(KEY, key, encoded)),
                    writes=True,
                    budget_s=NOTE_S_MAX,
                )
            except NoctuleError as error:
                log.warning("repair_not_noted", extra={"waiting": len(self._unsaved), "reason": str(error)})
                return
            if self._unsaved.get(key) is repair:
                del self._unsaved[key]

    async def some(self) -> dict[str, Repair]:
        """Some of what is to be done; empty when nothing is. Raises `UnavailableError`."""
        await self.save()
        _, found = await retrying_idempotent(lambda: cast("Any", self._store.hscan(KEY, 0, count=PAGE)), writes=False)
        return {key.decode(): msgspec.json.decode(value, type=Repair) for key, value in list(found.items())[:PAGE]}

    async def done(self, key: str, repair: Repair) -> None:
        """It is mended, unless something else has been noted meanwhile. Raises `OutcomeUnknownError`."""
        encoded = msgspec.json.encode(repair)

        async def strike() -> None:
            # A copy is done again at worst; what is noted anew is not lost, as the value would be another.
            current = await cast("Any", self._store.hget(KEY, key))
            if current == encoded:
                await cast("Any", self._store.hdel(KEY, key))

        await retrying_idempotent(strike, writes=True)

    async def count(self) -> int:
        """How many files wait for a repair. Raises `UnavailableError`."""
        noted: int = await retrying_idempotent(lambda: cast("Any", self._store.hlen(KEY)), writes=False)
        return noted + len(self._unsaved)
