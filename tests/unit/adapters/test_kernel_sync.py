"""The kernel syncs and tells: what is asked of it, what it answers, and the log's writer on top of it."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from noctule.adapters import wal_writer
from noctule.adapters.kernel_sync import KernelSync
from noctule.adapters.wal import Wal
from noctule.adapters.wal_records import Entries
from noctule.adapters.wal_writer import INLINE_BYTES_MAX, WalWriter
from noctule.base.errors import StorageError

from .wal_model import IDENTITY


class Told:
    """What was told, in order, and a way to wait for more."""

    def __init__(self) -> None:
        self.all: list[int | StorageError] = []
        self._news = asyncio.Event()

    def __call__(self, outcome: int | StorageError) -> None:
        self.all.append(outcome)
        self._news.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.all) < count:
                self._news.clear()
                await self._news.wait()


def opened(told: Told) -> KernelSync:
    sync = KernelSync.open(told)
    if sync is None:
        pytest.skip("this system's kernel has no asynchronous fdatasync for us")
    return sync


async def test_each_sync_is_told_once(tmp_path: Path) -> None:
    told = Told()
    sync = opened(told)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for number in range(1, 21):
        os.pwrite(descriptor, b"x", number)
        sync.start(descriptor)
        await told.wait_for(number)
    assert told.all == [0] * 20
    sync.close()
    sync.close()
    os.close(descriptor)


async def test_what_cannot_be_synced_is_refused_or_told(tmp_path: Path) -> None:
    told = Told()
    sync = opened(told)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        sync.start(descriptor)
    assert told.all == []
    sync.close()


async def test_close_waits_for_a_sync_on_its_way(tmp_path: Path) -> None:
    told = Told()
    sync = opened(told)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, bytes(1 << 20), 0)
    sync.start(descriptor)
    sync.close()
    assert told.all == [], "nobody is told once it is closed"
    os.close(descriptor)


def entries(index: int, size: int = 10) -> list[Entries]:
    return [Entries(1, index, [(1, bytes(size))])]


@pytest.mark.parametrize("size", [10, INLINE_BYTES_MAX + 1])
async def test_the_log_is_written_and_found_again(tmp_path: Path, size: int) -> None:
    """Small batches in the loop, large ones and new segments in the thread, in one order."""
    wal, _ = Wal.open(tmp_path / "wal", IDENTITY, segment_bytes_max=1 << 20)
    told = Told()
    writer = WalWriter(wal, told, told, in_kernel=True)
    for index in range(1, 41):
        writer.submit(entries(index, size if index % 3 == 0 else 10))
        if index % 5 == 0:
            await told.wait_for(len(told.all) + 1)
    await writer.close()
    assert told.all[-1] == 40
    numbers = [number for number in told.all if isinstance(number, int)]
    assert numbers == sorted(set(numbers))
    wal.close()
    wal, groups = Wal.open(tmp_path / "wal", IDENTITY)
    assert len(groups[1].entries) == 40
    wal.close()


class _Failing:
    """A kernel that answers as it is told to."""

    def __init__(self, done: object, refusal: int, answer: int) -> None:
        self._done, self._refusal, self._answer = done, refusal, answer

    def start(self, _descriptor: int) -> None:
        if self._refusal:
            raise OSError(self._refusal, os.strerror(self._refusal))
        asyncio.get_running_loop().call_soon(self._done, self._answer)  # type: ignore[arg-type]

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize(("refusal", "answer"), [(0, errno.EIO), (errno.EAGAIN, 0)])
async def test_a_failed_sync_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int, answer: int
) -> None:
    class Kernel:
        @staticmethod
        def open(done: object) -> _Failing:
            return _Failing(done, refusal, answer)

    monkeypatch.setattr(wal_writer, "KernelSync", Kernel)
    wal, _ = Wal.open(tmp_path / "wal", IDENTITY)
    told = Told()
    writer = WalWriter(wal, told, told, in_kernel=True)
    while wal.has_chores:
        wal.tidy()
    writer.submit(entries(1))
    await told.wait_for(1)
    (failure,) = told.all
    assert isinstance(failure, StorageError)
    assert "syncing" in str(failure)
    assert writer.failure is failure
    with pytest.raises(StorageError, match="takes nothing more"):
        writer.submit(entries(2))
    with pytest.raises(StorageError, match="takes nothing more"):
        wal.write(entries(2))
    await writer.close()
    wal.close()
    assert told.all == [failure], "told once, and nothing after it"
