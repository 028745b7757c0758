"""Revocations pushed to every instance: a check costs no message, and never believes what is too old.

For each shard one task reads the log behind its cursor and then waits on the stream itself, so a revocation is here as
soon as the store has it. A wait ends after `WAIT_S` in any case, and the next reading shows that nothing was missed:
how long ago the last such reading *began* is the staleness. Beyond `staleness_s_max` every check is refused (503):
an instance that is cut off cannot know who was signed out.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, cast

from redis.exceptions import RedisError

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, NoctuleError, UnavailableError
from noctule.kits.jwt.claims import AccessToken
from noctule.kits.oauth2.grants import FOLLOW_ENTRIES_MAX, Grants
from noctule.kits.oauth2.revocation_state import ShardRevocations

WAIT_S = 1.0
"""Of one wait on a stream."""
PAUSE_S_MAX = 0.5
"""After a failure, before the next reading: half of it at least."""
STALENESS_S_MAX = 5.0

log = logging.getLogger("noctule.kits.oauth2")


@dataclass(frozen=True, slots=True)
class RevocationPicture:
    """For metrics and status pages."""

    staleness_s: float
    """Of the shard that was read longest ago; infinite before the first reading."""
    staleness_s_max: float
    is_stale: bool
    entries: int
    """Revocations in memory."""
    refused: int
    """Checks that found their token revoked."""
    refused_stale: int
    """Checks that were refused because of staleness."""


class Revocations:
    """Follows the logs of all shards. `start` it, or use it in ``async with``; `aclose` ends its tasks."""

    def __init__(
        self,
        grants: Grants,
        *,
        staleness_s_max: float = STALENESS_S_MAX,
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
        chance: random.Random | None = None,
    ) -> None:
        if staleness_s_max < 2 * WAIT_S:
            raise ConfigError(f"revocations: staleness_s_max must be at least {2 * WAIT_S:g}, two waits on the log")
        self._grants = grants
        self._staleness_s_max = staleness_s_max
        self._clock = clock
        self._chance = chance or random.Random()
        self._shards = [ShardRevocations() for _ in range(grants.shards)]
        self._tasks: list[asyncio.Task[None]] = []
        self._is_following = False
        self._changed = asyncio.Event()
        self._stale: set[int] = set()
        self._refused = self._refused_stale = 0

    def start(self) -> None:
        """Begin to follow, on the running loop; harmless the second time."""
        if not self._tasks:
            self._is_following = True
            self._tasks = [
                asyncio.create_task(self._follow(number), name=f"revocations {number}")
                for number in range(len(self._shards))
            ]

    async def wait_fresh(self, timeout_s: float = STALENESS_S_MAX) -> None:
        """Until checks are answered. Raises `UnavailableError` after `timeout_s`."""
        self.start()
        try:
            async with asyncio.timeout(timeout_s):
                while self.staleness_s > self._staleness_s_max:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise UnavailableError(f"the log of revocations was not read within {timeout_s:g} s") from None

    @property
    def staleness_s(self) -> float:
        """How old what is known here may be."""
        return self._clock.now() - min(shard.fresh_at for shard in self._shards)

    def check(self, token: AccessToken) -> bool:
        """Whether a token is not revoked. Raises `UnavailableError` when that cannot be told (503, fail closed)."""
        number = self._grants.shard(token.subject)
        shard = self._shards[number]
        if shard.refuses(token):
            self._refused += 1
            return False
        is_stale = self._clock.now() - shard.fresh_at > self._staleness_s_max
        if is_stale != (number in self._stale):
            self._say(number, is_stale)
        if is_stale:
            self._refused_stale += 1
            raise UnavailableError("it cannot be told whether the access token was revoked; try again")
        return True

    def describe(self) -> RevocationPicture:
        """A frozen picture."""
        staleness_s = self.staleness_s
        return RevocationPicture(
            staleness_s,
            self._staleness_s_max,
            staleness_s > self._staleness_s_max,
            sum(map(len, self._shards)),
            self._refused,
            self._refused_stale,
        )

    async def aclose(self) -> None:
        """End the tasks; the grants and their store stay the caller's."""
        # redis-py can lose a cancellation that comes together with an answer (seen in 1 of 100, 8.1.0).
        self._is_following = False
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> "Revocations":
        await self.wait_fresh()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # Inside -----------------------------------------------------------------------------------------------------------

    def _say(self, number: int, is_stale: bool) -> None:
        if is_stale:
            self._stale.add(number)
            log.warning("revocations_stale", extra={"shard": number})
        else:
            self._stale.discard(number)
            log.info("revocations_fresh", extra={"shard": number})

    async def _follow(self, number: int) -> None:
        shard = self._shards[number]
        while self._is_following:
            try:
                if await self._read(number, shard):
                    await self._wait(number, shard)
            except (NoctuleError, RedisError, OSError) as error:
                log.info("revocations_not_read", extra={"shard": number, "reason": type(error).__name__})
                await asyncio.sleep(PAUSE_S_MAX * (0.5 + self._chance.random() / 2))

    async def _read(self, number: int, shard: ShardRevocations) -> bool:
        """Read once; whether that was all."""
        asked_at = self._clock.now()
        is_reset, entries = await self._grants.follow(number, shard.cursor)
        keep_s = self._grants.times.keep_s
        shard.apply(entries, self._clock.now(), keep_s, is_reset=is_reset)
        if len(entries) >= FOLLOW_ENTRIES_MAX:
            return False
        shard.fresh_at = asked_at
        self._changed.set()
        return True

    async def _wait(self, number: int, shard: ShardRevocations) -> None:
        streams: dict[Any, Any] = {self._grants.log_key(number): shard.cursor}
        await cast("Awaitable[Any]", self._grants.store.xread(streams, count=1, block=int(WAIT_S * 1000)))
