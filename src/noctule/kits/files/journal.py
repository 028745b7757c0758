"""What a store of the chain lacks, or should have lost: kept in the Redis store until it has been mended.

One hash, a field for each file. That a file is to be copied is noted once, when it is saved, before anybody knows its
key; that it is to be deleted replaces that. So a note that comes late, from an instance that could not reach the store,
never turns a deletion back.
"""

import logging
from typing import Any, Literal, cast

import msgspec
from redis.asyncio import Redis

from noctule.base.errors import NoctuleError
from noctule.kits.scripts import Script
from noctule.kits.store import retrying_idempotent

NOTES_MAX = 1_000_000
"""Notes in the store, about 300 bytes each; copies beyond them are not noted, and said to be."""
UNSAVED_MAX = 10_000
"""Notes kept in memory while the store is away; the oldest is lost first, and said to be."""
NOTE_S_MAX = 1.0
PAGE = 100

NOTE = Script("""
if ARGV[3] == 'delete' then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) return 1 end
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 1 end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
""")

STRIKE = Script("""
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
""")

log = logging.getLogger("noctule.kits.files")


class Repair(msgspec.Struct, frozen=True):
    """One thing to do."""

    op: Literal["copy", "delete"]
    at: tuple[str, ...]
    """Names of the endpoints where it is to be done."""
    sha256: str = ""
    """What is to be copied, hexadecimal; empty when it is not known."""
    name: str = ""
    """As the owner of the file calls it, for a source that keeps no metadata."""


class Journal:
    """The notes of all instances that share a store and a name."""

    def __init__(self, store: Redis, name: str) -> None:
        self._store = store
        self._key = f"files:{name}:repairs"
        self._unsaved: dict[str, Repair] = {}
        self._cursor = 0

    @property
    def unsaved(self) -> int:
        """Notes that only this process has, as the store did not take them yet."""
        return len(self._unsaved)

    async def note(self, key: str, repair: Repair) -> None:
        """Note it, if need be in memory until the store answers again."""
        self._unsaved.pop(key, None)
        self._unsaved[key] = repair
        if len(self._unsaved) > UNSAVED_MAX:
            self._forget(next(iter(self._unsaved)))
        await self.save()

    async def save(self) -> None:
        """Save what could not be saved before."""
        for key, repair in list(self._unsaved.items()):
            arguments: list[str | bytes | int] = [key, msgspec.json.encode(repair), repair.op, NOTES_MAX]
            try:
                is_noted = await retrying_idempotent(
                    lambda arguments=arguments: NOTE.run(self._store, [self._key], arguments),  # type: ignore[misc]
                    writes=True,
                    budget_s=NOTE_S_MAX,
                )
            except NoctuleError as error:
                log.warning("repair_not_noted", extra={"waiting": len(self._unsaved), "reason": str(error)})
                return
            if self._unsaved.get(key) is not repair:
                continue  # Something else was noted meanwhile, and is saved by whoever noted it.
            if is_noted:
                del self._unsaved[key]
            else:
                self._forget(key)

    async def page(self) -> dict[str, Repair]:
        """Some of what is to be done, each time the next; empty when nothing is. Raises `UnavailableError`."""
        await self.save()
        self._cursor, found = await retrying_idempotent(
            lambda: cast("Any", self._store.hscan(self._key, self._cursor, count=PAGE)), writes=False
        )
        return {key.decode(): msgspec.json.decode(value, type=Repair) for key, value in found.items()}

    @property
    def is_at_end(self) -> bool:
        """Whether the last page was the last of a round."""
        return self._cursor == 0

    async def strike(self, key: str, repair: Repair) -> bool:
        """It is mended: forget it; False if the note was changed or struck meanwhile. Raises `OutcomeUnknownError`."""
        if self._unsaved.get(key) == repair:
            del self._unsaved[key]
        encoded = msgspec.json.encode(repair)
        return bool(
            await retrying_idempotent(
                lambda: STRIKE.run(self._store, [self._key], [key, encoded]), writes=True, budget_s=NOTE_S_MAX
            )
        )

    async def count(self) -> int:
        """How many files wait for a repair. Raises `UnavailableError`."""
        noted: int = await retrying_idempotent(lambda: cast("Any", self._store.hlen(self._key)), writes=False)
        return noted + len(self._unsaved)

    def _forget(self, key: str) -> None:
        log.error("repair_forgotten", extra={"key": key})
        del self._unsaved[key]
