"""Real processes killed while a partition is split or two are merged: it ends, and every key is there once."""

import asyncio
import os
import signal
import time
from dataclasses import dataclass

import pytest
from cluster_processes import CATCHES_UP_S_MAX, Door, NodeCluster, StartNodes, until, until_ready
from cluster_workload import Workload

from noctule.client.admin import AdminClient
from noctule.core.meta.views import OperationView
from noctule.core.placement.slots import SLOT_COUNT

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

FILLING = {f"filling-{number}": f"{number}-".ljust(10_000, ".") for number in range(600)}


AT_ONCE_S = 0.002
"""Between two looks for a stage that is over soon."""


@dataclass(frozen=True)
class Merging:
    """Which leader is killed, and in which stage; ``held`` when it is stopped before, so that nothing is logged yet."""

    side: str
    stage: str
    is_held: bool = False


MERGES = [
    Merging("right", "fence", is_held=True),
    Merging("left", "fence"),
    Merging("left", "copy"),
    Merging("right", "copy"),
]


class Arena:
    """Three nodes and the partitions that they share, which nothing but the test reshapes."""

    def __init__(self, cluster: NodeCluster, doors: list[Door]) -> None:
        self.cluster = cluster
        self.doors = {door.id: door for door in doors}

    async def leader_of(self, partition: int) -> int:
        """Who leads it, once somebody says so."""
        found: list[int] = []

        async def is_led() -> bool:
            for node, door in self.doors.items():
                picture = await door.picture()
                if picture and any(group.id == partition and group.role == "leader" for group in picture.groups):
                    found.append(node)
            return bool(found)

        await until(is_led, f"a leader of partition {partition}")
        return found[0]

    def hold(self, node: int) -> None:
        """Stop a node that is to be killed next."""
        os.kill(self.cluster.life_of[node].process.pid, signal.SIGSTOP)

    async def bring_back(self, node: int) -> None:
        """Start a killed node again, where clients know it."""
        life = self.cluster.start(node, resp_port=str(self.doors[node].resp_port))
        self.doors[node] = life.wait_serving()
        await until_ready(self.doors[node])

    async def check(self, workload: Workload) -> None:
        """Every slot has one partition, and every node finds every key, once."""
        for door in self.doors.values():
            async with door.admin() as admin:
                ends = [(each.first_slot, each.last_slot) for each in await admin.partitions()]
            assert [first for first, _ in ends] == [0, *(last + 1 for _, last in ends[:-1])]
            assert ends[-1][1] == SLOT_COUNT - 1
        await workload.check(*self.doors.values())
        for door in self.doors.values():
            async with door.client() as client:
                keys = {key async for key in client.scan_iter(count=1_000)}
                assert await client.dbsize() == len(keys)
                assert await client.mget([*FILLING]) == [value.encode() for value in FILLING.values()]


async def start_arena(start_nodes: StartNodes) -> Arena:
    cluster = start_nodes(partitions=4)
    doors = [life.wait_serving() for life in cluster.start_all().values()]
    await until_ready(*doors)
    async with doors[0].client() as client:
        await client.mset(FILLING)
    return Arena(cluster, doors)


async def until_over(admin: AdminClient, operation: OperationView) -> OperationView:
    """The operation once it has ended; a split that has is not among them any more."""
    found: list[OperationView] = []

    async def is_over() -> bool:
        operations = [each for each in await admin.operations() if each.kind == operation.kind]
        found[:] = [each for each in operations if each.id == operation.id]
        return not found or found[0].has_ended

    await until(is_over, f"the end of {operation.kind} {operation.id}", CATCHES_UP_S_MAX)
    return found[0] if found else operation


async def until_in(admin: AdminClient, operation: OperationView, stage: str) -> None:
    """Return as soon as the operation is seen in that stage, or over."""
    end = time.monotonic() + CATCHES_UP_S_MAX
    while True:
        operations = [each for each in await admin.operations() if each.kind == operation.kind]
        if any(each.id == operation.id and (each.stage == stage or each.has_ended) for each in operations):
            return
        assert time.monotonic() < end, f"{operation.kind} {operation.id} never came into {stage}"
        await asyncio.sleep(AT_ONCE_S)


async def split_and_kill(arena: Arena, parent: int, *, is_held: bool) -> None:
    """Begin a split and kill the parent's leader, before it has heard of that when it is held."""
    victim = await arena.leader_of(parent)
    asked = next(node for node in arena.doors if node != victim)
    async with arena.doors[asked].admin() as admin:
        before = len(await admin.partitions())
        if is_held:
            arena.hold(victim)
        split = await admin.split(parent)
        arena.cluster.life_of[victim].kill()
        await until_over(admin, split)
        assert len(await admin.partitions()) == before + 1
    await arena.bring_back(victim)


async def merge_and_kill(arena: Arena, case: Merging) -> None:
    """Merge the first two partitions and kill a leader on the way."""
    async with arena.doors[1].admin() as admin:
        left, right = (await admin.partitions())[:2]
    victim = await arena.leader_of(left.id if case.side == "left" else right.id)
    asked = next(node for node in arena.doors if node != victim)
    async with arena.doors[asked].admin() as admin:
        if case.is_held:
            arena.hold(victim)
        merge = await admin.merge(left.id)
        await until_in(admin, merge, case.stage)
        arena.cluster.life_of[victim].kill()
        ended = await until_over(admin, merge)
        there = right.id in [each.id for each in await admin.partitions()]
        assert (ended.stage, there) in (("done", False), ("aborted", True))
    await arena.bring_back(victim)


async def test_splits_and_merges_end_well_whoever_is_killed(start_nodes: StartNodes) -> None:
    arena = await start_arena(start_nodes)
    workload = Workload([*arena.doors.values()])
    async with workload.running():
        for is_held in (True, False):
            await split_and_kill(arena, 1, is_held=is_held)
            await workload.until_written(f"the split, held: {is_held}")
        for case in MERGES:
            await merge_and_kill(arena, case)
            await workload.until_written(str(case))
    await arena.check(workload)
