"""Nodes that come and go while the cluster serves, as real processes: by tokens, by draining, by force."""

from itertools import combinations

import pytest
from cluster_processes import (
    CATCHES_UP_S_MAX,
    Door,
    NodeProcess,
    StartNodes,
    until,
    until_ready,
)
from cluster_workload import Workload
from up_process import wait_until

from noctule.base.errors import RETIRED
from noctule.client.admin import AdminClient
from noctule.core.meta.views import MemberView, PartitionView
from noctule.core.roster.members import MemberState

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

REPLACE_AFTER_S = 1.5
PATIENCE_S = 15.0
"""Over the 10 s within which a node answers, whatever that is: so no request fails because the machine is busy."""


async def token_of(admin: AdminClient, *, reusable: bool = False) -> str:
    return (await admin.create_token(reusable=reusable)).text


async def until_calm(admin: AdminClient, nodes: set[int]) -> list[PartitionView]:
    """Return once nothing moves and nothing is left to be moved, with all of these nodes in use; gives the map."""
    found: list[PartitionView] = []
    seen: list[object] = []

    async def is_calm() -> bool:
        found[:] = await admin.partitions()
        used = {replica.node for partition in found for replica in partition.replicas}
        operations, plan = await admin.operations(running=True), await admin.plan()
        seen[:] = used, operations, plan
        return used == nodes and not operations and not plan.moves

    what = f"nodes {nodes} to hold everything between them"
    await until(is_calm, what, CATCHES_UP_S_MAX, lambda: f" (in use, going on, planned: {seen})")
    return found


async def member_of(admin: AdminClient, node: int) -> MemberView:
    return await admin.member(node)


def check_domains(partitions: list[PartitionView], host_of: dict[int, str]) -> None:
    """No partition has two replicas on one host, of as many hosts as replicas."""
    for partition in partitions:
        nodes = [replica.node for replica in partition.replicas]
        assert len(nodes) == 3, nodes
        shared = [(one, other) for one, other in combinations(nodes, 2) if host_of[one] == host_of[other]]
        assert not shared, f"partition {partition.id} has replicas on {nodes}"


async def serving(life: NodeProcess) -> Door:
    door = life.wait_serving()
    await until_ready(door)
    return door


# Growing and shrinking ------------------------------------------------------------------------------------------------


async def test_nodes_come_and_a_first_one_goes_and_no_request_fails(start_nodes: StartNodes) -> None:
    """Two processes on one host are one failure domain: no partition has two replicas there."""
    cluster = start_nodes(partitions=8)
    host_of = {1: "one", 2: "two", 3: "three", 4: "one", 5: "two"}
    lives = {node: cluster.start(node, labels=f"host={host_of[node]}") for node in (1, 2, 3)}
    doors = [life.wait_serving() for life in lives.values()]
    await until_ready(*doors)
    async with doors[1].admin() as admin:
        during = Workload(doors, answer_timeout_s=PATIENCE_S)
        after = Workload(doors[1:], name="after-", answer_timeout_s=PATIENCE_S)
        async with during.running():
            for node in (4, 5):
                life = cluster.join(f"joined-{node}", doors[0], await token_of(admin), labels=f"host={host_of[node]}")
                doors.append(await serving(life))
                assert doors[-1].id == node
            check_domains(await until_calm(admin, {1, 2, 3, 4, 5}), host_of)
            await admin.drain(1)
            check_domains(await until_calm(admin, {2, 3, 4, 5}), host_of)
            await during.until_written("the move of everything")
        assert during.errors == []
        async with after.running():
            assert (await admin.leave(1)).state is MemberState.LEFT
            assert lives[1].process.wait(CATCHES_UP_S_MAX) == RETIRED
            [event] = lives[1].events("node_retired")
            assert event["reason"] == "node 1 has left the cluster"
            await after.until_written("the end of node 1")
        assert after.errors == []
    for workload in (during, after):
        await workload.check(*doors[1:])
    again = cluster.start(1)
    assert again.process.wait(CATCHES_UP_S_MAX) == RETIRED
    [event] = again.events("node_retired")
    assert event["reason"] == "node 1 has left the cluster"


# Joining --------------------------------------------------------------------------------------------------------------


async def test_who_may_join_and_under_which_id(start_nodes: StartNodes) -> None:
    cluster = start_nodes(partitions=1, nodes=1)
    door = await serving(cluster.start(1))
    async with door.admin() as admin:
        # With three replicas a third node would get one if it is not told to leave at once, and could not go any more.
        await admin.change_settings({"replication_factor": 2})

        async def members() -> list[int]:
            return [member.id for member in await admin.members()]

        refused(cluster.join("guesser", door, "noctule-guessed"), "the join token is not valid")
        reusable, once = await token_of(admin, reusable=True), await token_of(admin)
        refused(cluster.join("owl", door, reusable, cluster="owls"), "this is cluster bats, not owls")
        assert await members() == [1]

        async def is_admitted() -> bool:
            return await members() == [1, 2]

        life = cluster.join("hasty", door, once)
        await until(is_admitted, "the first try")
        life.kill()
        hasty = await serving(cluster.join("hasty", door, once))
        assert (hasty.id, await members()) == (2, [1, 2])
        refused(cluster.join("second", door, once), "the join token is not valid: it is unknown, used up, revoked")

        cluster.life_of["hasty"].kill()
        again = await serving(cluster.start_joined("hasty"))
        assert again.id == 2
        third = await serving(cluster.join("third", again, reusable))
        assert third.id == 3
        await admin.drain(3)
        await until_calm(admin, {1, 2})
        await admin.leave(3)
        assert cluster.life_of["third"].process.wait(CATCHES_UP_S_MAX) == RETIRED
        fourth = await serving(cluster.join("fourth", again, reusable))
        assert fourth.id == 4, "ids are never reused"


def refused(life: NodeProcess, reason: str) -> None:
    """The node must end with one line that says why."""
    code, words = life.wait_refused()
    [line] = [line for line in words.splitlines() if not line.startswith("{")]
    assert code == 2
    assert line.startswith("error: ")
    assert reason in line


async def test_who_was_away_meets_those_who_came_meanwhile(start_nodes: StartNodes) -> None:
    """All that it knew are gone, so it could hear of the others, and of who leads, from nobody but themselves."""
    cluster = start_nodes(partitions=1)
    lives = cluster.start_all()
    doors = [life.wait_serving() for life in lives.values()]
    await until_ready(*doors)
    lives[1].kill()
    async with doors[1].admin() as admin:
        token = await token_of(admin, reusable=True)
    came = [cluster.join(name, doors[1], token) for name in ("four", "five", "six")]
    for life in came:
        life.wait_serving()
    wait_until(lambda: {4, 5, 6} <= set(voters_of_meta(came[0])), "the votes of those who came", CATCHES_UP_S_MAX)
    for node in (2, 3):
        lives[node].kill()
    back = cluster.start(1).wait_serving()
    async with back.admin() as admin:

        async def is_told() -> bool:
            return [member.id for member in await admin.members()] == [1, 2, 3, 4, 5, 6]

        await until(is_told, "node 1 to hear of everybody", CATCHES_UP_S_MAX)


def voters_of_meta(life: NodeProcess) -> list[int]:
    """As that node last heard."""
    changes = [event for event in life.events("membership_changed") if event["group"] == 0]
    voters: list[int] = changes[-1]["voters"] if changes else []
    return voters


# Losing ---------------------------------------------------------------------------------------------------------------


async def test_dead_nodes_are_replaced_or_removed_and_stay_out(start_nodes: StartNodes) -> None:
    cluster = start_nodes(partitions=4, nodes=5)
    lives = cluster.start_all()
    doors = [life.wait_serving() for life in lives.values()]
    await until_ready(*doors)
    workload = Workload(doors[:3])
    async with doors[0].admin() as admin, workload.running():
        await admin.change_settings({"node_replace_after_s": REPLACE_AFTER_S})
        lives[5].kill()
        await until_removed(admin, 5)
        check_whole(await until_calm(admin, {1, 2, 3, 4}))
        await admin.change_settings({"node_replace_after_s": 0})
        lives[4].kill()
        assert (await admin.remove(4)).state is MemberState.REMOVED
        check_whole(await until_calm(admin, {1, 2, 3}))
        for node in (4, 5):
            cluster.start(node)
        for node in (4, 5):
            life = cluster.life_of[node]
            assert life.process.wait(CATCHES_UP_S_MAX) == RETIRED
            [event] = life.events("node_retired")
            assert event["reason"].startswith(f"node {node} was removed from the cluster")
        await workload.until_written("the return of the removed")
    await workload.check(*doors[:3])


async def until_removed(admin: AdminClient, node: int) -> None:
    async def is_removed() -> bool:
        return (await admin.member(node)).state is MemberState.REMOVED

    await until(is_removed, f"node {node} to be taken out", CATCHES_UP_S_MAX)


def check_whole(partitions: list[PartitionView]) -> None:
    assert [len(partition.replicas) for partition in partitions] == [3] * len(partitions)


# Twins ----------------------------------------------------------------------------------------------------------------


async def test_a_second_node_of_one_id_is_refused(start_nodes: StartNodes) -> None:
    cluster = start_nodes(partitions=1)
    doors = [life.wait_serving() for life in cluster.start_all().values()]
    await until_ready(*doors)
    twin = cluster.start(2, data_dir=str(cluster.directory / "twin"), peer_port="0")
    wait_until(lambda: twin.events("peer_refused"), "the refusal")
    assert "node 2 came with another data folder than before" in twin.events("peer_refused")[0]["reason"]
    assert await doors[1].is_ready()
