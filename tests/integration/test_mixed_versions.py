"""A cluster whose nodes run different releases, as during an upgrade node by node."""

import json
import re
from pathlib import Path

import other_releases
import pytest
from cluster_processes import CATCHES_UP_S_MAX, Door, NodeCluster, StartNodes, until, until_ready
from cluster_workload import Workload
from redis.exceptions import ResponseError

from noctule.base.errors import RequestError
from noctule.client.admin import AdminClient
from noctule.core.roster.features import FEATURES

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

OLDER = (other_releases.__file__, "older")
NEWER = (other_releases.__file__, "newer")
THIS = ("-m", "noctule")


async def replace(cluster: NodeCluster, door: Door, release: tuple[str, ...]) -> Door:
    """Stop a node and start it with another release, where clients know it."""
    cluster.life_of[door.id].stop()
    life = cluster.start(door.id, release=release, resp_port=str(door.resp_port))
    door = life.wait_serving()
    await until_ready(door)
    return door


async def start_all(cluster: NodeCluster, release: tuple[str, ...]) -> dict[int, Door]:
    lives = [cluster.start(node, release=release) for node in cluster.peers]
    doors = [life.wait_serving() for life in lives]
    await until_ready(*doors)
    return {door.id: door for door in doors}


async def until_told(admin: AdminClient, node: int, features: tuple[str, ...]) -> None:
    """Return once the roster says what a node can do."""

    async def is_told() -> bool:
        return (await admin.member(node)).features == features

    await until(is_told, f"node {node} to have {features}", CATCHES_UP_S_MAX)


async def test_features_open_with_the_last_node_that_is_upgraded(start_nodes: StartNodes) -> None:
    cluster = start_nodes(partitions=2)
    doors = await start_all(cluster, OLDER)
    workload = Workload([*doors.values()])
    async with doors[1].admin() as admin:
        await admin.change_settings({"replication_factor": 2})
    async with workload.running():
        for node, left in ((1, [2, 3]), (2, [3])):
            doors[node] = await replace(cluster, doors[node], THIS)
            async with doors[node].admin() as admin:
                await until_told(admin, node, FEATURES)
                begin = {"split": admin.split(1), "merge": admin.merge(1), "migrate": admin.migrate(1, 1, 0)}
                for feature, asked in begin.items():
                    sentence = f"the feature '{feature}' is not open yet; nodes {left} do not have it: upgrade them"
                    with pytest.raises(RequestError, match=re.escape(sentence)):
                        await asked
                assert await admin.operations() == [], "nothing is begun that would be refused"
                versions = {member.id: member.version for member in await admin.members()}
                assert all((versions[each] == other_releases.OLDER) == (each in left) for each in versions)
            await workload.until_written(f"the upgrade of node {node}")
        doors[3] = await replace(cluster, doors[3], THIS)
        async with doors[3].admin() as admin:

            async def is_open() -> bool:
                try:
                    await admin.split(1)
                except RequestError:
                    return False
                return True

            async def is_done() -> bool:
                return [len(partition.replicas) for partition in await admin.partitions()] == [2, 2, 2]

            await until(is_open, "the feature to open by itself", CATCHES_UP_S_MAX)
            await until(is_done, "the split, and what the planner was kept from", CATCHES_UP_S_MAX)
        await workload.until_written("the split")
    await workload.check(*doors.values())


async def test_commands_that_an_older_node_does_not_know_wait_for_its_upgrade(start_nodes: StartNodes) -> None:
    """Its replicas would skip them, and be copies no more."""
    cluster = start_nodes(partitions=2)
    lives = {node: cluster.start(node, release=OLDER if node == 3 else THIS) for node in cluster.peers}
    doors = {node: life.wait_serving() for node, life in lives.items()}
    await until_ready(*doors.values())
    newer = (
        *("LPUSH {t}list a", "SADD {t}set a", "ZADD {t}zset 1 a", "XADD {t}stream 1-1 f v", "SETBIT {t}bits 1 1"),
        *("BLPOP {t}list 1", "XREAD BLOCK 1 STREAMS {t}stream $", "LLEN {t}list", "EVAL return{1} 1 {t}", "FLUSHDB"),
    )
    async with doors[1].client() as client:
        for line in newer:
            name = line.split()[0].lower()
            with pytest.raises(ResponseError, match=f"^'{name}' needs every node to run a release that knows it"):
                await client.execute_command(*line.split())
        with pytest.raises(ResponseError, match=r"^'select' needs every node"):
            await client.execute_command("SELECT", 1)
        with pytest.raises(ResponseError, match=r"^'exec' needs every node"):
            await client.pipeline(transaction=True).set("{t}a", 1).set("{t}b", 2).execute()
        assert await client.set("{t}a", "known to all")
        doors[3] = await replace(cluster, doors[3], THIS)

        async def is_open() -> bool:
            try:
                return bool(await client.lpush("{t}list", "a"))
            except ResponseError:
                return False

        await until(is_open, "lists to be open to all", CATCHES_UP_S_MAX)
        for line in newer:
            await client.execute_command(*line.split())
        assert await client.select(1)
        assert await client.pipeline(transaction=True).set("a", 1).set("b", 2).execute() == [True, True]


async def test_what_a_later_release_wrote_survives_this_one(start_nodes: StartNodes) -> None:
    """As when an upgrade is taken back, and done again: meanwhile each record is written anew."""
    cluster = start_nodes(partitions=1)
    await start_all(cluster, NEWER)
    for life in cluster.life_of.values():
        life.stop()
    doors = await start_all(cluster, THIS)
    async with doors[1].admin() as admin:
        for node in doors:
            await admin.change_member(node, weight=2.0)
    doors[2] = await replace(cluster, doors[2], NEWER)
    async with doors[2].admin() as admin:

        async def has_weights() -> bool:
            return [member.weight for member in await admin.members()] == [2.0, 2.0, 2.0]

        await until(has_weights, "the later release to know the weights")
    mottos = Path(cluster.data_dir(2), other_releases.MOTTOS_FILE)
    mottos.unlink()
    cluster.life_of[2].stop()
    found = {int(node): motto for node, motto in json.loads(mottos.read_text()).items()}
    assert found == {node: other_releases.motto_of(node) for node in doors}


async def test_an_older_node_is_not_sent_what_it_cannot_read(start_nodes: StartNodes) -> None:
    """One word that it does not know, and it would close the connection, for every group at once."""
    cluster = start_nodes(partitions=1)
    lives = {node: cluster.start(node, release=OLDER if node == 3 else THIS) for node in cluster.peers}
    doors = {node: life.wait_serving() for node, life in lives.items()}
    await until_ready(*doors.values())
    async with doors[1].client() as publisher, doors[2].client() as listener, listener.pubsub() as hearing:
        await hearing.subscribe("news")
        assert (await hearing.get_message(timeout=CATCHES_UP_S_MAX))["type"] == "subscribe"
        for number in range(100):
            await publisher.publish("news", number)
        heard = [await hearing.get_message(timeout=CATCHES_UP_S_MAX) for _ in range(100)]
        assert [message["data"] for message in heard] == [b"%d" % number for number in range(100)]
    assert lives[3].events("peer_protocol_error") == []
    assert lives[1].events("peer_disconnected") == []
    doors[3] = await replace(cluster, doors[3], THIS)
    async with doors[1].client() as publisher, doors[3].client() as listener, listener.pubsub() as hearing:
        await hearing.subscribe("news")

        async def is_heard() -> bool:
            await publisher.publish("news", "upgraded")
            message = await hearing.get_message(timeout=0.3)
            return message is not None and message["data"] == b"upgraded"

        await until(is_heard, "the upgraded node to be told", CATCHES_UP_S_MAX)
