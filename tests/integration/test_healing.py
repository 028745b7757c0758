"""A node that has lost what it had on disk has no say until its peers have given it back, and then counts as before.

Real processes. A crash between any two steps of a start is the matter of tests/unit/node/test_recovery.py.
"""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from cluster_processes import (
    CATCHES_UP_S_MAX,
    SEGMENT_BYTES_MAX,
    Door,
    NodeCluster,
    NodeProcess,
    StartNodes,
    StartUp,
    until,
    until_no_lag,
    until_ready,
    write_settings,
)
from log_damage import flip_in_the_middle, newest_segment
from redis.exceptions import RedisError
from up_process import wait_until

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

GROUPS = 5
"""Four partitions and *meta*."""
REJOIN = ("env", "NOCTULE_REJOIN=true")


class Colony:
    """Three nodes with many acknowledged writes, whose node 2 is down and about to lose something."""

    def __init__(self, nodes: NodeCluster) -> None:
        self.nodes = nodes
        self.lives: dict[int, NodeProcess] = {}
        self.doors: dict[int, Door] = {}
        self.values = {f"key-{number}": f"value {number}" for number in range(150)}

    @property
    def folder(self) -> Path:
        """Of node 2."""
        return self.nodes.data_dir(2)

    async def begin(self) -> None:
        """Write, and kill node 2."""
        # Snapshots of some groups and not of others, and logs that begin after one.
        write_settings(self.nodes.directory, segment_bytes_max=SEGMENT_BYTES_MAX, snapshot_entries=30)
        self.lives = self.nodes.start_all()
        self.doors = {node: life.wait_serving() for node, life in self.lives.items()}
        await until_ready(*self.doors.values())
        async with self.doors[2].client() as client:
            for key, value in self.values.items():
                assert await client.set(key, value) is True
        await until_no_lag([*self.doors.values()])
        self.lives[2].kill()

    @property
    def wanted(self) -> list[bytes]:
        """What is to be read."""
        return [value.encode() for value in self.values.values()]

    def start_two(self, prefix: Sequence[str] = ()) -> NodeProcess:
        """Another life of node 2, which serves on return."""
        self.lives[2] = self.nodes.start(2, prefix=prefix)
        self.doors[2] = self.lives[2].wait_serving()
        return self.lives[2]

    async def check_healed(self) -> None:
        """Node 2 is a voter with all data: with another node killed, it and the third elect and serve everything."""
        await until_ready(*self.doors.values())
        await until_no_lag([*self.doors.values()])
        whole = {group: [1, 2, 3] for group in range(GROUPS)}
        wait_until(lambda: voters_told(self.lives[2]) == whole, "node 2 to be a voter everywhere", CATCHES_UP_S_MAX)
        self.lives[1].kill()
        await self.until_written(self.doors[2], "with two nodes")
        for node in (2, 3):
            async with self.doors[node].client() as client:
                assert await client.mget([*self.values]) == self.wanted
        async with self.doors[2].client() as client:
            await client.execute_command("READONLY")

            async def has_heard_of_all() -> bool:
                return await client.mget([*self.values]) == self.wanted

            await until(has_heard_of_all, "node 2 to hear that the last writes are committed")
            self.lives[3].kill()
            assert await has_heard_of_all(), "node 2 has them itself"

    async def until_written(self, door: Door, value: str) -> None:
        """Overwrite every key through this node, each until it is acknowledged."""
        async with door.client() as client:
            for key in self.values:

                async def is_set(key: str = key) -> bool:
                    try:
                        return await client.set(key, value) is True
                    except RedisError:
                        return False

                await until(is_set, f"the acknowledgement of {key}", CATCHES_UP_S_MAX)
        self.values = dict.fromkeys(self.values, value)

    def owner(self) -> dict[str, object]:
        """What node 2's folder says."""
        found = json.loads((self.folder / "node.json").read_bytes())
        assert isinstance(found, dict)
        return found


def reasons_of_refusal(life: NodeProcess, peer: int) -> list[str]:
    """Why this life would not have that peer."""
    return [event["reason"] for event in life.events("peer_refused") if event["peer"] == peer]


def voters_told(life: NodeProcess) -> dict[int, list[int]]:
    """The voters of each group by the last membership that this life has applied."""
    return {event["group"]: event["voters"] for event in life.events("membership_changed")}


@pytest.fixture
async def colony(start_nodes: StartNodes) -> Colony:
    colony = Colony(start_nodes())
    await colony.begin()
    return colony


async def test_a_damaged_log_is_set_aside_and_what_it_held_fetched_from_the_peers(colony: Colony) -> None:
    path = newest_segment(colony.folder / "wal")
    place, damaged = flip_in_the_middle(path)
    life = colony.start_two()
    [event] = life.events("log_damaged")
    directory = colony.owner()["directory"]
    assert (event["level"], event["file"], event["byte"]) == ("error", str(path), place)
    assert "a later one stands at byte" in event["reason"]
    assert event["directory"] == directory != 0
    assert (path.parent / f"damaged-1-{path.name}").read_bytes() == damaged, "it is kept for analysis"
    await colony.check_healed()


async def test_a_deleted_log_is_not_taken_for_a_first_start(colony: Colony) -> None:
    shutil.rmtree(colony.folder / "wal")
    [event] = colony.start_two().events("log_damaged")
    assert event["reason"] == "there is no log, and there was one"
    await colony.check_healed()


async def test_a_deleted_data_folder_is_made_up_for_with_rejoin(colony: Colony) -> None:
    folder = colony.owner()["folder"]
    shutil.rmtree(colony.folder)
    colony.start_two(REJOIN)
    assert colony.owner()["directory"] != 0
    assert colony.owner()["folder"] != folder
    await colony.check_healed()


async def test_a_deleted_data_folder_without_rejoin_is_refused_until_the_operator_says_so(colony: Colony) -> None:
    """It would vote a second time in terms in which it has voted; to the node itself it looks like a first start."""
    shutil.rmtree(colony.folder)
    stranger = colony.start_two()
    sentence = "node 2 came with another data folder than before: start it with that one; if it is lost, empty the new"

    async def is_refused() -> bool:
        status, ready = await colony.doors[2].health("/ready")
        return status == 503 and sentence in ready["reason"]

    await until(is_refused, "the reason in node 2's readiness")
    for life, peer in ((stranger, 1), (stranger, 3), (colony.lives[1], 2), (colony.lives[3], 2)):
        refused = partial(reasons_of_refusal, life, peer)
        wait_until(refused, "the refusal in the log")
        assert sentence in refused()[0]
        assert "--rejoin" in refused()[0]
    await colony.until_written(colony.doors[1], "without node 2")
    stranger.kill()
    life = colony.start_two(REJOIN)
    await until(is_refused, "the same refusal: the folder is not empty any more")
    assert life.events("rejoin_without_effect")
    life.kill()
    shutil.rmtree(colony.folder)
    colony.start_two(REJOIN)
    await colony.check_healed()


async def test_a_node_killed_in_the_middle_of_healing_heals_at_its_next_start(colony: Colony) -> None:
    flip_in_the_middle(newest_segment(colony.folder / "wal"))
    life = colony.nodes.start(2)
    wait_until(lambda: life.events("log_damaged"), "the damage to be found")
    life.kill()
    life = colony.start_two()
    # Applied in one group at least, and hardly in all.
    wait_until(lambda: life.events("membership_changed"), "a group to take it back")
    life.kill()
    colony.start_two()
    await until_ready(*colony.doors.values())
    await until_no_lag([*colony.doors.values()])
    colony.lives[2].kill()
    # Known to be a voter by its own disk, and not by what a leader tells.
    colony.start_two()
    await until_ready(*colony.doors.values())
    colony.lives[1].kill()
    await colony.until_written(colony.doors[2], "with two nodes")
    async with colony.doors[3].client() as client:
        assert await client.mget([*colony.values]) == [value.encode() for value in colony.values.values()]


async def test_up_gives_a_node_whose_folder_was_deleted_what_it_had(start_up: StartUp, tmp_path: Path) -> None:
    cluster = start_up("--partitions", "4")
    async with cluster.doors[0].client() as client:
        assert await client.set("bat", "Nyctalus noctula") is True
    cluster.kill_everything()
    shutil.rmtree(tmp_path / "data" / "node-2")
    cluster.start()
    await until_no_lag(cluster.doors)
    [one, two, _] = cluster.doors
    killed = await cluster.kill_node(one)
    async with two.client() as client:
        assert await client.get("bat") == b"Nyctalus noctula"
        assert await client.set("owl", "Strix aluco") is True
    await cluster.until_back(one, killed)
    cluster.kill_everything()
    for node in (1, 2, 3):
        shutil.rmtree(tmp_path / "data" / f"node-{node}")
    cluster.start()
    async with cluster.doors[0].client() as client:
        assert await client.get("owl") is None, "nobody is left to remember: it is a new cluster"
        assert await client.set("bat", "Nyctalus noctula") is True
