"""Scripts on real clusters: a digest is never forgotten, a limit never exceeded, an effect never doubled."""

import asyncio
from itertools import count

import pytest
from cluster_processes import CATCHES_UP_S_MAX, Door, NodeCluster, StartNodes, until, until_ready
from limits import RateLimitItemPerMinute, storage, strategies
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError, WatchError

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

TAKE = """
local taken = redis.call('incr', KEYS[1])
redis.call('append', KEYS[2], ARGV[1] .. ',')
return {taken, redis.call('get', KEYS[2])}
"""
LIMIT = 40
CLIENTS = 8


async def running(start_nodes: StartNodes, **settings: str) -> tuple[NodeCluster, dict[int, Door]]:
    """Three nodes that serve."""
    cluster = start_nodes(partitions=4)
    lives = cluster.start_all(**settings)
    doors = {number: await asyncio.to_thread(life.wait_serving) for number, life in lives.items()}
    await until_ready(*doors.values())
    return cluster, doors


async def test_a_digest_is_known_everywhere_and_after_the_death_of_any_leader(start_nodes: StartNodes) -> None:
    """NOSCRIPT after a failover is the classic outage (fastapi-limiter#19): here it cannot be."""
    cluster, doors = await running(start_nodes)
    async with doors[1].client() as first, doors[2].client() as second, doors[3].client() as third:
        digest = await first.script_load(TAKE)
        assert await second.evalsha(digest, 2, "{x}n", "{x}log", "a") == [1, b"a,"]
        seen = await second.eval("return ARGV[1]", 0, "b")
        assert seen == b"b"
        assert await first.script_exists(digest, "0" * 40) == [True, False]
        with pytest.raises(NoScriptError):
            await third.evalsha("f" * 40, 0)
        for number in (1, 2):
            cluster.life_of[number].kill()
            if number == 1:

                async def answers() -> bool:
                    try:
                        await third.evalsha(digest, 2, "{x}n", "{x}log", "c")
                    except NoScriptError:
                        raise
                    except RedisError:
                        return False
                    return True

                await until(answers, "the script on another leader")
                life = cluster.start(1)
                await until_ready(await asyncio.to_thread(life.wait_serving))
        # Two of three are left; the first of them has begun anew and has seen nothing itself.
        await until(answers, "the script after the second death")
        log = (await third.get("{x}log")).decode().split(",")[:-1]
        assert int(await third.get("{x}n")) == len(log) >= 3


async def test_a_script_runs_once_whatever_dies(start_nodes: StartNodes) -> None:
    """What one script writes stands together, and each call that was answered is there once."""
    cluster, doors = await running(start_nodes)
    numbers = count(1)
    answered: list[str] = []
    ends = asyncio.Event()

    async def call(client: Redis) -> None:
        while not ends.is_set():
            name = f"{next(numbers)}"
            try:
                taken, _ = await client.eval(TAKE, 2, "{y}n", "{y}log", name)
            except RedisError:
                continue
            answered.append(name)
            assert taken

    clients = [doors[2 + number % 2].client() for number in range(CLIENTS)]
    tasks = [asyncio.create_task(call(client), name="caller") for client in clients]
    try:
        await until(lambda: reached(answered, 100), "the first hundred calls")
        cluster.life_of[1].kill()
        so_far = len(answered)
        await until(lambda: reached(answered, so_far + 100), "another hundred calls after the death")
    finally:
        ends.set()
        await asyncio.gather(*tasks)
    log = (await clients[0].get("{y}log")).decode().split(",")[:-1]
    assert int(await clients[0].get("{y}n")) == len(log)
    assert len(set(log)) == len(log)
    assert set(answered) <= set(log)
    for client in clients:
        await client.aclose()


async def reached(names: list[str], enough: int) -> bool:
    return len(names) >= enough


@pytest.mark.parametrize(
    "strategy", ["FixedWindowRateLimiter", "MovingWindowRateLimiter", "SlidingWindowCounterRateLimiter"]
)
async def test_limits_admits_exactly_the_limit_on_three_nodes(doors: list[Door], strategy: str) -> None:
    """`limits` as it is, one storage for each node."""
    item = RateLimitItemPerMinute(LIMIT)
    stores = [storage.RedisStorage(f"redis://127.0.0.1:{door.resp_port}/0") for door in doors]
    limiters = [getattr(strategies, strategy)(store) for store in stores]

    def hit(number: int) -> int:
        return sum(limiters[number % 3].hit(item, "{user}") for _ in range(LIMIT // 4))

    admitted = await asyncio.gather(*(asyncio.to_thread(hit, number) for number in range(12)))
    assert sum(admitted) == LIMIT
    assert limiters[0].get_window_stats(item, "{user}").remaining == 0
    stores[0].reset()


async def test_scripts_in_transactions_and_in_databases(doors: list[Door]) -> None:
    """redis-py's pipelines are transactions unless told otherwise; keys in database 1 to 15 need no tags."""
    async with doors[0].client() as plain, Redis(port=doors[1].resp_port, db=3) as in_three:
        take = plain.register_script(TAKE)
        async with plain.pipeline(transaction=True) as pipeline:
            pipeline.set("{t}before", "1")
            await take(keys=["{t}n", "{t}log"], args=["a"], client=pipeline)
            await take(keys=["{t}n", "{t}log"], args=["b"], client=pipeline)
            pipeline.get("{t}log")
            assert await pipeline.execute() == [True, [1, b"a,"], [2, b"a,b,"], b"a,b,"]
        async with plain.pipeline() as watched:
            await watched.watch("{t}n")
            await plain.incr("{t}n")
            watched.multi()
            await take(keys=["{t}n", "{t}log"], args=["lost"], client=watched)
            with pytest.raises(WatchError):
                await watched.execute()
        assert await plain.get("{t}log") == b"a,b,"
        # Two keys without a common tag, and one that is not declared.
        assert await in_three.eval(TAKE, 2, "n", "log", "x") == [1, b"x,"]
        undeclared = "redis.call('set', 'elsewhere', KEYS[1]) return redis.call('keys', '*')"
        assert await in_three.eval(undeclared, 1, "n") == [b"elsewhere", b"log", b"n"]
        assert await in_three.get("elsewhere") == b"n"
        assert await plain.exists("n", "log", "elsewhere") == 0
        with pytest.raises(ResponseError, match="same slot"):
            await plain.eval("return 1", 2, "a", "b")
        assert await in_three.eval_ro("return redis.call('get', KEYS[1])", 1, "n") == b"1"


async def test_locks_of_redis_py_exclude_each_other(doors: list[Door]) -> None:
    inside = entered = 0

    async def work(door: Door) -> None:
        nonlocal inside, entered
        async with door.client() as client:
            for _ in range(5):
                async with client.lock("the lock", timeout=30, blocking_timeout=30):
                    inside += 1
                    entered += 1
                    assert inside == 1
                    await asyncio.sleep(0)
                    inside -= 1

    await asyncio.gather(*(work(door) for door in doors))
    assert entered == 15


async def test_an_endless_script_is_stopped_and_takes_everything_back(doors: list[Door]) -> None:
    async with doors[0].client(answer_timeout_s=30.0) as client:

        async def is_stopped(script: str, why: str) -> bool:
            """On a machine so busy that its leader is deposed meanwhile, again and again, nobody can say why."""
            with pytest.raises(ResponseError) as told:
                await client.eval(f"redis.call('set', KEYS[1], 'x') {script}", 1, "k")
            assert why in str(told.value) or str(told.value).startswith("UNKNOWN")
            assert await client.get("k") is None
            return why in str(told.value)

        endless, huge = "while true do pcall(error) end", "return string.rep('x', 1e9)"
        await until(lambda: is_stopped(endless, "over its budget"), "an endless script's end", CATCHES_UP_S_MAX)
        await until(lambda: is_stopped(huge, "too much memory"), "a huge script's end", CATCHES_UP_S_MAX)
        assert await client.eval("return redis.call('set', KEYS[1], 'y')", 1, "k") == b"OK"
        # A whole pipeline of them: the node lives, and answers others meanwhile.
        async with client.pipeline(transaction=False) as pipeline:
            for _ in range(6):
                pipeline.eval("while true do end", 1, "k")
            results = await pipeline.execute(raise_on_error=False)
        assert all(isinstance(result, ResponseError) for result in results)
