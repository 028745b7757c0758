"""A cluster of real processes looked after by the command line: it grows, moves, loses a node for good, and shrinks."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cluster_processes import CATCHES_UP_S_MAX, Door, NodeCluster, NodeProcess, StartNodes, until, until_ready
from up_process import command, environment

from noctule.base.errors import RETIRED
from noctule.client.admin import AdminClient

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

MOVES_S_MAX = 60.0
KEYS = 300


def noctule(door: Door, *words: str, code: int = 0) -> str:
    """What a command prints; its exit code must be this."""
    ended = subprocess.run(
        command(*words),
        env={**environment(), "NOCTULE_NODE": door.url},
        capture_output=True,
        text=True,
        timeout=MOVES_S_MAX,
        check=False,
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout or ended.stderr


def noctule_json(door: Door, *words: str) -> Any:
    return json.loads(noctule(door, *words, "--json"))


class Grown:
    """Three first nodes, and how others join them."""

    def __init__(self, nodes: NodeCluster) -> None:
        self.nodes = nodes
        self.lives: dict[int, NodeProcess] = {}
        self.doors: dict[int, Door] = {}

    async def begin(self) -> Door:
        self.lives = self.nodes.start_all()
        self.doors = {node: life.wait_serving() for node, life in self.lives.items()}
        await until_ready(*self.doors.values())
        return self.doors[1]

    async def join(self, number: int, token: str) -> Door:
        life = self.nodes.join(f"node-{number}", self.doors[1], token)
        door = life.wait_serving()
        assert door.id == number
        self.lives[number], self.doors[number] = life, door
        await until_ready(door)
        return door


async def has_its_share(client: AdminClient, node: int) -> bool:
    """Whether nothing moves any more and nothing is to be moved, since that node was given something."""
    is_at_rest = not await client.operations(running=True) and not (await client.plan()).moves
    return is_at_rest and (await client.member(node)).replicas > 0


async def has_no_replica_left_over(client: AdminClient, partitions: int = 8) -> bool:
    """Whether there are three of each of the partitions: a move ends a moment before its source is gone."""
    return sum([member.replicas for member in await client.members()]) == 3 * partitions


async def write(door: Door) -> None:
    store = door.client()
    for number in range(KEYS):
        await store.set(f"key-{number}", str(number))
    await store.aclose()


async def missing(door: Door) -> list[int]:
    store = door.client()
    found = [number for number in range(KEYS) if await store.get(f"key-{number}") != str(number).encode()]
    await store.aclose()
    return found


async def test_a_node_joins_by_a_token_takes_its_share_and_leaves(start_nodes: StartNodes) -> None:
    grown = Grown(start_nodes(partitions=8))
    first = await grown.begin()
    await write(first)
    token = noctule(first, "cluster", "token", "create").strip()
    fourth = await grown.join(4, token)
    assert "does not let this node in" in noctule_refusal(grown, token)
    async with AdminClient(first.url) as client:
        await until(lambda: has_its_share(client, 4), "the new node to have its share", MOVES_S_MAX)
        await until(lambda: has_no_replica_left_over(client), "no replica to be left over", MOVES_S_MAX)
        assert (await client.member(4)).replicas >= 4
    assert await missing(fourth) == []
    document = noctule_json(fourth, "status")
    assert [each["id"] for each in document["nodes"]] == [1, 2, 3, 4]
    assert len(document["partitions"]) == 8

    noctule(first, "cluster", "leave", "4", "--yes", "--timeout-s", "50")
    assert grown.lives[4].process.wait(CATCHES_UP_S_MAX) == RETIRED
    states = {each["id"]: each["state"] for each in noctule_json(first, "cluster", "nodes")["nodes"]}
    assert states == {1: "active", 2: "active", 3: "active", 4: "left"}
    assert await missing(first) == []


def noctule_refusal(grown: Grown, token: str) -> str:
    """What a node is told that comes with a token that another has used up."""
    return grown.nodes.join("refused", grown.doors[1], token).wait_refused()[1]


async def test_a_dead_node_is_removed_and_what_it_held_is_restored(start_nodes: StartNodes) -> None:
    grown = Grown(start_nodes(partitions=4))
    first = await grown.begin()
    await write(first)
    token = noctule(first, "cluster", "token", "create").strip()
    await grown.join(4, token)
    async with AdminClient(first.url) as client:
        await until(lambda: has_its_share(client, 4), "the new node to have its share", MOVES_S_MAX)
        await until(lambda: has_no_replica_left_over(client, 4), "the sources of moves to be gone")
        dead = 3
        held = (await client.member(dead)).replicas
        grown.lives[dead].kill()

        async def is_noticed() -> bool:
            return not (await client.member(dead)).alive

        await until(is_noticed, "its death to be noticed")
        words = noctule_err(first, "cluster", "remove", str(dead), "--yes")
        assert f"Partitions with a replica on node {dead}: {held}." in words

        async def is_restored() -> bool:
            partitions = await client.partitions()
            return all(
                sum(each.role in ("leader", "voter") for each in partition.replicas) == 3
                and dead not in [each.node for each in partition.replicas]
                for partition in partitions
            )

        await until(is_restored, "every partition to have three copies again", MOVES_S_MAX)
    assert await missing(first) == []


def noctule_err(door: Door, *words: str) -> str:
    ended = subprocess.run(
        command(*words),
        env={**environment(), "NOCTULE_NODE": door.url},
        capture_output=True,
        text=True,
        timeout=MOVES_S_MAX,
        check=True,
    )
    return ended.stderr


async def test_a_partition_is_moved_by_hand_and_watched(start_nodes: StartNodes, tmp_path: Path) -> None:
    grown = Grown(start_nodes(partitions=2))
    first = await grown.begin()
    noctule(first, "rebalance", "--pause")
    token = noctule(first, "cluster", "token", "create").strip()
    await grown.join(4, token)
    assert "done" in noctule(first, "migrate", "start", "1", "--from", "2", "--to", "4", "--watch")
    shown = noctule_json(first, "partition", "show", "1")
    assert sorted(each["node"] for each in shown["replicas"]) == [1, 3, 4]
    assert "has no replica" in noctule(first, "migrate", "start", "1", "--from", "2", "--to", "4", code=4)
    assert json.loads(noctule(first, "migrate", "status", "1", "--json"))["migrations"][0]["stage"] == "done"
