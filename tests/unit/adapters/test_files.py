"""The real file system and those in memory answer alike; locks, JSON and messages."""

import errno
import os
import random
from pathlib import Path

import pytest

from noctule.adapters.files import (
    FileSystem,
    disk_errors,
    fsync_directory,
    load_json,
    lock_directory,
    write_json_atomically,
)
from noctule.base.errors import ConfigError, StorageError
from noctule.verify.sim.faulty_files import FaultyFiles
from noctule.verify.sim.memory_disk import MemoryDisk

from .failing_disk import FailingDisk

# One suite for all ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=[FileSystem, MemoryDisk, lambda: FaultyFiles(random.Random(1))])
def files(request: pytest.FixtureRequest) -> FileSystem:
    made = request.param()
    assert isinstance(made, FileSystem)
    return made


def test_a_file_is_made_written_renamed_and_removed(files: FileSystem, tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "er"
    files.make_directory(directory)
    files.make_directory(directory)
    descriptor = files.open(directory / "one", create=True)
    files.write(descriptor, b"hello", 0)
    files.write(descriptor, b"J", 0)
    files.write(descriptor, b"!", 7)
    files.sync_data(descriptor)
    files.sync(descriptor)
    files.close(descriptor)
    assert files.read(directory / "one") == b"Jello\0\0!"
    files.rename(directory / "one", directory / "two")
    files.sync_directory(directory)
    assert files.names(directory) == ["two"]
    descriptor = files.open(directory / "two")
    files.write(descriptor, b"C", 0)
    files.close(descriptor)
    assert files.read(directory / "two") == b"Cello\0\0!"
    descriptor = files.open(directory / "two")
    assert files.size(descriptor) == 8
    assert (files.read_at(descriptor, 4, 1), files.read_at(descriptor, 9, 6)) == (b"ello", b"\0!")
    files.close(descriptor)
    files.close(files.open(directory / "two", create=True))
    assert files.read(directory / "two") == b"", "create empties"
    descriptor = files.open(directory / "two")
    files.write(descriptor, b"still here", 0)
    files.remove(directory / "two")
    assert files.names(directory) == []
    files.sync_directory(directory)
    assert files.read_at(descriptor, 5, 0) == b"still", "an open file outlives its name"
    files.close(descriptor)


def test_a_missing_file_is_told(files: FileSystem, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for call in (files.read, files.open, files.remove, lambda path: files.rename(path, tmp_path / "other")):
        with pytest.raises(FileNotFoundError):
            call(missing)


def test_a_rename_replaces_its_target(files: FileSystem, tmp_path: Path) -> None:
    for name, data in (("old", b"old"), ("new", b"new")):
        descriptor = files.open(tmp_path / name, create=True)
        files.write(descriptor, data, 0)
        files.close(descriptor)
    files.rename(tmp_path / "new", tmp_path / "old")
    assert files.names(tmp_path) == ["old"]
    assert files.read(tmp_path / "old") == b"new"


def test_a_lock_keeps_the_next_one_out_until_it_is_given_back(files: FileSystem, tmp_path: Path) -> None:
    release = files.lock_directory(tmp_path)
    with pytest.raises(ConfigError, match="is in use"):
        files.lock_directory(tmp_path)
    release()
    release()
    files.lock_directory(tmp_path)()


# The real one --------------------------------------------------------------------------------------------------------


def test_a_write_taken_in_pieces_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    calls = []

    def three_bytes(descriptor: int, data: bytes, offset: int) -> int:
        calls.append(offset)
        return whole(descriptor, data[:3], offset)

    monkeypatch.setattr(os, "pwrite", three_bytes)
    files = FileSystem()
    descriptor = files.open(tmp_path / "file", create=True)
    files.write(descriptor, b"0123456789", 5)
    files.close(descriptor)
    assert calls == [5, 8, 11, 14]
    assert files.read(tmp_path / "file") == bytes(5) + b"0123456789"


def test_new_directories_are_synced_in_their_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("noctule.adapters.files.fsync_directory", synced.append)
    FileSystem().make_directory(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    lock = lock_directory(tmp_path)
    with pytest.raises(ConfigError, match=rf"{tmp_path} is in use by the process with pid {os.getpid()}: stop it"):
        lock_directory(tmp_path)
    lock.release()
    assert (tmp_path / "LOCK").read_text() == f"{os.getpid()}\n", "the file stays: only the lock goes"


def test_a_lock_in_a_missing_directory_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        lock_directory(tmp_path / "missing")


def test_syncing_a_missing_directory_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fsync_directory(tmp_path / "missing")


def test_disk_errors_name_action_path_and_reason() -> None:
    with (
        pytest.raises(StorageError, match=r"^writing /some/file failed: No space left on device \(errno 28\)$"),
        disk_errors("writing", Path("/some/file")),
    ):
        raise OSError(28, "No space left on device")


# JSON ----------------------------------------------------------------------------------------------------------------


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    assert load_json(path) is None
    write_json_atomically(path, {"node": 1})
    write_json_atomically(path, {"node": 2, "names": ["a"]})
    assert load_json(path) == {"node": 2, "names": ["a"]}
    assert [entry.name for entry in tmp_path.iterdir()] == ["node.json"]


def test_json_that_is_none_is_told_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_text("{ half")
    with pytest.raises(StorageError, match=r"node\.json is not JSON"):
        load_json(path)


def test_json_is_old_or_new_after_every_crash() -> None:
    disk = MemoryDisk()
    path = Path("/data/node.json")
    write_json_atomically(path, {"is": "old"}, disk)
    old = disk.read(path)
    begun = len(disk.trace)
    write_json_atomically(path, {"is": "new", "padding": "x" * 2000}, disk)
    new = disk.read(path)
    left = {image.read(path) for done, image in disk.crashes() if done >= begun}
    assert left == {old, new}


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6])
def test_json_whose_write_fails_is_old_until_it_has_its_name(call: int) -> None:
    path = Path("/data/node.json")
    disk = FailingDisk(6 + call, errno.EIO)
    write_json_atomically(path, 1, disk)
    assert disk.calls == 6
    with pytest.raises(StorageError, match=r"writing /data/node\.json failed: Input/output error \(errno 5\)"):
        write_json_atomically(path, 2, disk)
    assert disk.read(path) == (b"2\n" if disk.failed_call == "sync_directory" else b"1\n")


def test_a_directory_below_a_file_is_refused_as_that(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deep" / "directory"):
        with pytest.raises(NotADirectoryError):
            FileSystem().make_directory(path)
