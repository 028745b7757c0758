"""A read-through cache that all instances share: one of them loads, the others wait for it or use what they hold.

    cache = Cache()
    user = await cache.get(f"user:{id}", lambda: database.user(id), ttl_s=60)
    await cache.delete(f"user:{id}")      # after the database has changed

In front of the store each instance keeps what it used last for `local_ttl_s`; a delete is published to all instances,
and one that cannot hear forgets everything it holds. While the store is away values are loaded and not kept.
"""

import asyncio
import contextlib
import logging
import random
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, NoctuleError, TooLargeError
from noctule.kits.cache_scripts import FILL, GIVE_UP, READ_OR_CLAIM
from noctule.kits.scripts import Script
from noctule.kits.store import connect, retrying_idempotent

T = TypeVar("T")

VALUE_BYTES_MAX = 1024 * 1024
"""One encoded value; larger things belong into files."""
NAME_BYTES_MAX = 512
STORE_S_MAX = 1.0
"""For one operation of the store; after that the value is loaded as if there were no cache."""
LOOK_S_MAX = 0.25
"""Whoever waits for another instance's load looks at least so often, though nothing was heard."""
RECONNECT_S = 0.5
"""The pause before a lost subscription is tried again."""

log = logging.getLogger("noctule.kits.cache")


@dataclass(frozen=True, slots=True)
class CachePicture:
    """The cache of this instance, for metrics. Counts are since it was made."""

    hits_local: int
    hits_store: int
    waited: int
    """Of the hits in the store: another instance, or another request of this one, was loading it."""
    loads: int
    load_failures: int
    unkept: int
    """Loaded and not kept, because it was deleted meanwhile, or the store was away."""
    held: int
    """Values in this instance's memory now."""
    is_hearing: bool
    """Whether deletes of other instances are heard; else nothing is held."""

    @property
    def hit_rate(self) -> float:
        """Of all answers those that needed no load; 0 when there was none."""
        hits = self.hits_local + self.hits_store
        return hits / (hits + self.loads) if hits + self.loads else 0.0


@dataclass(slots=True)
class _Held(Generic[T]):
    value: T
    until: float


class Cache(Generic[T]):
    """Values by name. `encode` and `decode` are JSON unless given.

    `jitter`: each time to live is shortened by up to this share, drawn anew, so that what was loaded together does not
    end together. `claim_s`: how long one instance may load before another tries. `items_max` values are held in memory
    for `local_ttl_s` (0: none); between a delete and its being heard, some milliseconds, an instance may still answer
    what it holds, and never longer than `local_ttl_s`.
    Used as ``async with``, or `start` and `aclose`: one task hears of deletes.
    """

    def __init__(
        self,
        store: Redis | str | None = None,
        *,
        prefix: str = "cache:",
        items_max: int = 1_000,
        local_ttl_s: float = 5.0,
        claim_s: float = 5.0,
        jitter: float = 0.1,
        encode: Callable[[T], bytes] = msgspec.json.encode,
        decode: Callable[[bytes], T] = msgspec.json.decode,
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
        chance: random.Random | None = None,
    ) -> None:
        problems = [
            f"{name} is {value:g}; it must be {least:g} to {most:g}"
            for name, value, least, most in (
                ("items_max", items_max, 0, 1_000_000),
                ("local_ttl_s", local_ttl_s, 0, 3600),
                ("claim_s", claim_s, 0.1, 300),
                ("jitter", jitter, 0, 0.9),
            )
            if not least <= value <= most
        ]
        if problems:
            raise ConfigError("cache: " + "; ".join(problems))
        self._owns_store = store is None or isinstance(store, str)
        if store is None or isinstance(store, str):
            store = connect(store, answer_timeout_s=STORE_S_MAX)
        self._store = store
        self._prefix = prefix
        self._channel = f"{prefix}deleted"
        self._items_max = items_max if local_ttl_s else 0
        self._local_ttl_s = local_ttl_s
        self._claim_s = claim_s
        self._jitter = jitter
        self._encode, self._decode = encode, decode
        self._clock = clock
        self._chance = chance or random.Random()
        self._held: OrderedDict[str, _Held[T]] = OrderedDict()
        self._flights: dict[str, asyncio.Task[T]] = {}
        self._deletes: dict[str, int] = {}
        """Of names that are on their way: how many deletes were heard, so that nothing older is held after them."""
        self._news = asyncio.Event()
        self._hearing: asyncio.Task[None] | None = None
        self._is_hearing = False
        self._counts = dict.fromkeys(("local", "store", "waited", "loads", "failures", "unkept"), 0)

    async def __aenter__(self) -> "Cache[T]":
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def start(self) -> None:
        """Hear of deletes from now on; without it nothing is held in memory."""
        if self._hearing is None and self._items_max:
            self._hearing = asyncio.get_running_loop().create_task(self._hear(), name="cache-deletes")

    async def aclose(self) -> None:
        """Stop hearing, and close the store's client if this cache made it."""
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.wait([self._hearing])
            self._hearing = None
        for flight in list(self._flights.values()):
            flight.cancel()
        if self._owns_store:
            await self._store.aclose()

    async def get(self, name: str, load: Callable[[], Awaitable[T]], *, ttl_s: float = 60.0) -> T:
        """The value of a name: held, or in the store, or loaded now and kept for about `ttl_s` seconds.

        Requests of this instance for one name share one flight, and its load one of all instances: what `load` raises
        is raised to all of this instance who waited. None is a value like others.
        """
        held = self._held.get(name)
        if held is not None:
            if self._is_hearing and self._clock.now() < held.until:
                self._held.move_to_end(name)
                self._counts["local"] += 1
                return held.value
            del self._held[name]
        flight = self._flights.get(name)
        if flight is None:
            _check(name, ttl_s)
            flight = asyncio.get_running_loop().create_task(self._fly(name, load, ttl_s), name=f"cache-{name}")
            self._flights[name] = flight
            flight.add_done_callback(lambda landed: self._landed(name, landed))
        else:
            self._counts["waited"] += 1
        # Whoever goes away does not take the flight from the others.
        return await asyncio.shield(flight)

    async def delete(self, *names: str) -> None:
        """Forget values everywhere: whoever asks after this returned gets what is loaded after it was called.

        Raises `OutcomeUnknownError` when the store does not answer; then the old value lives on until its time.
        """
        for name in names:
            _check(name, 1.0)
            await retrying_idempotent(partial(self._delete, name), writes=True)
            self._forget(name)
            # To other instances, whose lives it shortens; one that cannot hear holds nothing.
            await retrying_idempotent(partial(self._publish, name.encode()), writes=True)

    def describe(self) -> CachePicture:
        """A frozen picture."""
        counts = self._counts
        return CachePicture(
            counts["local"],
            counts["store"],
            counts["waited"],
            counts["loads"],
            counts["failures"],
            counts["unkept"],
            len(self._held),
            self._is_hearing,
        )

    # Inside -----------------------------------------------------------------------------------------------------------

    async def _fly(self, name: str, load: Callable[[], Awaitable[T]], ttl_s: float) -> T:
        claimant = secrets.token_hex(8)
        keys = [self._key(name), self._key(name, "claim")]
        deletes = self._deletes[name] = self._deletes.get(name, 0)
        give_up_at = self._clock.now() + self._claim_s
        while True:
            news = self._news
            answer = await self._ask(READ_OR_CLAIM, keys, [claimant, round(self._claim_s * 1000)])
            if answer is None:
                return await self._load(load, is_kept=False)
            if answer[0] == 1:
                self._counts["store"] += 1
                value = self._decode(answer[1])
                self._hold(name, value, min(ttl_s, max(answer[2], 0) / 1000), deletes)
                return value
            if answer[0] == 2:
                return await self._load_and_fill(name, load, ttl_s, keys, claimant, deletes)
            if self._clock.now() >= give_up_at:
                return await self._load(load, is_kept=False)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), LOOK_S_MAX * self._chance.uniform(0.1, 1.0))

    async def _load_and_fill(
        self, name: str, load: Callable[[], Awaitable[T]], ttl_s: float, keys: list[str], claimant: str, deletes: int
    ) -> T:
        try:
            value = await self._load(load, is_kept=True)
            data = self._encode(value)
            if len(data) > VALUE_BYTES_MAX:
                raise TooLargeError(f"cache: the value of {name!r} is over {VALUE_BYTES_MAX} bytes")
        except BaseException:
            await self._ask(GIVE_UP, keys[1:], [claimant])
            raise
        life_s = ttl_s * (1 - self._jitter * self._chance.random())
        if await self._ask(FILL, keys, [claimant, data, max(round(life_s * 1000), 1)]):
            self._hold(name, value, life_s, deletes)
            with contextlib.suppress(RedisError):
                # Only who waits for it is interested; what is held of it elsewhere is the same.
                await self._publish(b"")
        else:
            self._counts["unkept"] += 1
        return value

    async def _delete(self, name: str) -> None:
        await self._store.delete(self._key(name), self._key(name, "claim"))

    async def _publish(self, data: bytes) -> None:
        await self._store.publish(self._channel, data)

    async def _load(self, load: Callable[[], Awaitable[T]], *, is_kept: bool) -> T:
        self._counts["loads"] += 1
        self._counts["unkept"] += not is_kept
        try:
            return await load()
        except Exception:
            self._counts["failures"] += 1
            raise

    async def _ask(self, script: Script, keys: list[str], arguments: list[str | bytes | int]) -> Any:
        """What the script answers; None when the store is away."""
        try:
            return await retrying_idempotent(
                lambda: script.run(self._store, keys, arguments), writes=True, budget_s=STORE_S_MAX
            )
        except NoctuleError as error:
            log.warning("cache_store_away", extra={"reason": str(error)})
            return None

    def _hold(self, name: str, value: T, life_s: float, deletes: int) -> None:
        """Unless it was deleted since the flight began: what was read before is not what is true now."""
        if not self._items_max or not self._is_hearing or self._deletes.get(name) != deletes:
            return
        self._held[name] = _Held(value, self._clock.now() + min(life_s, self._local_ttl_s))
        self._held.move_to_end(name)
        if len(self._held) > self._items_max:
            self._held.popitem(last=False)

    def _landed(self, name: str, flight: "asyncio.Task[T]") -> None:
        if self._flights.get(name) is flight:
            del self._flights[name]
            self._deletes.pop(name, None)

    def _forget(self, name: str) -> None:
        self._held.pop(name, None)
        # Those who wait get what it brings; whoever comes now must not.
        self._flights.pop(name, None)
        if name in self._deletes:
            self._deletes[name] += 1

    async def _hear(self) -> None:
        """Follow the deletes of all instances until cancelled; while that is not possible nothing is held."""
        while True:
            try:
                await self._store.initialize()  # A client of a cluster knows nobody to ask before.
                async with self._store.pubsub() as channel:
                    await channel.subscribe(self._channel)
                    async for message in channel.listen():
                        self._take(message)
            except (RedisError, OSError) as error:
                log.warning("cache_not_hearing", extra={"reason": type(error).__name__})
            finally:
                self._is_hearing = False
                self._held.clear()
            await asyncio.sleep(RECONNECT_S)

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            # What was read until now may have been deleted unheard.
            for name in self._deletes:
                self._deletes[name] += 1
            self._is_hearing = True
        elif message["type"] == "message" and message["data"]:
            self._forget(message["data"].decode(errors="replace"))
        # Each who waits looks again, and those who come after wait for the next.
        self._news.set()
        self._news = asyncio.Event()

    def _key(self, name: str, part: str = "") -> str:
        return f"{self._prefix}{{{name}}}" + (f":{part}" if part else "")


def _check(name: str, ttl_s: float) -> None:
    if not 0 < len(name.encode()) <= NAME_BYTES_MAX or set("{}") & set(name):
        raise ConfigError(f"cache: a name is 1 to {NAME_BYTES_MAX} bytes without braces")
    if not ttl_s > 0:
        raise ConfigError(f"cache: ttl_s is {ttl_s:g}; it must be more than 0")
