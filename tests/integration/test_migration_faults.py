"""Real processes killed while a replica is on its way: each migration ends, and what was promised holds."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import count

import pytest
from cluster_processes import CATCHES_UP_S_MAX, Door, NodeCluster, StartNodes, until, until_ready
from cluster_workload import Workload

from noctule.adapters.control import CancelMigrationRequest, StartMigrationRequest, WatchMigrationRequest
from noctule.adapters.control_client import ControlClient
from noctule.core.migration.stages import ENDED, Stage
from noctule.core.placement.slots import SLOT_COUNT, key_slot

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

PARTITION = 1
FILLING = 300
FILLING_BYTES = 10_000
"""3 MB, which are on their way for a while at the rate below."""
RATE_BYTES_PER_S = 6 << 20
CANCELLED_BYTES_PER_S = 300 << 10
"""Of a migration that is to be cancelled on its way, however late a busy machine does it."""
TIMEOUT_S = 1.5
"""Of a migration that gets no further. A partition whose leader was killed has another one long before."""
WATCH_S = 20.0


FORWARD = (Stage.PREPARE, Stage.TRANSFER, Stage.VERIFY, Stage.UPDATE, Stage.CLEANUP)


@dataclass(frozen=True)
class Case:
    """Who is killed when the migration is seen to enter a stage."""

    stage: Stage
    victim: str
    """``source``, ``target``, the ``leader`` that is neither, or the ``leading source``."""
    is_back_first: bool = False
    """Whether the victim is started again before the end, which from UPDATE on waits for a target."""

    @property
    def ends(self) -> tuple[Stage, ...]:
        """Before UPDATE a slow machine decides whether it goes on or back; from then on there is one way."""
        if self.stage is Stage.ROLLBACK:
            return (Stage.ROLLED_BACK,)
        return (Stage.DONE,) if self.stage in (Stage.UPDATE, Stage.CLEANUP) else ENDED


CASES = [
    *(Case(stage, victim) for victim in ("source", "leader") for stage in FORWARD),
    Case(Stage.PREPARE, "target"),
    Case(Stage.TRANSFER, "target"),
    Case(Stage.VERIFY, "target", is_back_first=True),
    Case(Stage.UPDATE, "target", is_back_first=True),
    Case(Stage.CLEANUP, "target"),
    Case(Stage.TRANSFER, "leading source"),
    Case(Stage.UPDATE, "leading source"),
    Case(Stage.ROLLBACK, "target"),
    Case(Stage.ROLLBACK, "leader"),
]


class Arena:
    """Four nodes, and a partition whose replicas move among them."""

    def __init__(self, cluster: NodeCluster, doors: list[Door], calls: ControlClient) -> None:
        self.doors = {door.id: door for door in doors}
        self.asked = 1
        """The node whose view of the cluster counts: one that was not killed last."""
        self._cluster = cluster
        self._calls = calls

    async def replicas(self) -> list[int]:
        """The nodes that hold the partition, by the map."""
        async with self.doors[self.asked].admin() as admin:
            return [replica.node for replica in (await admin.partition(PARTITION)).replicas]

    async def leader(self) -> int:
        """Who leads the partition, once somebody does."""
        found: list[int] = []

        async def is_led() -> bool:
            pictures = [picture for door in self.doors.values() if (picture := await door.picture())]
            found.extend(
                picture.node_id
                for picture in pictures
                if any(group.id == PARTITION and group.role == "leader" for group in picture.groups)
            )
            return bool(found)

        await until(is_led, "a leader of the partition")
        return found[0]

    async def play(self, case: Case) -> None:
        """Move a replica and kill somebody; returns once all of it is over and everybody is there again."""
        held, leader = await self.replicas(), await self.leader()
        [target] = self.doors.keys() - set(held)
        source = leader if case.victim == "leading source" else next(node for node in held if node != leader)
        victim = {"target": target, "leader": leader}.get(case.victim, source)
        self.asked = next(node for node in self.doors if node not in (source, target, victim))

        rate = CANCELLED_BYTES_PER_S if case.stage is Stage.ROLLBACK else RATE_BYTES_PER_S
        async with self.doors[self.asked].admin() as admin:
            await admin.change_settings({"migration_bytes_per_s_max": rate})
        migration = await self._begin(source, target)
        await self._kill_in(case.stage, migration, victim)
        if case.is_back_first:
            await self._bring_back(victim)
        end = await self._until_in(migration, ENDED)
        assert end in case.ends
        if not case.is_back_first:
            await self._bring_back(victim)
        loser = source if end is Stage.DONE else target
        assert sorted(await self.replicas()) == sorted(self.doors.keys() - {loser})
        await self._check_that_nothing_is_left(loser, str(migration))

    async def _begin(self, source: int, target: int) -> int:
        request = StartMigrationRequest(PARTITION, source, target)
        return (await self._calls.start_migration(self.doors[self.asked].control, request)).migration.id

    async def _kill_in(self, stage: Stage, migration: int, victim: int) -> None:
        if stage is Stage.ROLLBACK:
            await self._until_in(migration, (Stage.TRANSFER,))
            await self._calls.cancel_migration(self.doors[self.asked].control, CancelMigrationRequest(migration))
        else:
            await self._until_in(migration, (stage,))
        self._cluster.life_of[victim].kill()

    async def _until_in(self, migration: int, stages: tuple[Stage, ...]) -> Stage:
        """Return as soon as the migration is seen in one of these stages, or over."""
        stream = self._calls.watch_migration(self.doors[self.asked].control, WatchMigrationRequest(migration), WATCH_S)
        async with aclosing(stream):
            async for progress in stream:
                if progress.migration.stage in (*stages, *ENDED):
                    return progress.migration.stage
        raise AssertionError(f"nothing more was heard of migration {migration}")

    async def _bring_back(self, node: int) -> None:
        """Start a killed node again, where clients know it."""
        self._cluster.start(node, resp_port=str(self.doors[node].resp_port))
        self.doors[node] = self._cluster.life_of[node].wait_serving()
        await until_ready(self.doors[node])

    async def _check_that_nothing_is_left(self, loser: int, value: str) -> None:
        """Even for eventual reads a node without a replica asks another one; an old replica would answer itself."""

        async def is_gone() -> bool:
            picture = await self.doors[loser].picture()
            return picture is not None and all(group.id != PARTITION for group in picture.groups)

        await until(is_gone, f"node {loser} to forget its replica", CATCHES_UP_S_MAX)
        key = next(iter(filling()))
        other = next(door for node, door in self.doors.items() if node != loser)
        async with other.client() as writer, self.doors[loser].client() as reader:
            await writer.set(key, value)
            await reader.readonly()
            assert await reader.get(key) == value.encode()


def filling() -> dict[str, str]:
    """Keys of the first of two partitions."""
    keys = (f"filling-{number}" for number in count())
    own = (key for key in keys if key_slot(key.encode()) < SLOT_COUNT // 2)
    return {next(own): f"{number}-".ljust(FILLING_BYTES, ".") for number in range(FILLING)}


@asynccontextmanager
async def arena(start_nodes: StartNodes) -> AsyncIterator[Arena]:
    """Nodes among which nothing moves by itself."""
    cluster, calls = start_nodes(partitions=2, nodes=4), ControlClient()
    doors = [life.wait_serving() for life in cluster.start_all(migration_timeout=str(TIMEOUT_S)).values()]
    await until_ready(*doors)
    async with doors[0].admin() as admin:
        await admin.change_settings({"rebalance_enabled": False})
    try:
        yield Arena(cluster, doors, calls)
    finally:
        await calls.close()


@pytest.mark.parametrize("victim", ["source", "leader", "target"])
async def test_whoever_is_killed_at_whatever_stage_a_migration_ends_well(start_nodes: StartNodes, victim: str) -> None:
    async with arena(start_nodes) as stage:
        values = filling()
        async with stage.doors[1].client() as client:
            await client.mset(values)
        workload = Workload([*stage.doors.values()])
        async with workload.running():
            for case in (each for each in CASES if each.victim.endswith(victim)):
                await stage.play(case)
                await workload.until_written(str(case))
        await workload.check(*stage.doors.values())
        for door in stage.doors.values():
            async with door.client() as client:
                keys = [*values][1:]  # The first is written to all the time.
                assert await client.mget(keys) == [values[key].encode() for key in keys]
                assert await client.dbsize() == len({key async for key in client.scan_iter(count=1_000)})
