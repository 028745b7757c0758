"""The definitions that a node keeps in its data folder: one file for each service with its checks, one for each check.

A file is written whole or not at all. One that cannot be read is told of in the log and left where it is; the others
are taken all the same, for one torn file must not take every service of a machine out of the registry.
"""

import contextlib
import logging
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from noctule.adapters.files import FileSystem, disk_errors, load_json, write_json_atomically
from noctule.base.errors import RequestError, StorageError
from noctule.core.registry.definitions import CheckDefinition, ServiceDefinition

log = logging.getLogger("noctule.agent")

FOLDER = "agent"
"""In the data folder."""
NODE_FILE = "node"
"""The name of the file of a `NodeRecord`; the others' follow from ids."""


class ServiceRecord(Struct, frozen=True):
    """A service as it is kept."""

    service: ServiceDefinition
    """With every check of it."""
    maintenance: str = ""
    """Why somebody works on it; empty while nobody does."""


class CheckRecord(Struct, frozen=True):
    """A check of the node."""

    check: CheckDefinition


class NodeRecord(Struct, frozen=True):
    """What else is kept."""

    maintenance: str = ""


Record = ServiceRecord | CheckRecord | NodeRecord
R = TypeVar("R", ServiceRecord, CheckRecord, NodeRecord)


class Records:
    """The files of one node. The methods wait for the disk: call them from a thread, one at a time."""

    def __init__(self, data_dir: Path, files: FileSystem | None = None) -> None:
        self._folder = data_dir / FOLDER
        self._files = files or FileSystem()

    def load(self) -> tuple[list[ServiceRecord], list[CheckRecord], NodeRecord]:
        """What is there and can be read. Raises `StorageError` when the folder itself cannot be."""
        try:
            with disk_errors("reading", self._folder):
                names = sorted(self._files.names(self._folder))
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return [], [], NodeRecord()
            raise
        services = self._read_all(names, "service-", ServiceRecord)
        checks = self._read_all(names, "check-", CheckRecord)
        return services, checks, next(iter(self._read_all(names, NODE_FILE, NodeRecord)), NodeRecord())

    def write(self, records: Mapping[str, Record | None]) -> dict[str, StorageError]:
        """Make each record durable under its name, or remove that (None); returns which ones failed, and why.

        All of one call share the sync of the folder, which is a third of what a record of its own would cost.
        """
        failures = {}
        try:
            with disk_errors("making", self._folder):
                self._files.make_directory(self._folder)
            for name, record in records.items():
                try:
                    self._write(self._folder / f"{name}.json", record)
                except StorageError as error:
                    failures[name] = error
            with disk_errors("syncing", self._folder):
                self._files.sync_directory(self._folder)
        except StorageError as error:
            return dict.fromkeys(records, error)
        return failures

    def _write(self, path: Path, record: Record | None) -> None:
        if record is not None:
            write_json_atomically(path, record, self._files, syncs_directory=False)
            return
        with disk_errors("removing", path), contextlib.suppress(FileNotFoundError):
            self._files.remove(path)

    def _read_all(self, names: list[str], prefix: str, kind: type[R]) -> list[R]:
        return [record for name in names if (record := self._read(name, prefix, kind)) is not None]

    def _read(self, name: str, prefix: str, kind: type[R]) -> R | None:
        if not name.startswith(prefix) or not name.endswith(".json"):
            return None
        path = self._folder / name
        try:
            record = msgspec.convert(load_json(path, self._files), kind)
            for definition in definitions_in(record):
                definition.validate()
        except (msgspec.ValidationError, RequestError, StorageError) as error:
            log.error("agent_record_unreadable", extra={"fields": {"file": str(path), "reason": str(error)}})
            return None
        return record


def definitions_in(record: Record) -> Iterable[ServiceDefinition | CheckDefinition]:
    """What stands in a record."""
    match record:
        case ServiceRecord(service):
            return (service,)
        case CheckRecord(check):
            return (check,)
        case NodeRecord():
            return ()


def service_file(id_: str) -> str:
    """The name of the file of a service, whatever characters its id has."""
    return f"service-{blake2b(id_.encode(), digest_size=16).hexdigest()}"


def check_file(id_: str) -> str:
    """The same of a check of the node."""
    return f"check-{blake2b(id_.encode(), digest_size=16).hexdigest()}"
