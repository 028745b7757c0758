"""The kits on Redis Cluster and on Redis under Sentinels: the same code with another URL, and a master that dies."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from noctule.base.errors import NoctuleError
from noctule.core.limits.policy import Policy
from noctule.kits.limiter import Limiter
from noctule.kits.store import connect, retrying_idempotent

if TYPE_CHECKING:
    from redis_modes import RedisMode

pytest_plugins = ("engines", "redis_modes")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.engine("redis-server"),
    pytest.mark.usefixtures("clients_leave_connections"),
]

FAILOVER_S_MAX = 20.0


async def test_a_cold_burst_and_a_master_that_dies(redis_mode: "RedisMode") -> None:
    """The first commands come all at once; after the death of the master the same client goes on by itself."""
    store = connect(redis_mode.url, answer_timeout_s=1.0)
    try:
        names = [f"key:{{{number}}}" for number in range(64)]
        await asyncio.gather(*(store.set(name, "before") for name in names))
        await asyncio.to_thread(redis_mode.kill_master_of, names[0])

        async def write() -> object:
            return await store.set(names[0], "after")

        await retrying_idempotent(write, writes=True, budget_s=FAILOVER_S_MAX, attempts_max=200)
        assert await store.get(names[0]) == b"after"

        async def read(name: str) -> object:
            return await retrying_idempotent(lambda: store.get(name), writes=False, budget_s=FAILOVER_S_MAX)

        # What had not reached the replica is gone, which is what these promise; nothing else is there instead.
        assert {await read(name) for name in names[1:]} <= {b"before", None}
    finally:
        await store.aclose()


async def test_one_limit_and_a_master_that_dies(redis_mode: "RedisMode") -> None:
    """Exact while all is well; meanwhile each instance goes on with its share, and they share again after it."""
    policy = Policy(name="shared", limit=30, window_s=600.0)
    instances = [Limiter(redis_mode.url, abuse=None, instances=3, patience_s=0.5) for _ in range(3)]

    async def is_shared() -> bool:
        decision = await instances[0].hit([policy], ["user:later"])
        return not decision.is_local

    try:
        decisions = await asyncio.gather(*(instances[n % 3].hit([policy], ["user:ada"]) for n in range(90)))
        assert sum(each.is_admitted for each in decisions) == 30
        assert not any(each.is_local for each in decisions)
        await asyncio.to_thread(redis_mode.kill_master_of, "rate-limit:shared:{user:bob}")
        admitted = sum([(await instances[n % 3].hit([policy], ["user:bob"])).is_admitted for n in range(45)])
        assert 30 <= admitted <= 60, "each admits a third by itself, and the store, once it is back, what it knows of"
        async with asyncio.timeout(FAILOVER_S_MAX):
            while not await is_shared():
                await asyncio.sleep(0.1)
    finally:
        for instance in instances:
            await instance.aclose()


async def test_sentinels_that_are_away_are_told_as_such(sentinel_mode: "RedisMode") -> None:
    sentinel_mode.processes.close()
    store = connect(sentinel_mode.url)
    try:
        with pytest.raises(NoctuleError, match="did not answer"):
            await retrying_idempotent(lambda: store.get("key"), writes=False, budget_s=0.5)
    finally:
        await store.aclose()
