"""ConsistencyLevel levels, durability and buckets on a cluster of processes."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from cluster_processes import Door, StartNodes, until, until_ready
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from noctule.base.consistency import ConsistencyLevel
from noctule.client.api import NodeClient

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

CONVERGES_S_MAX = 1.0
LOAD_CLIENTS = 8


@contextlib.asynccontextmanager
async def clients(doors: Sequence[Door]) -> AsyncIterator[list[Redis]]:
    """One for each node, closed at the end."""
    opened = [door.client() for door in doors]
    try:
        yield opened
    finally:
        for client in opened:
            await client.aclose()


@contextlib.asynccontextmanager
async def load(doors: Sequence[Door]) -> AsyncIterator[list[int]]:
    """Writes all the time, through every node; counts them."""
    done, is_over = [0], asyncio.Event()

    async def write(client: Redis, number: int) -> None:
        while not is_over.is_set():
            await client.set(f"load:{number}:{done[0] % 500}", b"x" * 100)
            done[0] += 1

    async with clients(list(doors) * LOAD_CLIENTS) as writers, asyncio.TaskGroup() as tasks:
        for number, client in enumerate(writers):
            tasks.create_task(write(client, number))
        try:
            yield done
        finally:
            is_over.set()


async def test_replicas_converge_under_load_and_say_how_old_they_are(start_nodes: StartNodes) -> None:
    """Spec: eventual consistency converges in less than a second."""
    doors = [life.wait_serving() for life in start_nodes().start_all().values()]
    await until_ready(*doors)
    delays, ages = [], []
    async with clients(doors) as (writer, *readers), load(doors) as done:
        for reader in readers:
            assert await reader.execute_command("NOCTULE", "CONSISTENCY", "eventual") == b"OK"
        for number in range(40):
            key = f"marker:{number}"
            await writer.set(key, "here")
            acknowledged = time.monotonic()
            for reader in readers:
                while await reader.get(key) is None:
                    assert time.monotonic() - acknowledged < CONVERGES_S_MAX, "not there within a second"
                delays.append(time.monotonic() - acknowledged)
                ages.append(await reader.execute_command("NOCTULE", "STALENESS", key))
            await asyncio.sleep(0.02)  # Spreads the samples over a second and more.
        assert done[0] > 100
    assert None not in ages
    print(f"seen after {max(delays) * 1_000:.1f} ms at most, ages up to {max(ages)} ms, {done[0]} writes meanwhile")
    assert max(ages) < CONVERGES_S_MAX * 1_000


async def test_a_replica_that_hears_no_leader_says_that_it_grows_old(start_nodes: StartNodes) -> None:
    nodes = start_nodes()
    lives = nodes.start_all()
    doors = [life.wait_serving() for life in lives.values()]
    await until_ready(*doors)
    async with NodeClient(doors[2].url) as client:
        await client.kv_set("k", b"v")
        await until(lambda: client.kv_get("k", ConsistencyLevel.EVENTUAL), "the third node to have it")
        for door in doors[:2]:
            lives[door.id].kill()
        began = time.monotonic()
        for _ in range(5):
            await asyncio.sleep(0.2)  # It is time itself that is looked at.
            found = await client.kv_get("k", ConsistencyLevel.EVENTUAL)
            assert found is not None
            assert found.value == b"v"
            assert found.staleness_ms is not None
            assert found.staleness_ms >= (time.monotonic() - began) * 1_000 - 300


async def test_buckets_are_known_everywhere_and_outlive_their_nodes(start_nodes: StartNodes) -> None:
    nodes = start_nodes()
    lives = nodes.start_all(snapshot_entries="20")
    doors = [life.wait_serving() for life in lives.values()]
    await until_ready(*doors)
    async with clients(doors) as redis:
        ask = [client.execute_command for client in redis]
        for name, kind in (("likes", "counter"), ("tags", "orset"), ("names", "lww")):
            assert await ask[0]("BUCKET.CREATE", name, kind) == b"OK"
        assert await ask[0]("BUCKET.CREATE", "copies", "orset", "another-site") == b"OK"
        assert len(await ask[2]("BUCKET.LIST")) in (4, 8)
        for number in range(60):
            await ask[number % 3]("COUNTER.ADD", f"likes:{number % 10}", 1)
            await ask[number % 3]("ORSET.ADD", f"tags:{number % 10}", f"t{number}")
        await ask[1]("LWW.SET", "names:a", "noctule")
        with pytest.raises(ResponseError, match="bucket"):
            await redis[1].set("likes:1", "x")
        await ask[2]("ORSET.ADD", "copies:1", "mine")
        await ask[2]("CRDT.MERGE", "copies:1", await ask[0]("CRDT.STATE", "tags:1"))
    for life in lives.values():
        life.kill()
    doors = [life.wait_serving() for life in nodes.start_all(snapshot_entries="20").values()]
    await until_ready(*doors)
    async with clients(doors) as redis:
        ask = [client.execute_command for client in redis]
        assert [await ask[number % 3]("COUNTER.GET", f"likes:{number}") for number in range(10)] == [6] * 10
        tags = [f"t{number}".encode() for number in range(1, 60, 10)]
        assert await ask[1]("ORSET.MEMBERS", "tags:1") == sorted(tags)
        assert await ask[2]("ORSET.MEMBERS", "copies:1") == sorted([*tags, b"mine"])
        assert await ask[0]("LWW.GET", "names:a") == b"noctule"


async def test_what_the_leader_alone_acknowledged_is_lost_with_it_and_nothing_else(start_nodes: StartNodes) -> None:
    """`durability = leader`, and the followers stopped: SET is acknowledged, INCR is not, and later nobody has them."""
    nodes = start_nodes(partitions=1)
    lives = nodes.start_all(durability="leader")
    doors = {door.id: door for door in (life.wait_serving() for life in lives.values())}
    await until_ready(*doors.values())
    picture = await doors[1].picture()
    assert picture is not None
    assert picture.durability == "leader"
    leader = next(group.leader for group in picture.groups if group.id == 1)
    assert leader is not None
    others = [node for node in doors if node != leader]
    async with clients([doors[leader]]) as (client,):
        await client.set("kept", "1")
        assert await client.execute_command("WAIT", 1, 0) == 0
        assert await client.get("kept") == b"1"
        await until_no_uncommitted(doors[leader])
        for node in others:
            os.kill(lives[node].process.pid, signal.SIGSTOP)
        assert await client.set("lost", "1") is True
        with pytest.raises((RedisError, TimeoutError)):
            async with asyncio.timeout(0.2):
                await client.incr("counter")
    for life in lives.values():
        life.kill()
    doors |= {node: nodes.start(node, durability="leader").wait_serving() for node in others}
    await until_ready(*(doors[node] for node in others))
    async with clients([doors[node] for node in others]) as (client, _):
        assert [await client.get(key) for key in ("kept", "lost", "counter")] == [b"1", None, None]
        await client.set("after", "1")
    doors[leader] = nodes.start(leader, durability="leader").wait_serving()
    await until_ready(*doors.values())
    async with clients(list(doors.values())) as redis:
        for each in redis:
            assert [await each.get(key) for key in ("kept", "lost", "after")] == [b"1", None, b"1"]


async def until_no_uncommitted(door: Door) -> None:
    """Return once everything in its log is committed."""

    async def is_level() -> bool:
        picture = await door.picture()
        return picture is not None and all(group.commit_index == group.last_index for group in picture.groups)

    await until(is_level, "all to be committed")
