"""One node's disk fills up or refuses to write: it stops acknowledging and says why, and comes back once it is mended.

What a disk may do at each single call is the matter of tests/unit/adapters/test_disk_failures.py.
"""

import resource
import signal
from dataclasses import dataclass

import pytest
from cluster_processes import (
    CATCHES_UP_S_MAX,
    SEGMENT_BYTES_MAX,
    Door,
    NodeCluster,
    NodeProcess,
    StartNodes,
    until,
    until_caught_up,
    until_no_lag,
    until_ready,
    write_settings,
)
from cluster_workload import Workload
from mounted_disks import MountDisk, MountedDisk
from redis.exceptions import ClusterDownError

pytest_plugins = ("cluster_processes", "mounted_disks")
pytestmark = pytest.mark.integration

SNAPSHOT_ENTRIES = 50


@dataclass(frozen=True, slots=True)
class Fault:
    """`file` is what the reason must name, `words` the system's reason."""

    file: str
    words: str


LOG_IS_FULL = Fault("/small-log/wal-", "No space left on device")
LOG_MAY_NOT_GROW = Fault("/node-3/wal/wal-", "File too large")
SNAPSHOTS_ARE_FULL = Fault("/node-3/snapshots/group-", "No space left on device")


class Victim:
    """Node 3 and its disk."""

    def __init__(self, cluster: NodeCluster, fault: Fault, mount_disk: MountDisk) -> None:
        self._cluster = cluster
        self._fault = fault
        self._disk: MountedDisk | None = None
        self._settings: dict[str, str] = {}
        if fault is LOG_IS_FULL:
            path = cluster.directory / "small-log"
            self._disk = mount_disk(path)
            self._disk.leave_room_for(5 * SEGMENT_BYTES_MAX // 2)
            self._settings = {"wal_dir": str(path)}
        elif fault is SNAPSHOTS_ARE_FULL:
            self._disk = mount_disk(cluster.data_dir(3) / "snapshots")
            self._disk.leave_room_for(SNAPSHOT_ENTRIES * 2_000)

    def start(self) -> NodeProcess:
        prefix = self._disk.prefix if self._disk is not None else ()
        return self._cluster.start(3, prefix=prefix, **self._settings)

    def break_disk(self, life: NodeProcess) -> None:
        """A full disk fails by itself, under load; this is for the other one."""
        if self._fault is LOG_MAY_NOT_GROW:
            bound = SEGMENT_BYTES_MAX // 2
            resource.prlimit(life.process.pid, resource.RLIMIT_FSIZE, (bound, bound))

    def mend_disk(self) -> None:
        """A limit ends with the process that has it."""
        if self._disk is not None:
            self._disk.make_room()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(LOG_IS_FULL, id="the log's disk is full"),
        pytest.param(LOG_MAY_NOT_GROW, id="the log's files may not grow"),
        pytest.param(SNAPSHOTS_ARE_FULL, id="the snapshots' disk is full"),
    ],
)
async def test_a_node_whose_disk_fails_says_why_and_comes_back_once_it_is_mended(
    fault: Fault, start_nodes: StartNodes, mount_disk: MountDisk
) -> None:
    cluster = start_nodes()
    write_settings(
        cluster.directory,
        segment_bytes_max=SEGMENT_BYTES_MAX,
        request_deadline_s=2,
        snapshot_entries=SNAPSHOT_ENTRIES,
    )
    victim = Victim(cluster, fault, mount_disk)
    lives = [cluster.start(1), cluster.start(2), victim.start()]
    one, two, three = [life.wait_serving() for life in lives]
    await until_ready(one, two, three)
    victim.break_disk(lives[2])
    workload = Workload((one, two, three), value_bytes=2_000)

    async def has_failed() -> bool:
        picture = await three.picture()
        return picture is not None and picture.storage_failure != ""

    async with workload.running():
        await until(has_failed, "the disk of node 3 to fail under the load", CATCHES_UP_S_MAX)
        await workload.until_written("the failure of node 3's disk")
        await check_refuses(three, lives[2], fault)
        lives[2].process.send_signal(signal.SIGTERM)
        assert lives[2].process.wait(CATCHES_UP_S_MAX) == 0
        victim.mend_disk()
        again = victim.start().wait_serving()
        await until_ready(again)
        await until_caught_up(again, (one, two))
        await workload.until_written("the return of node 3")
    await until_no_lag((one, two, again))
    await workload.check(one, two, again)


async def check_refuses(door: Door, life: NodeProcess, fault: Fault) -> None:
    """It answers to those who ask how it is, and acknowledges nothing."""
    status, ready = await door.health("/ready")
    assert status == 503
    assert ready["reason"].startswith("the disk failed: ")
    status, backend = await door.health("/backend")
    assert (status, backend["checks"]["storage"]["status"]) == (503, "failed")
    [stopped] = life.events("node_stopped_acknowledging")
    assert stopped["level"] == "error"
    for reason in (ready["reason"], backend["checks"]["storage"]["reason"], stopped["reason"]):
        assert fault.file in reason
        assert fault.words in reason
    assert (await door.health("/live"))[0] == 200
    async with door.client() as client:
        with pytest.raises(ClusterDownError, match="nothing was applied"):
            await client.set("by-3", "never acknowledged")
    assert life.process.poll() is None
