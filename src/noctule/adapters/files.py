"""Files made durable: the few system calls that the log and the snapshots stand on, and one data directory's lock.

`FileSystem` is the seam: the tests put a disk there that tears, fills up and fails. Everything raises plain `OSError`;
the callers turn it into `StorageError` with `disk_errors`, so a person reads which file and why.
"""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from noctule.base.errors import ConfigError, StorageError

LOCK_NAME = "LOCK"
"""The file that a running node holds locked in each of its directories."""

TEMPORARY_SUFFIX = ".tmp"
"""What a file is called by until all of it is durable; such files are leftovers after a crash."""


class FileSystem:
    """The system calls themselves. Stateless; safe from any thread."""

    def make_directory(self, directory: Path) -> None:
        """Create it and its missing parents, each durable in its own parent. Existing ones are left alone."""
        missing = []
        existing = directory
        while not existing.exists():
            missing.append(existing)
            existing = existing.parent
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            fsync_directory(path.parent)
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))

    def lock_directory(self, directory: Path) -> Callable[[], None]:
        """See `lock_directory`; returns the call that gives the lock back."""
        return lock_directory(directory).release

    def names(self, directory: Path) -> list[str]:
        """The names of all files in it, in no order."""
        return os.listdir(directory)

    def read(self, path: Path) -> bytes:
        """The whole file."""
        return path.read_bytes()

    def size(self, descriptor: int) -> int:
        """The bytes of an open file."""
        return os.fstat(descriptor).st_size

    def read_at(self, descriptor: int, size: int, offset: int) -> bytes:
        """So many bytes of an open file from `offset` on; fewer at its end."""
        data = os.pread(descriptor, size, offset)
        while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
            data += more
        return data

    def open(self, path: Path, *, create: bool = False) -> int:
        """A descriptor for `write` and `read_at`; with `create` the file is made, or emptied if it is there."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if create else 0)
        return os.open(path, flags, 0o600)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """All of `data` at `offset`; the system may take it in pieces. Durable only after a sync."""
        written = os.pwrite(descriptor, data, offset)
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], offset + written)

    def sync_data(self, descriptor: int) -> None:
        """fdatasync: the bytes are on the disk, and the size if it changed. Never to be called again once it failed."""
        os.fdatasync(descriptor)

    def sync(self, descriptor: int) -> None:
        """fsync: as `sync_data`, and all that the system knows of the file."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Give the descriptor back; syncs nothing."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Atomic, over an existing target too; durable only after `sync_directory`."""
        source.rename(target)

    def remove(self, path: Path) -> None:
        """Take the name away; durable only after `sync_directory`."""
        path.unlink()

    def sync_directory(self, directory: Path) -> None:
        """See `fsync_directory`."""
        fsync_directory(directory)


def fsync_directory(directory: Path) -> None:
    """Make the names in `directory` durable: a file created, renamed or removed in it stays so after a power cut.

    A synced file whose name is not synced may be gone after a crash (etcd-io/etcd#6368).
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class disk_errors:  # noqa: N801, it is used like a function
    """Turn an `OSError` of the block into a `StorageError` that says what was done to which file, and the reason.

    A class, for a context manager made of a generator costs a log 2 µs with each batch.
    """

    __slots__ = ("_doing", "_path")

    def __init__(self, doing: str, path: Path) -> None:
        self._doing = doing
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError):
            told = f"{self._doing} {self._path} failed: {error.strerror or error} (errno {error.errno})"
            raise StorageError(told) from error


class DirectoryLock:
    """One process' hold on one directory; ends with `release` or with the process, however it dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let another process in. Harmless the second time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def lock_directory(directory: Path) -> DirectoryLock:
    """Make sure that nobody else writes in `directory`, by an flock(2) on its LOCK file, which holds our pid.

    The file stays when the lock goes: removing it would let two processes lock two files of one name. Raises
    `ConfigError` naming the process that holds it.
    """
    path = directory / LOCK_NAME
    with disk_errors("opening", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise ConfigError(
            f"{directory} is in use by the process with pid {holder}: stop it, or give this node another directory"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise StorageError(f"locking {path} failed: {error.strerror} (errno {error.errno})") from error
    return DirectoryLock(descriptor)


def load_json(path: Path, files: FileSystem | None = None) -> object:
    """What `write_json_atomically` left there; None when there is no file. Raises `StorageError` if it is not JSON."""
    files = files or FileSystem()
    try:
        with disk_errors("reading", path):
            return msgspec.json.decode(files.read(path))
    except msgspec.DecodeError as error:
        raise StorageError(f"{path} is not JSON: {error}; restore it from a copy, or remove it") from error
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def write_json_atomically(
    path: Path, value: object, files: FileSystem | None = None, *, syncs_directory: bool = True
) -> None:
    """Replace the file by `value`, durably: after a crash it holds all of the old value or all of the new one.

    Whoever writes many may sync their directory once afterwards: until then a crash may bring the old value back.
    """
    write_atomically(
        path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n", files, syncs_directory=syncs_directory
    )


def write_atomically(path: Path, data: bytes, files: FileSystem | None = None, *, syncs_directory: bool = True) -> None:
    """The same for bytes."""
    files = files or FileSystem()
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with disk_errors("writing", path):
        descriptor = files.open(temporary, create=True)
        try:
            files.write(descriptor, data, 0)
            files.sync(descriptor)
        finally:
            files.close(descriptor)
        files.rename(temporary, path)
        if syncs_directory:
            files.sync_directory(path.parent)
