"""Workers that share a stream's entries on three real nodes, one of which is killed.

The commands are those that taskiq's RedisStreamBroker sends for tasks (XADD with a trim, XREADGROUP with BLOCK, XACK,
XAUTOCLAIM), and RQ for results (XADD with a trim, XREVRANGE). taskiq-redis itself wants an older redis-py than ours.
"""

import asyncio
import contextlib
from collections import Counter

import pytest
from cluster_processes import Door, StartNodes, until, until_open, until_ready
from redis.asyncio import Redis
from redis.exceptions import RedisError

from noctule.core.placement.slots import SLOT_COUNT, key_slot

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

TASKS = 400
KILLED_AFTER = 150
IDLE_MS = 1_500
"""After this a task is taken from a worker that may have died: longer than any of this test's takes."""
GOES_ON_S_MAX = 40.0


class Colony:
    """What producers were promised and what workers were given, as those saw it."""

    def __init__(self) -> None:
        self.added: dict[bytes, bytes] = {}
        """Id to task, of every acknowledged XADD."""
        self.given_new: Counter[bytes] = Counter()
        self.claimed: Counter[bytes] = Counter()
        self.acknowledging: set[bytes] = set()
        self.acknowledged: set[bytes] = set()
        self.is_over = False

    async def produce(self, doors: list[Door]) -> None:
        """Each task once, to one node after another; what is not acknowledged counts for nothing."""
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(door.client()) for door in doors]
            number = 0
            while len(self.added) < TASKS:
                number += 1
                task = b"task-%d" % number
                with contextlib.suppress(RedisError, OSError):
                    added = await clients[number % len(clients)].xadd(
                        "tasks", {b"data": task}, maxlen=10_000, approximate=True
                    )
                    self.added[added] = task

    async def work(self, door: Door, name: str) -> None:
        """Until all is done; goes on after errors, as a worker does."""
        while not self.is_over:
            with contextlib.suppress(RedisError, OSError):
                async with door.client() as redis:
                    while not self.is_over:
                        await self._work_once(redis, name)
            await asyncio.sleep(0.05)

    async def _work_once(self, redis: Redis, name: str) -> None:
        fetched = await redis.xreadgroup("workers", name, {"tasks": ">"}, count=5, block=100)
        for entries in fetched.values() if isinstance(fetched, dict) else [pair[1] for pair in fetched or []]:
            # A client that speaks RESP3 gets a list of lists of entries.
            for id_, fields in entries[0] if entries and isinstance(entries[0], list) else entries:
                self.given_new[id_] += 1
                await self._carry_out(redis, id_, fields)
        _, claimed, _ = await redis.xautoclaim("tasks", "workers", name, min_idle_time=IDLE_MS, count=20)
        for id_, fields in claimed:
            self.claimed[id_] += 1
            await self._carry_out(redis, id_, fields)

    async def _carry_out(self, redis: Redis, id_: bytes, fields: dict[bytes, bytes]) -> None:
        await redis.xadd(b"result:" + fields[b"data"], {b"return": b"42"}, maxlen=10)
        # Of an acknowledgement without an answer nobody knows whether it counts; if not, the entry is claimed again.
        self.acknowledging.add(id_)
        await redis.xack("tasks", "workers", id_)
        self.acknowledged.add(id_)


async def test_no_task_is_lost_or_given_twice_when_a_node_is_killed(start_nodes: StartNodes) -> None:
    cluster = start_nodes(partitions=2)
    lives = cluster.start_all()
    doors = [life.wait_serving() for life in lives.values()]
    await until_ready(*doors)
    await until_open(*doors)
    async with doors[0].client() as redis:
        await redis.xgroup_create("tasks", "workers", id="$", mkstream=True)
    colony = Colony()
    workers = [asyncio.create_task(colony.work(door, f"worker-{door.id}")) for door in doors]
    producer = asyncio.create_task(colony.produce(doors))

    async def has_begun() -> bool:
        return len(colony.acknowledged) >= KILLED_AFTER

    async def is_done() -> bool:
        if not producer.done() or not colony.acknowledging >= colony.added.keys():
            return False
        async with next(door for door in doors if door.id != victim).client() as redis:
            return (await redis.xpending("tasks", "workers"))["pending"] == 0

    await until(has_begun, "the first tasks to be done", GOES_ON_S_MAX)
    victim = await leader_of(doors, b"tasks")
    lives[victim].kill()
    await until(is_done, "all tasks to be done", GOES_ON_S_MAX)
    colony.is_over = True
    await asyncio.gather(producer, *workers)

    assert max(colony.given_new.values()) == 1, "an entry is new to one consumer only"
    assert colony.acknowledged <= colony.given_new.keys() | colony.claimed.keys()
    survivor = next(door for door in doors if door.id != victim)
    async with survivor.client() as redis:
        entries = dict(await redis.xrange("tasks"))
        # What was not acknowledged may be there, for nobody knew; what was, is there, unchanged, and in its order.
        assert {id_: entries[id_][b"data"] for id_ in colony.added} == colony.added
        for task in list(colony.added.values())[:: TASKS // 20]:
            [(_, fields)] = await redis.xrevrange(b"result:" + task, count=1)
            assert fields == {b"return": b"42"}


async def leader_of(doors: list[Door], key: bytes) -> int:
    """The node whose death hurts most: the one that leads the partition of a key, which is one of two."""
    partition = 1 + key_slot(key) * 2 // SLOT_COUNT
    for door in doors:
        picture = await door.picture()
        if picture and any(group.id == partition and group.role == "leader" for group in picture.groups):
            return door.id
    raise AssertionError("nobody leads")
