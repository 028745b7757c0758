"""Whose data folder it is, and which log belongs to it: `node.json` says so.

A node of another name does not touch it, and a log that is not the one which the node left is never gone on with: what
the node promised in its lost log is bound to its *directory* id, and a log that begins empty has a new one (ADR 0013).
"""

import logging
import os
import random
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec

from noctule.adapters.files import (
    DirectoryLock,
    FileSystem,
    disk_errors,
    load_json,
    lock_directory,
    write_json_atomically,
)
from noctule.adapters.wal_format import parse_segment_name
from noctule.base.errors import ConfigError, DamagedLogError, StorageError
from noctule.node.config import NodeConfig

log = logging.getLogger("noctule.node")

FORMAT = 3

OWNER_FILE = "node.json"
PEERS_FILE = "peers.json"
"""See peer_folders.py."""
SNAPSHOTS = "snapshots"
"""The folder of snapshots, in the data folder."""

VOTERS_TO_RETURN_MIN = 3
"""With fewer, the others are no majority, and nobody could take a node back that has lost what it promised."""

_IF_LOST = "if that log is lost, empty the data folder and start the node with --rejoin"
_DIRECTORY_BITS = 48
_MARK = re.compile(r"directory-([0-9a-f]{12})-([0-9a-f]{12})")
"""The name of an empty file beside a log's segments: whose log it is, by folder and directory."""


_MEANINGS = {
    "format": "data format",
    "cluster": "cluster",
    "node_id": "node id",
    "partition_count": "number of partitions",
    "voters": "voters",
}


@dataclass(frozen=True)
class _Claim:
    """What must be the same at every start on a folder."""

    format: int
    cluster: str
    node_id: int
    partition_count: int
    voters: list[int]
    """Those of the first settings; none on a node that joined."""


@dataclass(frozen=True)
class Owner(_Claim):
    """What `node.json` holds. All but `directory` and `log_folder` stay the same for as long as the folder is there."""

    folder: int
    """Drawn when the folder was made. Peers remember it, and so notice when another takes its place."""
    directory: int
    """Another one is drawn each time the node has lost what it had promised; 0 if it never did."""
    log_folder: str
    """Where the log of this directory is, from the data folder. Empty until the log is made, and nothing is promised
    before this is durable: so an empty one says that an empty log has lost nothing."""
    agreed: dict[str, str] = field(default_factory=dict)
    """Of a node that joined: the settings that are equal on all nodes, by their keys."""


class DataFolder:
    """A claimed data folder. `check_log` comes before the log is opened, `log_is_made` before it is relied on."""

    def __init__(self, path: Path, log_path: Path, owner: Owner, files: FileSystem, chance: random.Random) -> None:
        self.path = path
        self.log_path = log_path
        self.owner = owner
        self.files = files
        self._chance = chance

    @property
    def directory(self) -> int:
        """The id under which the node votes and acknowledges."""
        return self.owner.directory

    def check_log(self) -> None:
        """Return when the log folder holds what this directory left there; a folder without a log is made its own.

        Raises `DamagedLogError` when the log is gone, or is one of before the node last lost it. Raises `ConfigError`
        for another data folder's log and for a folder other than the one in which the log was; nothing is changed then.
        """
        with disk_errors("reading", self.log_path):
            names = self.files.names(self.log_path)
        own_mark = f"directory-{self.owner.folder:012x}-{self.directory:012x}"
        if has_log(names):
            marks = [match for match in map(_MARK.fullmatch, names) if match is not None]
            if not any(int(mark[1], 16) == self.owner.folder for mark in marks):
                raise ConfigError(
                    f"{self.log_path} holds the log of another data folder than {self.path}: "
                    f"name this one's with --wal-dir; {_IF_LOST}"
                )
            if own_mark not in names:
                raise DamagedLogError.at(str(self.log_path), 0, "the log is of before the node lost it")
        elif not self.owner.log_folder:
            self._mark_log(own_mark, names)
        elif self.owner.log_folder != self._log_folder():
            raise ConfigError(
                f"the log of {self.path} is in {self.path / self.owner.log_folder}, and {self.log_path} holds none: "
                f"name the former with --wal-dir, or move its files; {_IF_LOST}"
            )
        else:
            raise DamagedLogError.at(str(self.log_path), 0, "there is no log, and there was one")

    def log_is_made(self) -> None:
        """Make it durable that from now on this directory may promise something. Raises `StorageError`."""
        self._write(replace(self.owner, log_folder=self._log_folder()))

    def change_directory(self) -> None:
        """Draw another directory, which has promised nothing, and make it durable. Raises `StorageError`."""
        self._write(replace(self.owner, directory=_draw(self._chance), log_folder=""))

    def _write(self, owner: Owner) -> None:
        if owner != self.owner:
            write_json_atomically(self.path / OWNER_FILE, owner, self.files)
            self.owner = owner

    def _log_folder(self) -> str:
        data, log = self.path.absolute(), self.log_path.absolute()
        return os.path.relpath(log, data) if log.is_relative_to(data) else str(log)

    def _mark_log(self, own_mark: str, names: list[str]) -> None:
        with disk_errors("marking", self.log_path):
            if own_mark not in names:
                self.files.close(self.files.open(self.log_path / own_mark, create=True))
            self.files.sync_directory(self.log_path)
            for name in names:
                if _MARK.fullmatch(name) and name != own_mark:
                    self.files.remove(self.log_path / name)


def has_log(names: list[str]) -> bool:
    """Whether there is a segment of a log among these files."""
    return any(parse_segment_name(name) is not None for name in names)


def lock_data_folder(config: NodeConfig) -> DirectoryLock:
    """Make the data folder if it is missing, and keep other processes out of it.

    Raises `ConfigError` when that cannot be, or when it is another node's: who named a wrong folder is to hear that
    first, and not that it is in use.
    """
    _make(config.data_dir, FileSystem())
    _stored_owner(config, FileSystem())
    try:
        return lock_directory(config.data_dir)
    except StorageError as error:
        raise _unusable(config.data_dir, error.__cause__ or error) from error


def claim_data_folder(config: NodeConfig, chance: random.Random, files: FileSystem | None = None) -> DataFolder:
    """Write whose folder it is at the first start; at later ones raise `ConfigError` unless it is this node's.

    The caller has locked it. At a first start nothing that a node leaves may be there, or `ConfigError` is raised, and
    with `config.rejoin` the node has a directory of its own at once; later `config.rejoin` changes nothing. `chance`
    draws the ids.
    """
    files = files or FileSystem()
    _make(config.data_dir, files)
    _make(config.wal_dir, files)
    owner = _stored_owner(config, files)
    if owner is not None:
        if config.rejoin:
            log.info("rejoin_without_effect", extra={"fields": {"data_dir": str(config.data_dir)}})
    else:
        _check_empty(config, files)
        directory = _draw(chance) if config.rejoin else 0
        agreed = {} if config.cluster.voters else config.cluster.agreed()
        claim = asdict(_claim_of(config))
        owner = Owner(**claim, folder=_draw(chance), directory=directory, log_folder="", agreed=agreed)
        write_json_atomically(config.data_dir / OWNER_FILE, owner, files)
    return DataFolder(config.data_dir, config.wal_dir, owner, files, chance)


def _make(directory: Path, files: FileSystem) -> None:
    try:
        files.make_directory(directory)
    except OSError as error:
        raise _unusable(directory, error) from error


def _unusable(directory: Path, error: BaseException) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ConfigError(f"cannot use the data folder {directory}: {reason}; choose another --data-dir")


def _draw(chance: random.Random) -> int:
    return chance.randrange(1, 1 << _DIRECTORY_BITS)


def _check_empty(config: NodeConfig, files: FileSystem) -> None:
    """Nothing of an earlier life is there: without its `node.json` nobody knows what that life has promised."""
    voters = len(config.cluster.voters)
    if config.rejoin and voters < VOTERS_TO_RETURN_MIN:
        raise ConfigError(
            f"--rejoin cannot help in a cluster of {voters}: the other nodes are no majority and could not take "
            "this one back (docs/concepts/divergences.md)"
        )
    remains = [
        path
        for path in (config.data_dir, config.wal_dir, config.data_dir / SNAPSHOTS)
        for path in _remains(path, files)
    ]
    if remains:
        raise ConfigError(
            f"there is no {OWNER_FILE} in {config.data_dir}, and yet there is {remains[0]}: "
            "if the node has lost its data folder, remove what is left of it, and start the node with --rejoin"
        )


def _remains(directory: Path, files: FileSystem) -> list[Path]:
    """What only a node that ran before can have left there."""
    try:
        with disk_errors("reading", directory):
            names = sorted(files.names(directory))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise
    return [directory / name for name in names if name == PEERS_FILE or name.endswith(".snapshot") or has_log([name])]


def _stored_owner(config: NodeConfig, files: FileSystem) -> Owner | None:
    path = config.data_dir / OWNER_FILE
    try:
        stored = load_json(path, files)
    except StorageError as error:
        raise StorageError(f"{error}; without one, empty the data folder and start the node with --rejoin") from error
    if stored is None:
        return None
    try:
        # First only what every format has: an older one is to be told by its number.
        there = msgspec.convert(stored, _Claim)
        for name, here in asdict(_claim_of(config)).items():
            if getattr(there, name) != here:
                raise ConfigError(
                    f"the data folder {config.data_dir} has {_MEANINGS[name]} {getattr(there, name)!r}, not {here!r}: "
                    "start with what it has, or choose another --data-dir"
                )
        return msgspec.convert(stored, Owner)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path} cannot be read ({error}): is this the data folder of a node?") from error


def _claim_of(config: NodeConfig) -> _Claim:
    cluster = config.cluster
    return _Claim(FORMAT, cluster.name, config.node_id, cluster.partition_count, sorted(cluster.voters))
