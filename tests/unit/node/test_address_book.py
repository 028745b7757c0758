"""Where other nodes are: by the settings, else by the roster, kept over restarts."""

from pathlib import Path

import pytest

from noctule.base.errors import StorageError
from noctule.core.roster.members import Member
from noctule.node.address_book import (
    ROSTER_FILE,
    AddressBook,
    addresses_of,
    load_address_book,
    save_address_book,
)
from noctule.verify.sim.memory_disk import MemoryDisk

FOLDER = Path("/node")
MEMBERS = (Member(1, "a:7601", labels={"rack": "r1"}, weight=2.0), Member(2, "[::1]:7602"), Member(3, ""))


def disk() -> MemoryDisk:
    files = MemoryDisk()
    files.make_directory(FOLDER)
    return files


def test_a_book_comes_back_as_it_was_in_the_order_of_ids() -> None:
    files, book = disk(), AddressBook.of("c1", reversed(MEMBERS))
    assert book.members == MEMBERS
    save_address_book(FOLDER, book, files)
    assert load_address_book(FOLDER, files) == book


def test_a_folder_without_a_book_has_an_empty_one() -> None:
    assert load_address_book(FOLDER, disk()) == AddressBook()


def test_what_is_no_book_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / ROSTER_FILE).write_text('{"members": [{"id": "one"}]}')
    with pytest.raises(StorageError, match="restore it from a copy, or remove it"):
        load_address_book(tmp_path)


def test_settings_go_before_the_roster_and_nobody_dials_itself_or_nowhere() -> None:
    assert addresses_of(MEMBERS, {1: "here:1", 2: "there:2"}, own=1) == {2: ("there", 2)}
    assert addresses_of(MEMBERS, {}, own=4) == {1: ("a", 7601), 2: ("::1", 7602)}
