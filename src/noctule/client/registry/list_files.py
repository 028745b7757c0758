"""The last good list of each service on disk, for a process that starts while the registry is away.

A cache and no more: what cannot be read or written is told once and done without. Files are replaced whole, so a crash
leaves the old list or the new one; they hold addresses and no secrets.
"""

import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from noctule.adapters.files import write_json_atomically
from noctule.base.errors import NoctuleError, StorageError
from noctule.client.registry.endpoints import INSTANCES_MAX, Endpoint

VERSION = 1
"""Of the format; a file of another version is as good as none."""

FILE_BYTES_MAX = 1024 * 1024
"""A larger file is not ours."""

AGE_S_MAX = 24 * 3600
"""An older list is not used: by then its addresses may be somebody else's."""

log = logging.getLogger("noctule.registry.client")


class SavedList(Struct, frozen=True):
    """One file."""

    version: int
    service: str
    tag: str
    saved_ms: int
    """When the registry said so, in unix ms of this machine's clock."""
    index: int
    endpoints: list[Endpoint]


class ListFiles:
    """The files of one directory, which is made when it is missing; several processes may share it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.write_failures = 0
        """Since the beginning."""

    def load(self, service: str, tag: str, wall_ms: int) -> SavedList | None:
        """The list as it was saved, or None when there is none that can be used."""
        path = self._path(service, tag)
        try:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("list_unreadable", extra={"file": str(path), "reason": str(error.strerror)})
            return None
        reason = ""
        try:
            saved = msgspec.json.decode(data, type=SavedList)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            saved, reason = None, str(error)
        if saved is not None:
            reason = _reason_against(saved, service, tag, wall_ms)
        if reason:
            log.warning("list_unreadable", extra={"file": str(path), "reason": reason})
            return None
        return saved

    def save(self, service: str, tag: str, index: int, endpoints: Sequence[Endpoint], wall_ms: int) -> None:
        """Replace the file, durably. Blocks on the disk, so call it from a thread; a failure is told and counted."""
        path = self._path(service, tag)
        saved = SavedList(VERSION, service, tag, wall_ms, index, list(endpoints[:INSTANCES_MAX]))
        try:
            self._make_directory()
            write_json_atomically(path, saved)
        except NoctuleError as error:
            self.write_failures += 1
            if self.write_failures == 1:
                log.warning("list_unwritable", extra={"file": str(path), "reason": str(error)})

    def _make_directory(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"making {self._directory} failed: {error.strerror or error}") from error

    def _path(self, service: str, tag: str) -> Path:
        """A name that no service can lead out of the directory, and that people can still read."""
        digest = hashlib.sha256(f"{service}\0{tag}".encode()).hexdigest()[:16]
        return self._directory / f"{re.sub(r'[^A-Za-z0-9-]', '_', service)[:64]}-{digest}.json"


def _reason_against(saved: SavedList, service: str, tag: str, wall_ms: int) -> str:
    if saved.version != VERSION:
        return f"it is of version {saved.version}, and this is {VERSION}"
    if (saved.service, saved.tag) != (service, tag):
        return f"it is about {saved.service!r} with tag {saved.tag!r}"
    if wall_ms - saved.saved_ms > AGE_S_MAX * 1000:
        return f"it is older than {AGE_S_MAX // 3600} hours"
    if len(saved.endpoints) > INSTANCES_MAX or not all(0 < each.port < 65_536 for each in saved.endpoints):
        return "it holds what no registry says"
    return ""
