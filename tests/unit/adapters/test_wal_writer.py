"""The loop's door to the log: order, batching, bounds, failure, and a clean end."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from noctule.adapters.wal import Wal
from noctule.adapters.wal_format import record_bytes
from noctule.adapters.wal_records import Entries, HardState, SnapshotMark
from noctule.adapters.wal_writer import WalWriter
from noctule.base.errors import StorageError
from noctule.verify.sim.memory_disk import MemoryDisk

from .wal_model import IDENTITY

DIRECTORY = Path("/wal")


class Desk:
    """A writer over a disk whose syncs wait at a gate, and everything it reported."""

    def __init__(self, waiting_bytes_max: int = 1 << 20) -> None:
        self.disk = MemoryDisk()
        self.wal, _ = Wal.open(DIRECTORY, IDENTITY, segment_bytes_max=1 << 16, files=self.disk)
        while len([path for path in self.disk.paths if path.name.endswith(".tmp")]) == 0:
            self.wal.tidy()  # the next segment is prepared, so every sync from here on is a batch's
        self.disk.gate = threading.Event()
        self.disk.syncs_begun = 0
        self.durable: list[int] = []
        self.failures: list[StorageError] = []
        self.threads: list[threading.Thread] = []
        self.writer = WalWriter(self.wal, self.on_durable, self.on_failed, waiting_bytes_max=waiting_bytes_max)
        self.next_index = 1

    def on_durable(self, number: int) -> None:
        self.threads.append(threading.current_thread())
        self.durable.append(number)

    def on_failed(self, failure: StorageError) -> None:
        self.threads.append(threading.current_thread())
        self.failures.append(failure)

    def submit(self, size: int = 1) -> int:
        number = self.writer.submit([Entries(1, self.next_index, [(1, bytes(size))])])
        self.next_index += 1
        return number

    def open_gate(self) -> None:
        assert self.disk.gate is not None
        self.disk.gate.set()

    def recovered_entries(self) -> int:
        _, groups = Wal.open(DIRECTORY, IDENTITY, files=self.disk.after_power_cut())
        return len(groups[1].entries) if 1 in groups else 0


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    desk.open_gate()
    await desk.writer.close()
    desk.wal.close()
    assert not any(thread.name == "wal-writer" for thread in threading.enumerate())


async def wait_until(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.001)


async def test_nothing_is_durable_before_the_sync_returns(desk: Desk) -> None:
    number = desk.submit()
    await wait_until(lambda: desk.disk.syncs_begun == 1)
    assert desk.durable == []
    assert desk.recovered_entries() == 0
    desk.open_gate()
    await wait_until(lambda: desk.durable == [number])
    assert desk.recovered_entries() == 1
    assert desk.writer.waiting_bytes == 0


async def test_what_comes_during_a_sync_is_the_next_one(desk: Desk) -> None:
    assert desk.submit() == 1
    await wait_until(lambda: desk.disk.syncs_begun == 1)
    later = []
    for _ in range(4):
        later.append(desk.submit())
        await asyncio.sleep(0)  # the turn ends
    assert later == [2, 3, 4, 5]
    desk.open_gate()
    await wait_until(lambda: desk.durable == [1, 5])
    assert desk.disk.syncs_begun == 2, "four turns shared one sync"
    assert desk.recovered_entries() == 5


async def test_callbacks_run_in_the_loop(desk: Desk) -> None:
    desk.open_gate()
    desk.submit()
    await wait_until(lambda: bool(desk.durable))
    desk.disk.failing["write"] = 28
    desk.submit()
    await wait_until(lambda: bool(desk.failures))
    assert desk.threads == [threading.main_thread()] * 2


async def test_close_makes_everything_durable() -> None:
    desk = Desk()
    desk.open_gate()
    for _ in range(50):
        desk.submit()
        await asyncio.sleep(0)
    last = desk.submit()
    await desk.writer.close()
    assert desk.durable[-1] == last
    assert desk.recovered_entries() == 51
    with pytest.raises(StorageError, match="being closed"):
        desk.submit()
    await desk.writer.close()
    desk.wal.close()


async def test_close_hands_over_what_this_turn_submitted(desk: Desk) -> None:
    """The thread must not see the end before it sees the last batch; here the loop gets no further turn between."""
    desk.open_gate()
    desk.submit()
    closing = desk.writer.close()
    closing.send(None)
    desk.writer._worker.join(timeout=5)
    closing.close()
    assert desk.recovered_entries() == 1


@pytest.mark.interpreted
async def test_a_long_queue_is_acknowledged_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noctule.adapters.wal_writer.FRAME_BYTES_WANTED", 1000)
    desk = Desk()
    desk.submit()
    await wait_until(lambda: desk.disk.syncs_begun == 1)
    for _ in range(6):
        desk.submit(500)
        await asyncio.sleep(0)
    desk.open_gate()
    await wait_until(lambda: desk.durable == [1, 3, 5, 7])
    await desk.writer.close()
    desk.wal.close()


async def test_waiting_bytes_are_bounded_and_overload_is_told_before() -> None:
    one = record_bytes(Entries(1, 1, [(1, bytes(1000))]))
    desk = Desk(waiting_bytes_max=4 * one)
    desk.submit(1000)
    overloaded = [desk.writer.is_overloaded]
    desk.submit(1000)
    overloaded.append(desk.writer.is_overloaded)
    assert overloaded == [False, True]
    desk.submit(1000)
    desk.submit(1000)
    with pytest.raises(StorageError, match=f"over the bound of {4 * one}"):
        desk.submit(1000)
    assert desk.writer.waiting_bytes == 4 * one
    desk.open_gate()
    await wait_until(lambda: desk.writer.waiting_bytes == 0)
    assert not desk.writer.is_overloaded
    desk.submit(1000)
    await desk.writer.close()
    assert desk.recovered_entries() == 5
    desk.wal.close()


async def test_a_failure_is_told_once_and_nothing_is_acknowledged_after_it(desk: Desk) -> None:
    desk.submit()
    desk.disk.failing["sync_data"] = 5
    await wait_until(lambda: desk.disk.syncs_begun == 1)
    desk.submit()
    await asyncio.sleep(0)
    desk.open_gate()
    await wait_until(lambda: bool(desk.failures))
    desk.disk.failing.clear()
    with pytest.raises(StorageError, match="takes nothing more since: syncing"):
        desk.submit()
    await desk.writer.close()
    assert desk.durable == []
    assert [str(failure) for failure in desk.failures] == [str(desk.writer.failure)]
    assert desk.disk.syncs_begun == 1, "no sync is tried again"


async def test_a_bug_in_the_records_is_a_failure_too(desk: Desk) -> None:
    desk.open_gate()
    desk.writer.submit([Entries(1, 7, [(1, b"gap")])])
    await wait_until(lambda: bool(desk.failures))
    assert "entries follow the log" in str(desk.failures[0])
    assert desk.durable == []


async def test_covered_segments_are_dropped_while_it_runs(desk: Desk) -> None:
    desk.open_gate()
    for _ in range(3):
        desk.submit(40_000)
        await asyncio.sleep(0)
    desk.writer.submit([SnapshotMark(1, 3, 1)])
    await wait_until(lambda: any(operation.kind == "remove" for operation in desk.disk.trace))
    assert desk.failures == []


async def test_closing_after_a_failure_returns(desk: Desk) -> None:
    desk.disk.failing["write"] = 28
    desk.open_gate()
    desk.writer.submit([HardState(1, 1, 1, 0)])
    await desk.writer.close()
    assert len(desk.failures) == 1
