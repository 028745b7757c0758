"""Whom a node knew when it last looked at the roster, kept in its data folder: where to begin after a restart.

*meta* knows better, but to hear it a node must find another one first.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from noctule.adapters.files import FileSystem, load_json, write_json_atomically
from noctule.base.addresses import split_address
from noctule.base.errors import StorageError
from noctule.core.roster.members import Member

ROSTER_FILE = "roster.json"


class AddressBook(Struct, frozen=True):
    """What `roster.json` holds."""

    cluster_id: str = ""
    members: tuple[Member, ...] = ()
    """Those present, in the order of their ids."""

    @classmethod
    def of(cls, cluster_id: str, members: Iterable[Member]) -> "AddressBook":
        """A book of these."""
        return cls(cluster_id, tuple(sorted(members, key=lambda member: member.id)))


def load_address_book(data_dir: Path, files: FileSystem | None = None) -> AddressBook:
    """The book of this folder, an empty one when there is none. Raises `StorageError` when it cannot be read."""
    path = data_dir / ROSTER_FILE
    stored = load_json(path, files)
    try:
        return AddressBook() if stored is None else msgspec.convert(stored, AddressBook)
    except msgspec.ValidationError as error:
        raise StorageError(f"{path} cannot be used ({error}); restore it from a copy, or remove it") from error


def save_address_book(data_dir: Path, book: AddressBook, files: FileSystem | None = None) -> None:
    """Replace it, durably. Raises `StorageError`."""
    write_json_atomically(data_dir / ROSTER_FILE, msgspec.to_builtins(book), files)


def addresses_of(members: Iterable[Member], first: Mapping[int, str], own: int) -> dict[int, tuple[str, int]]:
    """Where to dial every other node: as the settings say (`first`), else as the roster does."""
    named = {member.id: first.get(member.id, member.peer) for member in members}
    return {node: split_address(address) for node, address in named.items() if node != own and address}
