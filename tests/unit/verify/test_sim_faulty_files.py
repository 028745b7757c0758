"""What the simulator's disk keeps and loses: nothing that was synced, any part of the rest, names in their order."""

import errno
import random
from pathlib import Path

import pytest

from noctule.verify.sim.faulty_files import FaultyFiles
from noctule.verify.sim.memory_disk import SECTOR_BYTES

DIRECTORY = Path("/data")
FILE = DIRECTORY / "file"
SEEDS = range(60)


def files_with(seed: int, data: bytes) -> tuple[FaultyFiles, int]:
    """A disk on which `FILE` is durable, and its descriptor."""
    files = FaultyFiles(random.Random(seed))
    descriptor = files.open(FILE, create=True)
    files.write(descriptor, data, 0)
    files.sync(descriptor)
    files.sync_directory(DIRECTORY)
    files.settle(DIRECTORY)
    return files, descriptor


def sectors(letters: str) -> bytes:
    return b"".join(letter.encode() * SECTOR_BYTES for letter in letters)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_synced_survives(seed: int) -> None:
    files, _ = files_with(seed, sectors("abc"))
    files.cut_power()
    assert files.files() == {FILE: sectors("abc")}


def test_any_subset_of_unsynced_sectors_survives() -> None:
    left = set()
    for seed in range(400):
        files, descriptor = files_with(seed, sectors("ab"))
        files.write(descriptor, sectors("AB"), 0)
        files.settle(DIRECTORY)
        assert files.read(FILE) == sectors("AB"), "the process sees what it wrote"
        files.cut_power()
        left.add(files.read(FILE))
    assert left == {sectors("ab"), sectors("Ab"), sectors("aB"), sectors("AB")}


def test_a_sector_may_stand_as_after_any_of_the_writes_to_it() -> None:
    left = set()
    for seed in range(400):
        files, descriptor = files_with(seed, sectors("a"))
        files.write(descriptor, b"1" * 100, 0)
        files.write(descriptor, b"2" * 100, 50)
        files.settle(DIRECTORY)
        files.cut_power()
        left.add(files.read(FILE)[:150])
    assert left == {b"a" * 150, b"1" * 100 + b"a" * 50, b"1" * 50 + b"2" * 100}


def test_unsynced_names_are_forgotten_from_some_point_on() -> None:
    left = set()
    for seed in range(400):
        files, _ = files_with(seed, b"old")
        files.rename(FILE, DIRECTORY / "renamed")
        files.close(files.open(DIRECTORY / "new", create=True))
        files.remove(DIRECTORY / "renamed")
        files.settle(DIRECTORY)
        files.cut_power()
        left.add(tuple(sorted(files.names(DIRECTORY))))
    assert left == {("file",), ("renamed",), ("new", "renamed"), ("new",)}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_process_leaves_to_the_system_what_it_wrote(seed: int) -> None:
    files, descriptor = files_with(seed, sectors("a"))
    files.write(descriptor, sectors("A"), 0)
    files.settle(DIRECTORY)
    files.kill()
    assert files.read(FILE) == sectors("A")


def test_a_kill_hits_any_step_of_what_is_under_way() -> None:
    left = set()
    for seed in SEEDS:
        files, descriptor = files_with(seed, sectors("a"))
        files.write(descriptor, sectors("A"), 0)
        files.sync_data(descriptor)
        files.rename(FILE, DIRECTORY / "renamed")
        files.kill()
        left |= set(files.files().items())
    assert left == {(FILE, sectors("a")), (FILE, sectors("A")), (DIRECTORY / "renamed", sectors("A"))}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("again", [False, True])
def test_a_failed_sync_loses_what_was_written_though_the_process_still_sees_it(seed: int, again: bool) -> None:
    """Also when a second sync succeeds: the system thinks that the pages are clean."""
    files, descriptor = files_with(seed, sectors("a"))
    files.write(descriptor, sectors("A"), 0)
    files.failing["sync_data"] = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        files.sync_data(descriptor)
    files.failing.clear()
    if again:
        files.sync_data(descriptor)
    files.settle(DIRECTORY)
    assert files.read(FILE) == sectors("A")
    files.cut_power()
    assert files.read(FILE) == sectors("a")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_failed_sync_does_not_touch_what_an_earlier_one_made_durable(seed: int) -> None:
    files, descriptor = files_with(seed, sectors("aa"))
    files.write(descriptor, sectors("A"), 0)
    files.sync_data(descriptor)
    files.write(descriptor, sectors("A"), SECTOR_BYTES)
    files.failing["sync_data"] = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        files.sync_data(descriptor)
    files.settle(DIRECTORY)
    files.cut_power()
    assert files.read(FILE) == sectors("Aa")


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_written_again_after_a_failed_sync_is_durable(seed: int) -> None:
    """As recovery does with the last frame."""
    files, descriptor = files_with(seed, sectors("a"))
    files.write(descriptor, sectors("A"), 0)
    files.failing["sync_data"] = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        files.sync_data(descriptor)
    files.failing.clear()
    files.write(descriptor, sectors("A"), 0)
    files.sync_data(descriptor)
    files.settle(DIRECTORY)
    files.cut_power()
    assert files.read(FILE) == sectors("A")


def test_a_failing_sync_may_spare_what_stays_within_one_sector() -> None:
    files, descriptor = files_with(1, sectors("aaa"))
    files.failing["sync_data"] = errno.EIO
    files.spares_one_sector = True
    files.write(descriptor, b"A", 0)
    files.sync_data(descriptor)
    files.settle(DIRECTORY)
    files.write(descriptor, b"AA", 2 * SECTOR_BYTES - 1)
    with pytest.raises(OSError, match="Input/output"):
        files.sync_data(descriptor)
    files.settle(DIRECTORY)
    files.cut_power()
    assert files.read(FILE) == b"A" + sectors("aaa")[1:]


def test_a_full_disk_may_take_a_part() -> None:
    left = set()
    for seed in SEEDS:
        files, descriptor = files_with(seed, b"old")
        files.failing["write"] = errno.ENOSPC
        with pytest.raises(OSError, match="No space left"):
            files.write(descriptor, b"new", 0)
        left.add(files.read(FILE))
    assert left == {b"old", b"nld", b"ned", b"new"}


def test_only_what_may_be_lost_is_remembered() -> None:
    files, descriptor = files_with(1, b"")
    for number in range(20_000):
        files.write(descriptor, b"%d" % number, 0)
        files.sync_data(descriptor)
        files.settle(DIRECTORY)
    assert list(files.operations(DIRECTORY)) == []
    files.close(descriptor)
    for number in range(100):
        files.rename(FILE, DIRECTORY / str(number))
        files.close(files.open(FILE, create=True))
        files.remove(DIRECTORY / str(number))
        files.sync_directory(DIRECTORY)
        files.settle(DIRECTORY)
    assert len(files.contents) == 1, "contents without a name are gone"


def test_a_flipped_bit_is_one_bit() -> None:
    files, _ = files_with(1, b"abc")
    files.flip_bit(FILE, 1)
    changed = files.read(FILE)
    assert (changed[0], changed[2]) == (ord("a"), ord("c"))
    assert (changed[1] ^ ord("b")).bit_count() == 1
