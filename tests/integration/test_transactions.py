"""Transactions and databases on three real nodes, through redis-py: optimistic loops, a leader killed, pipelines."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import redis
from cluster_processes import Door, StartUp, until
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError, WatchError

from noctule.core.placement.slots import key_slot

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

LOOPS = 6
TURNS = 25
TRANSFERS = 4


@asynccontextmanager
async def connected(door: Door, database: int = 0, protocol: int = 3) -> AsyncIterator[Redis]:
    client = Redis(
        host="127.0.0.1",
        port=door.resp_port,
        db=database,
        protocol=protocol,
        socket_timeout=5.0,
        retry=None,
        decode_responses=True,
    )
    try:
        yield client
    finally:
        await client.aclose()


async def add_one(client: Redis, key: str) -> int:
    """Read, add and write, again until nobody came between; how often somebody did."""
    lost = 0
    async with client.pipeline() as pipe:
        while True:
            await pipe.watch(key)
            value = int(await pipe.get(key) or 0)
            pipe.multi()
            pipe.set(key, value + 1)
            try:
                await pipe.execute()
            except WatchError:
                lost += 1
            else:
                return lost


@pytest.mark.parametrize("database", [0, 5])
async def test_optimistic_loops_on_all_nodes_lose_no_addition(doors: list[Door], database: int) -> None:
    lost = 0

    async def loop(number: int) -> None:
        nonlocal lost
        async with connected(doors[number % len(doors)], database) as client:
            for _ in range(TURNS):
                lost += await add_one(client, "counter")

    await asyncio.gather(*(loop(number) for number in range(LOOPS)))
    assert lost, "the loops were never in each other's way, so this shows nothing"
    for door in doors:
        async with connected(door, database) as client:
            assert await client.get("counter") == str(LOOPS * TURNS)


async def test_what_was_changed_and_changed_back_stops_a_transaction(doors: list[Door]) -> None:
    for at, door in enumerate(doors):
        async with connected(door, 5) as client, connected(doors[at - 1], 5) as other:
            async with client.pipeline() as pipe:
                await pipe.watch("k", "l")
                await other.set("k", "x")
                await other.delete("k")
                pipe.multi()
                pipe.set("done", "yes")
                with pytest.raises(WatchError):
                    await pipe.execute()
            assert await other.exists("done") == 0


async def test_two_keys_that_are_written_together_are_equal_when_their_leader_is_killed(start_up: StartUp) -> None:
    cluster = start_up("--partitions", "4")
    doors = cluster.doors
    acknowledged: list[int] = []
    reads = 0
    is_over = False

    async def write(number: int) -> None:
        turn = number
        value = number
        while not is_over:
            try:
                async with connected(doors[turn % len(doors)]) as client:
                    while not is_over:
                        value += TRANSFERS
                        pipe = client.pipeline()
                        pipe.set("{pair}a", value).incr("{pair}count").set("{pair}b", value)
                        replies = await pipe.execute()
                        acknowledged.append(replies[1])
                        await asyncio.sleep(0.002)
            except RedisError:
                turn += 1
                await asyncio.sleep(0.02)

    async def read() -> None:
        nonlocal reads
        turn = 0
        while not is_over:
            try:
                async with connected(doors[turn % len(doors)]) as client:
                    while not is_over:
                        first, second = await client.mget("{pair}a", "{pair}b")
                        assert first == second
                        reads += 1
                        await asyncio.sleep(0.002)
            except RedisError:
                turn += 1
                await asyncio.sleep(0.02)

    async def until_written() -> None:
        wanted = len(acknowledged) + 2 * TRANSFERS

        async def is_written() -> bool:
            return len(acknowledged) >= wanted

        await until(is_written, "acknowledged transactions")

    slot = key_slot(b"pair")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(write(number)) for number in range(TRANSFERS)]
        tasks.append(group.create_task(read()))
        await until_written()
        for _ in range(2):
            picture = await doors[0].picture() or await doors[1].picture()
            assert picture is not None
            (led,) = [each for each in picture.groups if each.first_slot <= slot <= each.last_slot]
            victim = next(door for door in doors if door.id == led.leader)
            killed = await cluster.kill_node(victim)
            await until_written()
            await cluster.until_back(victim, killed)
        is_over = True
    assert reads
    assert len(set(acknowledged)) == len(acknowledged), "a transaction was applied twice"
    for door in doors:
        async with connected(door) as client:
            first, second, count = await client.mget("{pair}a", "{pair}b", "{pair}count")
            assert first == second
            assert int(count) >= max(acknowledged)


async def test_databases_on_three_nodes(doors: list[Door]) -> None:
    for protocol in (2, 3):
        async with (
            connected(doors[2], 0, protocol) as zero,
            connected(doors[0], 1, protocol) as one,
            connected(doors[1], 2, protocol) as two,
        ):
            await one.mset({f"k{number}": "1" for number in range(20)})
            await two.mset({"k0": "2", "other": "2"})
            await zero.set("k0", "0")
            assert [await each.get("k0") for each in (zero, one, two)] == ["0", "1", "2"]
            assert [await each.dbsize() for each in (zero, one, two)] == [1, 20, 2]
            assert sorted(await one.keys("k1?")) == [f"k{number}" for number in range(10, 20)]
            assert {key async for key in one.scan_iter(count=3)} == {f"k{number}" for number in range(20)}
            assert [key async for key in zero.scan_iter(count=1000)] == ["k0"]
            assert await one.rename("k0", "renamed") is True
            assert await one.copy("renamed", "copied") is True
            await zero.flushdb()
            assert [await each.dbsize() for each in (zero, one, two)] == [0, 21, 2]
            await one.flushdb()
            assert [await each.dbsize() for each in (zero, one, two)] == [0, 0, 2]
            await zero.flushall()
            assert await two.dbsize() == 0


async def test_keys_of_several_partitions_are_transacted_in_a_database_only(doors: list[Door]) -> None:
    async with connected(doors[0]) as zero, connected(doors[0], 1) as one:
        for client in (zero, one):
            pipe = client.pipeline()
            for number in range(50):
                pipe.set(f"k{number}", number)
            if client is one:
                assert await pipe.execute() == [True] * 50
            else:
                with pytest.raises(RedisError, match="hash to the same slot"):
                    await pipe.execute()
        assert await zero.dbsize() == 0
        assert await one.dbsize() == 50


def test_pipelines_of_the_synchronous_client(doors: list[Door]) -> None:
    with redis.Redis(host="127.0.0.1", port=doors[0].resp_port, db=3, socket_timeout=5.0) as client:
        with client.pipeline() as pipe:
            pipe.set("a", 1).incr("a").hset("h", mapping={"f": "v"}).hgetall("h")
            assert pipe.execute() == [True, 2, 1, {b"f": b"v"}]
            pipe.set("s", "x").incr("s").get("s")
            replies = pipe.execute(raise_on_error=False)
            assert replies[0] is True
            assert isinstance(replies[1], ResponseError)
            assert replies[2] == b"x"

        def swap(pipe: redis.client.Pipeline) -> None:
            first, second = cast("list[bytes]", pipe.mget("a", "s"))
            pipe.multi()
            pipe.mset({"a": second, "s": first})

        assert client.transaction(swap, "a", "s") == [True]
        assert client.mget("a", "s") == [b"x", b"2"]
        with client.pipeline(transaction=False) as pipe:
            assert pipe.get("a").dbsize().execute() == [b"x", 3]


async def test_who_waits_in_a_database_is_woken_by_a_transaction_and_waits_for_nothing_inside_one(
    doors: list[Door],
) -> None:
    async with connected(doors[0], 1) as waiting, connected(doors[1], 1) as pushing:
        popped = asyncio.create_task(waiting.blpop(["p", "q"], 5))
        await asyncio.sleep(0.2)  # Either way it is answered; mostly it waits by now.
        assert await pushing.pipeline().rpush("q", "1").rpush("q", "2").llen("q").execute() == [1, 2, 2]
        assert list(await popped) == ["q", "1"]
        assert await pushing.pipeline().blpop(["p"], 0).blpop(["q"], 0).execute() == [None, ["q", "2"]]
