"""A simulated machine's disk: the real log and snapshot files in virtual time, across crashes, failures and damage."""

import random
from collections import Counter

import pytest

from noctule.adapters.wal_records import Entries
from noctule.base.errors import NoctuleError
from noctule.base.ids import GroupId
from noctule.core.raft.config import RaftConfig
from noctule.core.replica.replica import SnapshotPolicy
from noctule.node.recovery import ReplicaSettings
from noctule.verify.sim.disk import DiskThreads, SimulatedDisk
from noctule.verify.sim.time import VirtualTime

GROUP = GroupId(1)
SETTINGS = ReplicaSettings(
    node_id=1, voters=(1, 2, 3), raft=RaftConfig(), policy=SnapshotPolicy(), first_timeout_s=0.25
)


class OneDisk:
    """A disk, its time, and what its threads told."""

    def __init__(self, seed: int) -> None:
        self.time = VirtualTime()
        self.counts: Counter[str] = Counter()
        self.disk = SimulatedDisk(1, self.time, random.Random(seed), lambda what: self.counts.update([what]))
        self.durable: list[int] = []
        self.failed: list[NoctuleError] = []
        self.threads, self.values = self.open()
        self.disk.settle()

    def open(self) -> tuple[DiskThreads, list[bytes]]:
        """Begin a life; also the values in the log."""
        threads, replicas = self.disk.open([GROUP], SETTINGS, random.Random(1))
        threads.durable, threads.failed = self.durable.append, self.failed.append
        log = replicas[GROUP].raft.log
        return threads, [entry.data for entry in log.between(log.first_index, log.last_index)]

    def submit(self, index: int) -> int:
        return self.threads.submit([Entries(GROUP, index, [(1, b"%d" % index)])])

    def let_all_happen(self) -> None:
        self.time.run_until(self.time.now() + 10.0)


def test_batches_that_wait_become_durable_together() -> None:
    one = OneDisk(1)
    assert [one.submit(index) for index in (1, 2, 3)] == [1, 2, 3]
    assert one.durable == [], "never from within the call"
    one.let_all_happen()
    assert one.durable == [1, 3], "the first alone, since nobody waited with it"


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_in_a_write_leaves_the_batch_as_a_whole_or_not_at_all(power: bool) -> None:
    found = set()
    for seed in range(60):
        one = OneDisk(seed)
        one.submit(1)
        one.let_all_happen()
        one.submit(2)
        assert one.disk.is_writing()
        one.threads.stop()
        if power:
            one.disk.cut_power()
        else:
            one.disk.kill()
        one.let_all_happen()
        assert one.durable == [1], "a life that is over is told nothing"
        found.add(tuple(one.open()[1]))
    assert found == {(b"1",), (b"1", b"2")}


def test_a_failed_disk_is_told_once_and_works_again_in_the_next_life() -> None:
    one = OneDisk(1)
    one.disk.files.failing["sync_data"] = 5
    one.submit(1)
    one.submit(2)
    one.let_all_happen()
    assert [str(error).endswith("Input/output error (errno 5)") for error in one.failed] == [True]
    assert one.durable == []
    one.threads.stop()
    one.disk.kill()
    one.threads, _ = one.open()
    one.submit(2)
    one.let_all_happen()
    assert one.durable == [1]


def test_snapshot_jobs_are_done_one_after_the_other() -> None:
    one = OneDisk(1)
    begun: list[int] = []
    done: list[int] = []
    for number in (1, 2):

        def work(number: int = number) -> int:
            begun.append(number)
            return number

        one.threads.in_snapshot_thread(work, done.append)
    assert (begun, done) == ([1], [])
    one.let_all_happen()
    assert (begun, done) == ([1, 2], [1, 2])


def test_flipped_bits_are_found_or_do_not_matter() -> None:
    """Never misread: what was acknowledged is there, or the machine comes back empty, as another directory."""
    outcomes: Counter[str] = Counter()
    for seed in range(200):
        one = OneDisk(seed)
        for index in range(1, 10):
            one.submit(index)
            one.let_all_happen()
        one.threads.stop()
        one.disk.kill()
        one.disk.flip_bits()
        if not one.disk.is_flipped:
            outcomes["spared"] += 1
            continue
        values = one.open()[1]
        if one.counts["damage detected"]:
            assert values == []
            outcomes["detected"] += 1
        else:
            assert values == [b"%d" % index for index in range(1, 10)]
            outcomes["harmless"] += 1
    assert outcomes["detected"] > 50
    assert outcomes["harmless"] > 5
