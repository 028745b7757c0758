"""A peer that has lost its data folder is noticed by those who have met it."""

from pathlib import Path

import pytest

from noctule.base.errors import StorageError
from noctule.core.wire.messages import Hello
from noctule.node.peer_folders import PeerFolders, load_peer_folders
from noctule.verify.sim.memory_disk import MemoryDisk

DATA = Path("/data")


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


def hello(node: int, folder: int, *, directory: int = 0) -> Hello:
    return Hello(1, "bats", "fingerprint", node, 7, folder=folder, directory=directory)


def test_a_peer_comes_again_with_the_folder_it_had(disk: MemoryDisk) -> None:
    folders = PeerFolders(DATA, disk)
    assert [folders.admit(hello(2, 22)), folders.admit(hello(3, 33)), folders.admit(hello(2, 22))] == ["", "", ""]
    assert load_peer_folders(DATA, disk) == {2: 22, 3: 33}


def test_a_peer_with_another_folder_is_kept_out_and_its_own_still_let_in(disk: MemoryDisk) -> None:
    folders = PeerFolders(DATA, disk)
    folders.admit(hello(2, 22))
    for _ in range(2):
        refusal = folders.admit(hello(2, 23))
        assert "node 2 came with another data folder than before" in refusal
        assert "start the node with --rejoin" in refusal
    assert folders.admit(hello(2, 22)) == ""


def test_a_peer_that_says_that_it_lost_its_folder_is_known_by_its_new_one_from_then_on(disk: MemoryDisk) -> None:
    folders = PeerFolders(DATA, disk)
    folders.admit(hello(2, 22))
    assert folders.admit(hello(2, 23, directory=5)) == ""
    assert "another data folder" in folders.admit(hello(2, 22)), "the old disk was found again"
    assert "another data folder" in folders.admit(hello(2, 24)), "lost once more, and not said"
    assert folders.admit(hello(2, 23, directory=5)) == ""


def test_a_peer_that_lost_only_its_log_has_the_folder_it_had(disk: MemoryDisk) -> None:
    folders = PeerFolders(DATA, disk)
    folders.admit(hello(2, 22))
    assert folders.admit(hello(2, 22, directory=5)) == ""


def test_a_peer_of_a_release_that_draws_no_id_is_let_in_and_not_remembered(disk: MemoryDisk) -> None:
    folders = PeerFolders(DATA, disk)
    assert folders.admit(hello(2, 0)) == ""
    assert load_peer_folders(DATA, disk) == {}


def test_whom_it_let_in_is_known_after_a_power_cut(disk: MemoryDisk) -> None:
    """Let in and forgotten, a peer could lose its folder meanwhile and come back unnoticed."""
    PeerFolders(DATA, disk).admit(hello(2, 22))
    assert PeerFolders(DATA, disk.after_power_cut()).admit(hello(2, 23)) != ""


def test_nothing_is_written_while_nothing_changes(disk: MemoryDisk) -> None:
    """A peer whose connection is bad comes again and again."""
    folders = PeerFolders(DATA, disk)
    folders.admit(hello(2, 22))
    done = len(disk.trace)
    folders.admit(hello(2, 22))
    folders.admit(hello(2, 23))
    assert len(disk.trace) == done


def test_whom_it_cannot_remember_it_keeps_out_and_tries_again(disk: MemoryDisk) -> None:
    folders = PeerFolders(DATA, disk)
    disk.failing["sync"] = 28
    assert "the data folder of node 2 cannot be remembered: writing /data/peers.json failed" in folders.admit(
        hello(2, 22)
    )
    disk.failing.clear()
    assert folders.admit(hello(2, 22)) == ""
    assert load_peer_folders(DATA, disk) == {2: 22}


@pytest.mark.parametrize("content", [b"[]", b'{"a": 1}', b"{"])
def test_a_file_that_cannot_be_read_is_named(content: bytes) -> None:
    with pytest.raises(StorageError, match=r"/data/peers\.json .*remove it"):
        PeerFolders(DATA, MemoryDisk.of({DATA / "peers.json": content}))
