"""A disk of which one call fails, whichever it is: the first, the hundredth, the last."""

import os
from collections.abc import Callable
from pathlib import Path

from noctule.adapters.files import LOCK_NAME, disk_errors
from noctule.verify.sim.memory_disk import MemoryDisk, Operation


class FailingDisk(MemoryDisk):
    """Counts the calls of all kinds and fails the one numbered `fails_at` with `reason`, an errno; 0 fails none.

    It works again afterwards, so that a second try would seem to succeed. Half of a failed write has arrived, as when a
    disk fills up; what a failed sync was to make durable never will be, though it can be read (USENIX ATC '20).
    """

    def __init__(self, fails_at: int = 0, reason: int = 0) -> None:
        super().__init__()
        self.calls = 0
        self.failed_call = ""
        """The name of the call that failed; empty before."""
        self.failed_path = Path()
        self._fails_at = fails_at
        self._reason = reason

    def make_directory(self, directory: Path) -> None:
        self._count("make_directory", directory)
        super().make_directory(directory)

    def lock_directory(self, directory: Path) -> Callable[[], None]:
        with disk_errors("locking", directory / LOCK_NAME):  # the only call that says so itself
            self._count("lock_directory", directory)
        return super().lock_directory(directory)

    def names(self, directory: Path) -> list[str]:
        self._count("names", directory)
        return super().names(directory)

    def read(self, path: Path) -> bytes:
        self._count("read", path)
        return super().read(path)

    def open(self, path: Path, *, create: bool = False) -> int:
        self._count("create" if create else "open", path)
        return super().open(path, create=create)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        try:
            self._count("write", self._path(descriptor))
        except OSError:
            super().write(descriptor, data[: len(data) // 2], offset)
            raise
        super().write(descriptor, data, offset)

    def sync_data(self, descriptor: int) -> None:
        self._count_sync("sync_data", descriptor)
        super().sync_data(descriptor)

    def sync(self, descriptor: int) -> None:
        self._count_sync("sync", descriptor)
        super().sync(descriptor)

    def close(self, descriptor: int) -> None:
        self._count("close", self._path(descriptor))
        super().close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._count("rename", source)
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._count("remove", path)
        super().remove(path)

    def sync_directory(self, directory: Path) -> None:
        self._count("sync_directory", directory)
        super().sync_directory(directory)

    def _path(self, descriptor: int) -> Path:
        """Where the file is, or was: a file in use may have lost its name."""
        return next((path for path, inode in self.paths.items() if inode == descriptor), Path())

    def _count_sync(self, call: str, descriptor: int) -> None:
        try:
            self._count(call, self._path(descriptor))
        except OSError:
            self.trace.append(Operation("lost", descriptor))
            raise

    def _count(self, call: str, path: Path) -> None:
        self.calls += 1
        if self.calls == self._fails_at:
            self.failed_call, self.failed_path = call, path
            raise OSError(self._reason, os.strerror(self._reason))
