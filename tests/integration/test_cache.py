"""The read-through cache on real stores: one load for all, nothing old after a delete, and a store that goes away."""

import asyncio
import bisect
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from noctule.base.errors import ConfigError, TooLargeError
from noctule.kits.cache import Cache

if TYPE_CHECKING:
    from engines import RedisServer
    from redis_modes import RedisMode

pytest_plugins = ("engines", "redis_modes")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.engine("redis-server"),
    pytest.mark.usefixtures("clients_leave_connections"),
]

SOON_S = 5.0


class Source:
    """A database of one value, which counts how often it is asked."""

    def __init__(self, value: object = 1) -> None:
        self.value = value
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self) -> object:
        self.asked += 1
        value = self.value
        await self.gate.wait()
        return value


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():
            await asyncio.sleep(0.005)


async def hearing(caches: list[Cache[object]]) -> list[Cache[object]]:
    for cache in caches:
        cache.start()
    await until(lambda: all(cache.describe().is_hearing for cache in caches))
    return caches


@pytest.fixture
async def caches(redis_server: "RedisServer") -> AsyncIterator[list[Cache[object]]]:
    """Three instances that hear each other."""
    instances = [Cache[object](redis_server.url) for _ in range(3)]
    yield await hearing(instances)
    for instance in instances:
        await instance.aclose()


async def test_one_load_for_all_instances_and_requests(caches: list[Cache[object]]) -> None:
    source = Source({"name": "Ada"})
    source.gate.clear()
    asking = [asyncio.create_task(caches[n % 3].get("user:1", source.load)) for n in range(60)]
    await until(lambda: source.asked == 1)
    source.gate.set()
    assert await asyncio.gather(*asking) == [{"name": "Ada"}] * 60
    assert source.asked == 1
    assert await caches[0].get("user:1", source.load) == {"name": "Ada"}
    picture = caches[0].describe()
    assert picture.hits_local == 1
    assert picture.waited == 19


async def test_a_delete_is_heard_by_all(caches: list[Cache[object]]) -> None:
    source = Source(1)
    for cache in caches:
        assert await cache.get("n", source.load) == 1
    source.value = 2
    await caches[0].delete("n")
    assert await caches[0].get("n", source.load) == 2
    await until(lambda: not caches[1].describe().held and not caches[2].describe().held)
    assert [await cache.get("n", source.load) for cache in caches] == [2, 2, 2]
    assert source.asked == 2


async def test_what_was_loaded_before_a_delete_is_never_kept_after_it(caches: list[Cache[object]]) -> None:
    """The old value is read, the database changes, the cache is told, and only then the old value arrives."""
    source = Source("old")
    source.gate.clear()
    slow = asyncio.create_task(caches[0].get("n", source.load))
    await until(lambda: source.asked == 1)
    source.value = "new"
    await caches[1].delete("n")
    await until(lambda: not caches[0]._flights)
    fresh = asyncio.create_task(caches[0].get("n", source.load))
    await until(lambda: source.asked == 2)
    source.gate.set()
    assert await slow == "old", "it was asked for before the change"
    assert await fresh == "new"
    assert [await cache.get("n", source.load) for cache in caches] == ["new"] * 3
    assert caches[0].describe().unkept == 1


async def test_a_load_that_fails_is_raised_to_all_and_the_next_one_tries(caches: list[Cache[object]]) -> None:
    async def broken() -> object:
        raise RuntimeError("no database")

    results = await asyncio.gather(*(caches[0].get("n", broken) for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in results] == [RuntimeError] * 5
    assert caches[0].describe().load_failures == 1
    assert await caches[1].get("n", Source(3).load) == 3


async def test_a_loader_that_dies_holds_up_the_others_for_its_claim_only(redis_server: "RedisServer") -> None:
    dead, living = (Cache[object](redis_server.url, claim_s=0.3) for _ in range(2))
    source = Source()
    source.gate.clear()
    asking = asyncio.create_task(dead.get("n", source.load))
    await until(lambda: source.asked == 1)
    assert await asyncio.wait_for(living.get("n", Source(2).load), SOON_S) == 2
    asking.cancel()
    for cache in (dead, living):
        await cache.aclose()


async def test_lives_differ_and_end(redis_server: "RedisServer") -> None:
    cache = Cache[object](redis_server.url, local_ttl_s=0, jitter=0.5, chance=random.Random(7))
    source = Source()
    try:
        for number in range(20):
            await cache.get(f"n{number}", source.load, ttl_s=100.0)
        lives = [await cache._store.pttl(f"cache:{{n{number}}}") for number in range(20)]
        assert 45_000 < min(lives) < 70_000 < 80_000 < max(lives) <= 100_000
        await cache.get("short", source.load, ttl_s=0.05)
        before = source.asked
        await asyncio.sleep(0.06)  # What is looked at is time passing.
        await cache.get("short", source.load, ttl_s=0.05)
        assert source.asked == before + 1
    finally:
        await cache.aclose()


async def test_a_store_that_is_away_is_no_cache_and_no_failure(
    caches: list[Cache[object]], redis_server: "RedisServer"
) -> None:
    source = Source(1)
    assert await caches[0].get("n", source.load) == 1
    redis_server.kill()
    await until(lambda: not caches[0].describe().is_hearing)
    source.value = 2
    assert await caches[0].get("n", source.load) == 2, "nothing is held that nobody could have said was deleted"
    redis_server.start()
    await until(lambda: caches[0].describe().is_hearing)
    assert await caches[0].get("n", source.load) == 2
    assert await caches[0].get("n", source.load) == 2
    assert source.asked == 3


async def test_what_does_not_fit_is_refused(caches: list[Cache[object]]) -> None:
    with pytest.raises(TooLargeError, match="1048576"):
        await caches[0].get("n", Source("x" * (1 << 20)).load)
    with pytest.raises(ConfigError, match="braces"):
        await caches[0].get("{n}", Source().load)
    with pytest.raises(ConfigError, match="jitter"):
        Cache[object]("redis://127.0.0.1:1", jitter=2.0)


async def test_the_hit_rate_of_a_popular_few(caches: list[Cache[object]]) -> None:
    """Row N-99: over 95% where popularity follows Zipf, as that of pages does."""
    chance = random.Random(1)
    weights, total = [], 0.0
    for rank in range(1, 1001):
        total += 1 / rank
        weights.append(total)

    def name() -> str:
        return f"page:{bisect.bisect_left(weights, chance.random() * total)}"

    def loader(page: str) -> Callable[[], Awaitable[object]]:
        return Source(page).load

    for number in range(20_000):
        page = name()
        assert await caches[number % 3].get(page, loader(page)) == page
    pictures = [cache.describe() for cache in caches]
    loads = sum(picture.loads for picture in pictures)
    assert loads <= 1000, "each page is loaded once for all instances"
    assert 1 - loads / 20_000 >= 0.95


async def test_redis_cluster_and_sentinels(redis_mode: "RedisMode") -> None:
    instances = [Cache[object](redis_mode.url) for _ in range(2)]
    source = Source(1)
    try:
        await hearing(instances)
        assert [await cache.get("n", source.load) for cache in instances] == [1, 1]
        source.value = 2
        await instances[0].delete("n")
        await until(lambda: not instances[1].describe().held)
        assert await instances[1].get("n", source.load) == 2
        assert source.asked == 2
    finally:
        for cache in instances:
            await cache.aclose()
