"""Locks that all instances share: leases with a fencing token, semaphores, and the election of one instance.

    locks = Locks()
    async with locks.lock("nightly-report", ttl_s=10) as lease:
        await write_report(token=lease.token)

**A lock alone protects nothing.** A process can be paused for longer than its lease, and go on as if it still held it.
What is protected must be told the token, and refuse a smaller one than the largest it has seen: then a holder of the
past is refused there, whatever it believes. Where that cannot be done, a lock saves double work and promises no more.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, NoctuleError, RequestError, UnavailableError
from noctule.kits.lock_scripts import ACQUIRE, HOLDERS, RELEASE, REMEMBERED_MS, RENEW, WAKE_MS
from noctule.kits.scripts import Script
from noctule.kits.store import connect, retrying_idempotent

TTL_S_MIN = 0.5
"""Shorter leases would be lost to every change of the store's leader."""
TTL_S_MAX = 3600.0
PERMITS_MAX = 100
"""Holders of a semaphore; each acquisition looks at all of them."""
RENEW_SHARE = 3
"""A lease is renewed when a third of it has passed, so that two renewals may fail."""
LOOK_S_MAX = 1.0
"""Whoever waits looks at least so often, though nobody has let go."""
RELEASE_S_MAX = 1.0
"""For letting go; a lock that is not let go of ends by its time."""
NAME_BYTES_MAX = 256

log = logging.getLogger("noctule.kits.locks")


class LeaseLostError(RequestError):
    """The lease ended while its holder was still at work: it could not be renewed, or the store gave it to another."""

    code = "lease_lost"
    outcome = "unknown"


@dataclass(slots=True)
class Lease:
    """A lock that is held. Good as long as `is_held`, by this process' clock, which may be paused: see `token`."""

    name: str
    token: int
    """The fencing token: larger than that of every holder before."""
    owner: str
    until: float
    """By this process' monotonic clock; counted from before the store was asked, so never later than in the store."""
    _clock: Clock
    _lost: asyncio.Event

    @property
    def is_held(self) -> bool:
        """Whether the lease has not ended, as far as this process knows."""
        return not self._lost.is_set() and self._clock.now() < self.until

    async def wait_lost(self) -> None:
        """Return when it is lost."""
        await self._lost.wait()


@dataclass(frozen=True, slots=True)
class LockPicture:
    """A lock as the store has it."""

    name: str
    holders: int
    last_token: int
    """0 when nobody held it within a day."""


class Locks:
    """Locks by name in one store. `store` as everywhere: a client that gives bytes, a URL, or the environment's."""

    def __init__(
        self,
        store: Redis | str | None = None,
        *,
        prefix: str = "lock:",
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        self._owns_store = store is None or isinstance(store, str)
        if store is None or isinstance(store, str):
            store = connect(store)
        self._store = store
        self._prefix = prefix
        self._clock = clock

    async def acquire(
        self, name: str, *, ttl_s: float = 10.0, wait_s: float = 0.0, permits: int = 1, owner: str = ""
    ) -> Lease | None:
        """A lease of the lock, or None when it is not to be had within `wait_s` seconds.

        `permits` is how many may hold it, and must be the same for all. `owner` is drawn unless it is given; one that
        holds a lease has it extended. Nobody renews this lease: `renew` does, once. Raises `OutcomeUnknownError` when
        the store does not answer: a permit may be taken then, until its time has passed.
        """
        _check(name, ttl_s, permits)
        owner = owner or secrets.token_hex(16)
        give_up_at = self._clock.now() + wait_s
        while True:
            begun = self._clock.now()
            token, ms = await self._run(
                ACQUIRE, [self._key(name)], [owner, _ms(ttl_s), REMEMBERED_MS, permits], budget_s=ttl_s
            )
            if token:
                return Lease(name, int(token), owner, begun + ttl_s, self._clock, asyncio.Event())
            left_s = give_up_at - self._clock.now()
            if left_s <= 0:
                return None
            await self._wait_released(name, min(left_s, ms / 1000, LOOK_S_MAX))

    async def renew(self, lease: Lease, ttl_s: float) -> bool:
        """Begin the lease anew; False when it is lost, and then it stays so. Raises `OutcomeUnknownError`."""
        begun = self._clock.now()
        arguments: list[str | int] = [lease.owner, _ms(ttl_s), REMEMBERED_MS]
        is_held = await self._run(RENEW, [self._key(lease.name)], arguments, budget_s=ttl_s / RENEW_SHARE)
        if is_held:
            lease.until = begun + ttl_s
        else:
            lease._lost.set()
        return bool(is_held)

    async def release(self, lease: Lease) -> bool:
        """Let go; whether it was still held. Raises `OutcomeUnknownError`: then it ends by its time."""
        keys = [self._key(lease.name), self._key(lease.name, "wake")]
        was_held = await self._run(RELEASE, keys, [lease.owner, WAKE_MS], budget_s=RELEASE_S_MAX)
        lease._lost.set()
        return bool(was_held)

    @asynccontextmanager
    async def lock(
        self, name: str, *, ttl_s: float = 10.0, wait_s: float = 10.0, permits: int = 1
    ) -> AsyncIterator[Lease]:
        """Hold a lock for the block, renewed as long as it takes.

        Raises `UnavailableError` when it is not to be had in time; the block was not begun then. When the lease is
        lost, the block is cancelled where it stands and `LeaseLostError` raised.
        """
        lease = await self.acquire(name, ttl_s=ttl_s, wait_s=wait_s, permits=permits)
        if lease is None:
            raise UnavailableError(f"the lock {name!r} was held by others for {wait_s:g} s")
        try:
            # The way in which asyncio ends a block early, and tells that from a cancellation from outside.
            async with asyncio.timeout(None) as patience:
                keeper = asyncio.create_task(self._keep(lease, ttl_s, patience), name=f"lease-{name}")
                try:
                    yield lease
                finally:
                    keeper.cancel()
                    await asyncio.wait([keeper])
        except TimeoutError:
            if patience.expired():
                raise LeaseLostError(f"the lock {name!r} was lost while it was held") from None
            raise
        finally:
            await self._let_go(lease)

    def semaphore(
        self, name: str, permits: int, *, ttl_s: float = 10.0, wait_s: float = 10.0
    ) -> AbstractAsyncContextManager[Lease]:
        """As `lock`, for up to `permits` holders at once; the tokens of holders differ and grow."""
        return self.lock(name, ttl_s=ttl_s, wait_s=wait_s, permits=permits)

    async def lead(self, name: str, work: Callable[[Lease], Awaitable[None]], *, ttl_s: float = 10.0) -> None:
        """Let one of all instances do some work: whoever holds the lock runs `work`, the others wait until it ends.

        Runs until cancelled. When the lease is lost the work is cancelled, and this instance waits for its turn again;
        when the work returns, too. What the work raises is raised.
        """
        while True:
            try:
                async with self.lock(name, ttl_s=ttl_s, wait_s=float("inf")) as lease:
                    log.info("leadership_begun", extra={"lock": name})
                    await work(lease)
            except LeaseLostError:
                log.warning("leadership_lost", extra={"lock": name})
            except NoctuleError as error:
                log.warning("leadership_unknown", extra={"lock": name, "reason": str(error)})
                await asyncio.sleep(LOOK_S_MAX)  # The store is away, and nothing tells when it is back.
            else:
                log.info("leadership_ended", extra={"lock": name})

    async def show(self, name: str) -> LockPicture:
        """Who holds it. Raises `UnavailableError` or `RequestError`."""
        holders, token = await retrying_idempotent(
            lambda: HOLDERS.run(self._store, [self._key(name)], [""]), writes=False
        )
        return LockPicture(name, holders, int(token))

    async def aclose(self) -> None:
        """Close the store's client if this object made it; leases end by their time."""
        if self._owns_store:
            await self._store.aclose()

    # Inside -----------------------------------------------------------------------------------------------------------

    async def _keep(self, lease: Lease, ttl_s: float, patience: asyncio.Timeout) -> None:
        """Renew until it is lost, and then end the holder's block; else ends by being cancelled."""
        pause_s = ttl_s / RENEW_SHARE
        while lease.is_held:
            await asyncio.sleep(min(pause_s, max(lease.until - self._clock.now(), 0.0)))
            try:
                if not await self.renew(lease, ttl_s):
                    break
            except NoctuleError as error:
                log.info("lease_not_renewed", extra={"lock": lease.name, "reason": str(error)})
        lease._lost.set()
        log.warning("lease_lost", extra={"lock": lease.name})
        patience.reschedule(asyncio.get_running_loop().time())

    async def _let_go(self, lease: Lease) -> None:
        try:
            await self.release(lease)
        except NoctuleError as error:
            log.info("lease_not_released", extra={"lock": lease.name, "reason": str(error)})

    async def _wait_released(self, name: str, timeout_s: float) -> None:
        """Until somebody lets go, or the time has passed; a store that cannot wait is looked at again soon."""
        client: Any = self._store
        try:
            await client.blpop([self._key(name, "wake")], timeout=max(timeout_s, 0.01))
        except RedisError:
            await asyncio.sleep(min(timeout_s, LOOK_S_MAX / 10))

    async def _run(
        self, script: Script, keys: Sequence[str], arguments: Sequence[str | int], *, budget_s: float
    ) -> Any:
        return await retrying_idempotent(
            lambda: script.run(self._store, keys, arguments), writes=True, budget_s=budget_s, attempts_max=1_000
        )

    def _key(self, name: str, part: str = "") -> str:
        return f"{self._prefix}{{{name}}}" + (f":{part}" if part else "")


def _check(name: str, ttl_s: float, permits: int) -> None:
    if not 0 < len(name.encode()) <= NAME_BYTES_MAX or set("{}") & set(name):
        raise ConfigError(f"lock {name!r}: a name is 1 to {NAME_BYTES_MAX} bytes without braces")
    if not TTL_S_MIN <= ttl_s <= TTL_S_MAX:
        raise ConfigError(f"lock {name!r}: ttl_s is {ttl_s:g}; it must be {TTL_S_MIN:g} to {TTL_S_MAX:g}")
    if not 1 <= permits <= PERMITS_MAX:
        raise ConfigError(f"lock {name!r}: permits is {permits}; it must be 1 to {PERMITS_MAX}")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
