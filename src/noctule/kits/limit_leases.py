"""Local decisions within a shared limit: an instance takes some requests' worth at once and spends it by itself.

    leases = Leases(limiter, size=20)
    admitted = await leases.hit(API, "user:ada")

A decision from a lease costs a microsecond and no message. The price is exactness, by a stated bound: a lease that was
taken at the end of one window may be spent in the next, so a window admits up to `limit + instances * size`; and what
an instance took and did not spend is lost to the others until the window has passed.
"""

import asyncio
from dataclasses import dataclass

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError
from noctule.core.limits.policy import Policy
from noctule.kits.limiter import Limiter

LEASES_MAX = 10_000
"""Subjects with a lease at one time; the oldest goes first, and what it had left with it."""


@dataclass(slots=True)
class _Lease:
    left: int
    until: float
    is_refused: bool = False
    """There was no whole lease left: until then single requests are asked for."""


class Leases:
    """Leases of one instance. `size`: requests that one lease is worth; `lease_s`: when the rest of it is void."""

    def __init__(
        self,
        limiter: Limiter,
        *,
        size: int = 10,
        lease_s: float = 1.0,
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        if size < 2 or lease_s <= 0:
            raise ConfigError("rate limit leases: size must be 2 or more, and lease_s more than 0")
        self._limiter = limiter
        self._size = size
        self._lease_s = lease_s
        self._clock = clock
        self._leases: dict[tuple[str, str], _Lease] = {}
        self._asking: dict[tuple[str, str], asyncio.Future[bool]] = {}

    async def hit(self, policy: Policy, subject: str) -> bool:
        """Whether a request of cost 1 passes. Concurrent requests of a subject that has no lease ask once for all."""
        key = (policy.name, subject)
        while not self._spend(key):
            asking = self._asking.get(key)
            if asking is None:
                return await self._ask(key, policy, subject)
            if not await asyncio.shield(asking):
                return False
        return True

    def _spend(self, key: tuple[str, str]) -> bool:
        lease = self._leases.get(key)
        if lease is None:
            return False
        if self._clock.now() >= lease.until:
            del self._leases[key]
        elif lease.left:
            lease.left -= 1
            return True
        return False

    async def _ask(self, key: tuple[str, str], policy: Policy, subject: str) -> bool:
        """A lease, or the single request if no whole lease is left; the first request is taken out of it."""
        answer = self._asking[key] = asyncio.get_running_loop().create_future()
        is_admitted = False
        try:
            size = min(self._size, policy.limit)
            lease = self._leases.get(key)
            if lease is None or not lease.is_refused:
                is_admitted = (await self._limiter.hit([policy], [subject], cost=size)).is_admitted
                self._keep(key, size - 1 if is_admitted else 0, is_refused=not is_admitted)
            if not is_admitted:
                is_admitted = (await self._limiter.hit([policy], [subject])).is_admitted
            return is_admitted
        finally:
            del self._asking[key]
            answer.set_result(is_admitted)

    def _keep(self, key: tuple[str, str], left: int, *, is_refused: bool) -> None:
        self._leases[key] = _Lease(left, self._clock.now() + self._lease_s, is_refused)
        if len(self._leases) > LEASES_MAX:
            del self._leases[next(iter(self._leases))]
