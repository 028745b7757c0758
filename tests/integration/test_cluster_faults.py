"""Real clusters under real harm: processes killed, paused, with torn logs; what was promised holds."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import time
from itertools import count
from typing import Any

import aiohttp
import pytest
from cluster_processes import (
    CATCHES_UP_S_MAX,
    GOES_ON_S_MAX,
    Door,
    NodeCluster,
    NodeProcess,
    StartNodes,
    StartUp,
    UpCluster,
    until,
    until_caught_up,
    until_no_lag,
    until_ready,
    write_settings,
)
from cluster_workload import PAUSE_S, Workload
from log_damage import frames_of, newest_segment
from mounted_disks import MountDisk
from redis.asyncio import Redis
from redis.exceptions import RedisError
from up_process import wait_until

from noctule.adapters.wal_format import encode_frame, encode_records
from noctule.adapters.wal_records import Summary
from noctule.client.pictures import Cluster, Group
from noctule.core.placement.slots import key_slot

pytest_plugins = ("cluster_processes", "mounted_disks")
pytestmark = pytest.mark.integration


def key_in(group: Group) -> str:
    """A key of this partition."""
    keys = (f"in-{group.id}-{number}" for number in count())
    return next(key for key in keys if group.first_slot <= key_slot(key.encode()) <= group.last_slot)


def led_by(picture: Cluster, node: int) -> list[Group]:
    """The partitions that this node leads."""
    return [group for group in picture.groups if group.leader == node and group.first_slot >= 0]


async def picture_of(door: Door) -> Cluster:
    picture = await door.picture()
    assert picture is not None, f"node {door.id} does not answer"
    return picture


async def until_set(client: Redis, key: str, value: str) -> None:
    """Write until it is acknowledged; the first tries may meet the node that has just ended."""

    async def is_set() -> bool:
        try:
            return await client.set(key, value) is True
        except RedisError:
            return False

    await until(is_set, f"the acknowledgement of {key}")


# Killed ---------------------------------------------------------------------------------------------------------------


async def test_each_node_is_killed_in_turn_under_load(start_up: StartUp) -> None:
    cluster = start_up("--partitions", "6")
    workload = Workload(cluster.doors)
    async with workload.running():
        for victim in cluster.doors:
            survivor, other = [door for door in cluster.doors if door is not victim]
            led = led_by(await picture_of(survivor), victim.id)
            assert led, "leaders are spread over all nodes"
            killed = await cluster.kill_node(victim)
            async with survivor.client() as client:
                await until_set(client, key_in(led[0]), f"after node {victim.id}")
            await workload.until_written(f"the end of node {victim.id}")
            followed = {group.id: group.leader for group in (await picture_of(survivor)).groups}
            assert followed[led[0].id] in (survivor.id, other.id)
            await cluster.until_back(victim, killed)
            await until_caught_up(victim, (survivor, other))
            async with victim.client() as client:
                assert await client.get(key_in(led[0])) == f"after node {victim.id}".encode()
                assert await client.set(f"by-{victim.id}", "back") is True
            await workload.until_written(f"the return of node {victim.id}")
    await until_no_lag(cluster.doors)
    await workload.check(*cluster.doors)


async def test_everything_killed_at_once_loses_nothing_acknowledged(start_up: StartUp) -> None:
    cluster = start_up("--partitions", "6")
    workload = Workload(cluster.doors)
    async with cluster.doors[0].client() as client:
        await client.hset("bat", mapping={"name": "Nyctalus noctula", "grams": "30"})
        assert await client.hincrby("bat", "grams", 2) == 32
        await client.set("night", "long", ex=600)
        await client.set("dusk", "short", px=500)
        await client.pexpire("bat", 600_000)
        set_at = time.monotonic()
    async with workload.running():
        cluster.kill_everything()
    cluster.start()
    await workload.check(*cluster.doors)
    for door in cluster.doors:
        async with door.client() as client:
            assert await client.hgetall("bat") == {b"name": b"Nyctalus noctula", b"grams": b"32"}
            assert await client.get("night") == b"long"
            for key in ("bat", "night"):
                passed_ms = (time.monotonic() - set_at) * 1000
                # The two clocks, of the store and of this test, may be corrected differently.
                assert 0 < await client.pttl(key) <= 600_000 - passed_ms + 100, "the time went on while nobody ran"
            assert await client.exists("dusk") == 0
    async with cluster.doors[1].client() as client:
        assert await client.incr("counter-0") > max(workload.answers["counter-0"])


async def test_a_node_that_was_away_for_long_catches_up_by_a_snapshot(start_nodes: StartNodes) -> None:
    """A dropped log cannot be sent any more: entries that a snapshot covers go when the disk wants the space."""
    cluster = start_nodes(partitions=1)
    snapshot_entries = 50
    write_settings(
        cluster.directory, segment_bytes_max=64 << 10, snapshot_entries=snapshot_entries, compress_snapshots=True
    )
    lives = cluster.start_all()
    one, two, three = doors = [life.wait_serving() for life in lives.values()]
    await until_ready(*doors)
    before = (await picture_of(three)).groups[1].last_index
    lives[3].kill()
    values = {f"key-{number}": f"{number}-".ljust(2_000, ".") for number in range(6 * snapshot_entries)}
    async with one.client() as client:
        await until_set(client, "first", "after the end of node 3")
        for key, value in values.items():
            assert await client.set(key, value) is True
        last_index = (await picture_of(one)).groups[1].last_index
        assert last_index - before > 5 * snapshot_entries

        async def is_dropped() -> bool:
            pictures = [await picture_of(door) for door in (one, two)]
            return all(picture.groups[1].snapshot_index > before for picture in pictures)

        await until(is_dropped, "the log that node 3 lacks to be dropped by both others", CATCHES_UP_S_MAX)
        lives[3] = cluster.start(3)
        three = lives[3].wait_serving()
        await until_no_lag((one, two, three))
    assert (await picture_of(three)).groups[1].snapshot_index > before
    saved = [event["index"] for event in lives[3].events("snapshot_saved") if event["group"] == 1]
    assert saved
    assert saved[0] > before
    assert 3 in [event["peer"] for node in (1, 2) for event in lives[node].events("snapshot_stream_opened")]
    # With both others gone nobody but node 3 can be the one that answers.
    lives[1].kill()
    lives[2].kill()
    async with Redis(port=three.resp_port, single_connection_client=True) as client:
        await client.readonly()
        assert await client.mget([*values]) == [value.encode() for value in values.values()]
        assert await client.get("first") == b"after the end of node 3"


# Paused ---------------------------------------------------------------------------------------------------------------


async def test_a_paused_leader_is_passed_by_and_gives_no_stale_answer_afterwards(start_up: StartUp) -> None:
    """It still believes that it leads when it wakes up; only asking a quorum tells it that time has passed."""
    cluster = start_up("--partitions", "6")
    survivor, other, victim = cluster.doors
    keys = [key_in(group) for group in led_by(await picture_of(survivor), victim.id)]
    assert keys
    pid = await cluster.pid_of(victim)
    newest: dict[str, str] = {}
    async with survivor.client() as first, other.client() as second:
        for key in keys:
            await until_set(first, key, "before the pause")
        connections = [socket.create_connection(("127.0.0.1", victim.resp_port), timeout=10) for _ in keys]
        try:
            os.kill(pid, signal.SIGSTOP)
            for connection in connections:
                # So these sockets are the first that have something for it to read, before those of its peers.
                connection.sendall(b"PING\r\n")
            paused_at = time.monotonic()
            # Longer than any election timeout.
            for number in count():
                for key in keys:
                    newest[key] = f"write {number} of the pause"
                    await until_set((first, second)[number % 2], key, newest[key])
                if time.monotonic() - paused_at > 3.0:
                    break
            assert led_by(await picture_of(other), victim.id) == []
            for key, connection in zip(keys, connections, strict=True):
                connection.sendall(f"GET {key}\r\n".encode())
            os.kill(pid, signal.SIGCONT)
            for key, connection in zip(keys, connections, strict=True):
                assert await asyncio.to_thread(read_bulk, connection) == newest[key]
        finally:
            os.kill(pid, signal.SIGCONT)
            for connection in connections:
                connection.close()
    await until_no_lag(cluster.doors)
    async with victim.client() as client:
        assert await client.mget(keys) == [newest[key].encode() for key in keys]
        await until_set(client, keys[0], "after the pause")


def read_bulk(connection: socket.socket) -> str:
    """The string that a RESP door sends after its answer to PING."""
    with connection.makefile("rb") as answer:
        assert answer.readline() == b"+PONG\r\n"
        head = answer.readline()
        assert head.startswith(b"$"), head
        return answer.read(int(head[1:])).decode()


# Torn logs ------------------------------------------------------------------------------------------------------------


async def written_and_killed(cluster: NodeCluster) -> tuple[dict[int, NodeProcess], list[Door], dict[str, str]]:
    """A cluster with some keys, whose node 2 has been killed after it had synced them."""
    lives = cluster.start_all()
    doors = [life.wait_serving() for life in lives.values()]
    await until_ready(*doors)
    values = {f"key-{number}": f"value {number}" for number in range(50)}
    async with doors[1].client() as client:
        for key, value in values.items():
            assert await client.set(key, value) is True
    await until_no_lag(doors)
    lives[2].kill()
    return lives, doors, values


async def test_a_torn_tail_of_the_log_is_what_a_crash_leaves(start_nodes: StartNodes) -> None:
    cluster = start_nodes()
    lives, doors, values = await written_and_killed(cluster)
    path = newest_segment(cluster.data_dir(2) / "wal")
    data = path.read_bytes()
    salt, frames = frames_of(data)
    last = frames[-1]
    payload = encode_records([Summary(1, 1, 1, 0, 0, 0, 0)] * 20)
    torn, _ = encode_frame(payload, salt=salt, sequence=last.sequence + 1, previous_crc=last.crc)
    half = len(torn) // 2
    path.write_bytes(data[: last.end] + torn[:half] + data[last.end + half :])
    lives[2] = cluster.start(2)
    two = lives[2].wait_serving()
    await until_ready(two)
    await until_no_lag((doors[0], two, doors[2]))
    async with two.client() as client:
        assert await client.mget([*values]) == [value.encode() for value in values.values()]


# Signed-in users ------------------------------------------------------------------------------------------------------


class Visitor:
    """Somebody signed in, who looks again and again; any answer but a good one ends the test."""

    def __init__(self, name: str, browser: aiohttp.ClientSession, gateway: str) -> None:
        self.name = name
        self.visits = 0
        self._browser = browser
        self._gateway = gateway

    async def sign_in(self) -> None:
        form = {"name": self.name}
        async with self._browser.post(f"{self._gateway}/sign-in", data=form, allow_redirects=False) as answer:
            assert answer.status == 303

    async def look(self) -> None:
        async with self._browser.get(f"{self._gateway}/api/whoami") as answer:
            assert answer.status == 200, await answer.text()
            found = await answer.json()
        assert found["name"] == self.name
        assert found["visits"] > self.visits
        self.visits = found["visits"]

    async def keep_looking(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(PAUSE_S)


async def test_users_stay_signed_in_while_each_process_is_killed(start_up: StartUp) -> None:
    cluster = start_up("examples.board:app", "--instances", "2")
    async with contextlib.AsyncExitStack() as stack:
        visitors = []
        for name in ("Ada", "Grace", "Katherine"):
            jar, timeout = aiohttp.CookieJar(unsafe=True), aiohttp.ClientTimeout(total=2 * GOES_ON_S_MAX)
            browser = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar, timeout=timeout))
            visitors.append(Visitor(name, browser, cluster.gateway))
            await visitors[-1].sign_in()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(visitor.keep_looking(), name=visitor.name) for visitor in visitors]
            for victim in cluster.doors:
                await cluster.until_back(victim, await cluster.kill_node(victim))
                await until_visited(visitors, f"the end of node {victim.id}")
            for name in ("web-1", "web-2"):
                await kill_instance(cluster, name)
                await until_visited(visitors, f"the end of {name}")
            for task in tasks:
                task.cancel()


async def until_visited(visitors: list[Visitor], event: str) -> None:
    """Return once each visitor has asked from now on and been answered."""
    wanted = [visitor.visits + 2 for visitor in visitors]

    async def have_visited() -> bool:
        return all(visitor.visits >= least for visitor, least in zip(visitors, wanted, strict=True))

    await until(have_visited, f"an answer to each visitor after {event}")


async def kill_instance(cluster: UpCluster, name: str) -> None:
    """SIGKILL to an instance; returns once another process is healthy in its place."""
    door = cluster.doors[0]
    [before] = [each.pid for each in (await picture_of(door)).instances if each.id == name]
    os.kill(before, signal.SIGKILL)

    async def is_back() -> bool:
        instances = (await picture_of(door)).instances
        return any(each.id == name and each.pid != before and each.state == "healthy" for each in instances)

    await until(is_back, f"{name} to be started again and healthy", CATCHES_UP_S_MAX)


# Strangers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"cluster": "owls"}, "is of cluster 'bats', node 3 of 'owls'"),
        ({"partitions": "5"}, "have different cluster settings (voters, partitions)"),
    ],
)
async def test_a_node_of_another_cluster_is_refused_and_says_so(
    settings: dict[str, str], reason: str, start_nodes: StartNodes
) -> None:
    cluster = start_nodes()
    lives = [cluster.start(1), cluster.start(2)]
    one, two = doors = [life.wait_serving() for life in lives]
    await until_ready(*doors)
    stranger = cluster.start(3, **settings)
    door = stranger.wait_serving()

    async def is_refused() -> bool:
        status, ready = await door.health("/ready")
        return status == 503 and reason in ready["reason"]

    await until(is_refused, "the reason in the stranger's readiness")
    for life, peer in ((stranger, 1), (lives[0], 3)):
        wait_until(lambda life=life, peer=peer: refusals(life, peer), "the refusal in the log")  # type: ignore[misc]
        (refusal,) = refusals(life, peer)
        assert refusal["level"] == "error"
        assert reason in refusal["reason"]
    async with two.client() as client:
        await until_set(client, "k", "v")
    assert await one.is_ready()


def refusals(life: NodeProcess, peer: int) -> list[dict[str, Any]]:
    """What a node has logged of a peer that it must not talk to."""
    return [event for event in life.events("peer_refused") if event["peer"] == peer]


async def test_what_a_node_cannot_start_with_is_one_line_and_exit_code_2(start_nodes: StartNodes) -> None:
    cluster = start_nodes()
    first = cluster.start(1)
    first.wait_serving()
    own, file, peer_port = cluster.data_dir(1), cluster.directory / "file", cluster.peers[1]
    file.write_text("in the way")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = str(listener.getsockname()[1])
        # Those that get as far as their doors must not meet each other there.
        apart = [{"data_dir": str(cluster.directory / name), "peer_port": "0"} for name in ("resp", "http")]
        refused = [
            (cluster.start(1, cluster="owls"), f"{own} has cluster 'bats', not 'owls'"),
            (cluster.start(2, data_dir=str(own)), f"{own} has node id 1, not 2"),
            (cluster.start(1, partitions="8"), f"{own} has number of partitions 4, not 8"),
            (cluster.start(1), f"{own} is in use by the process with pid {first.process.pid}: stop it"),
            (cluster.start(2, data_dir=f"{file}/data"), f"{file}/data: Not a directory; choose another --data-dir"),
            (cluster.start(2, peer_port=str(peer_port)), f"127.0.0.1:{peer_port}: .*; choose another --peer-port"),
            (
                cluster.start(2, resp_port=taken, **apart[0]),
                f"RESP cannot listen on 127.0.0.1:{taken}: .*; choose another",
            ),
            (
                cluster.start(2, http_port=taken, **apart[1]),
                f"http port {taken} on 127.0.0.1 is in use: .* set http_port",
            ),
        ]
        for life, reason in refused:
            code, words = life.wait_refused()
            [line] = [line for line in words.splitlines() if not line.startswith("{")]
            assert code == 2, line
            assert re.match(f"error: .*{reason}", line), line
    assert first.process.poll() is None


def test_a_data_folder_that_cannot_be_written_is_one_line_and_exit_code_2(
    start_nodes: StartNodes, mount_disk: MountDisk
) -> None:
    cluster = start_nodes()
    data_dir = cluster.data_dir(1)
    if os.geteuid() == 0:  # permissions do not bind root
        life = cluster.start(1, prefix=mount_disk(data_dir, "ro").prefix)
    else:
        data_dir.mkdir(mode=0o500)
        life = cluster.start(1)
    words = r"(Read-only file system|Permission denied); choose another --data-dir"
    code, line = life.wait_refused()
    assert code == 2
    assert re.fullmatch(f"error: cannot use the data folder {data_dir}: {words}\n", line), line
