"""Clients that write and read while a cluster is harmed, and remember every word that it gave them.

A write is *acknowledged* when its answer came. Of any other nobody knows whether it was applied, and both are allowed.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from cluster_processes import GOES_ON_S_MAX, Door, until
from redis.asyncio import Redis
from redis.exceptions import RedisError

WRITERS = 4
READERS = 2
COUNTERS = 3
PAUSE_S = 0.008
"""Between two turns of one client: the nodes under test have the machine's processors to share with the clients."""
MOVE_ON_S = 0.02
"""Before a client that got an error turns to the next node, which may be as dead."""
KEYS_READ_AT_ONCE = 500


class Workload:
    """Four writers of new keys and of counters that they share, and two readers of what was acknowledged before.

    Each client talks to one node and turns to the next when it gets an error. A reader that sees less than what was
    acknowledged when it asked ends the test. Two workloads on one cluster need different names.
    """

    def __init__(
        self, doors: Sequence[Door], *, value_bytes: int = 16, name: str = "", answer_timeout_s: float = 5.0
    ) -> None:
        self.acknowledged: dict[str, str] = {}
        """Each key with its value."""
        self.answers: dict[str, list[int]] = {f"{name}counter-{number}": [] for number in range(COUNTERS)}
        """Of the INCRs of each counter."""
        self.unanswered: Counter[str] = Counter()
        """INCRs by counter."""
        self.reads = 0
        self.errors: list[str] = []
        """What clients were told instead of an answer."""
        self._is_over = False
        self._doors = doors
        self._name = name
        self._answer_timeout_s = answer_timeout_s
        self._padding = "." * value_bytes
        self._chance = random.Random(7)
        self._numbers = itertools.count(1)
        self._keys: list[str] = []
        self._highest = dict.fromkeys(self.answers, 0)
        self._written = [0] * WRITERS

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The clients work within this block, once; all have written when it begins."""
        async with asyncio.TaskGroup() as group:
            for writer in range(WRITERS):
                group.create_task(self._keep_on(writer, self._write), name=f"writer {writer}")
            for reader in range(READERS):
                group.create_task(self._keep_on(reader, self._read), name=f"reader {reader}")
            try:
                await self.until_written("the start")
                yield
            finally:
                # Cancelling them is not enough: redis-py may lose a cancellation while it closes a connection.
                self._is_over = True

    async def until_written(self, event: str) -> None:
        """Return once each writer has begun a write from now on and been given its acknowledgement."""
        # The next answer may be that of a command on its way; the one after it is of one sent after this call.
        wanted = [written + 2 for written in self._written]

        async def have_written() -> bool:
            return all(written >= least for written, least in zip(self._written, wanted, strict=True))

        await until(have_written, f"each writer's next acknowledged write after {event}", GOES_ON_S_MAX)

    async def check(self, *doors: Door) -> None:
        """Fail unless each of these nodes gives every acknowledged write, and no counter answered twice or forgot."""
        assert self._keys
        assert self.reads
        for counter, answers in self.answers.items():
            assert len(set(answers)) == len(answers), f"{counter} gave one answer twice"
        for door in doors:
            async with door.client() as client:
                for start in range(0, len(self._keys), KEYS_READ_AT_ONCE):
                    keys = self._keys[start : start + KEYS_READ_AT_ONCE]
                    found = await client.mget(keys)
                    pairs = zip(keys, found, strict=True)
                    lost = [key for key, value in pairs if value != self.acknowledged[key].encode()]
                    assert lost == [], f"{len(lost)} acknowledged writes are not there by node {door.id}"
                for counter, answers in self.answers.items():
                    value = int(await client.get(counter) or 0)
                    possible = range(max(len(answers), *answers), len(answers) + self.unanswered[counter] + 1)
                    assert value in possible, f"{counter} is {value} by node {door.id}, and may be {possible}"

    async def _keep_on(self, number: int, work: Callable[[int, Redis], Awaitable[None]]) -> None:
        turn = number
        while not self._is_over:
            try:
                door = self._doors[turn % len(self._doors)]
                async with door.client(answer_timeout_s=self._answer_timeout_s) as client:
                    while not self._is_over:
                        await work(number, client)
                        await asyncio.sleep(PAUSE_S)
            except RedisError as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                turn += 1
                await asyncio.sleep(MOVE_ON_S)

    async def _write(self, number: int, client: Redis) -> None:
        key = f"{self._name}key-{next(self._numbers)}"
        value = key + self._padding
        assert await client.set(key, value) is True
        self.acknowledged[key] = value
        self._keys.append(key)
        self._written[number] += 1
        counter = self._chance.choice([*self.answers])
        self.unanswered[counter] += 1
        answer: int = await client.incr(counter)
        self.unanswered[counter] -= 1
        self.answers[counter].append(answer)
        self._highest[counter] = max(answer, self._highest[counter])
        self._written[number] += 1

    async def _read(self, _number: int, client: Redis) -> None:
        if self._keys:
            key = self._chance.choice(self._keys)
            assert await client.get(key) == self.acknowledged[key].encode(), f"{key} was acknowledged before the read"
        counter = self._chance.choice([*self.answers])
        before = self._highest[counter]
        found = int(await client.get(counter) or 0)
        assert found >= before, f"{counter} was {before} before the read began, which gave {found}"
        self.reads += 1
