"""Disks of a test's own, which fill up and get room again; asked for with ``pytest_plugins = ("mounted_disks",)``.

PYTEST_DONT_REWRITE, as tests also import names from here, which pytest would warn about.
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

END_S_MAX = 10.0


class MountedDisk:
    """A tmpfs at `path` that only processes begun with `prefix` see; it outlives them and ends with `close`."""

    def __init__(self, path: Path, options: str, *, working_directory: Path) -> None:
        own_user = [] if os.geteuid() == 0 else ["--map-root-user"]
        # The mount lives as long as its namespace, which is held by a cat that waits for the end of its input.
        script = f"mount -t tmpfs -o {options} none {path} && echo mounted && exec cat"
        self._holder = subprocess.Popen(
            ["unshare", "--mount", *own_user, "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "mounted\n":
            _, reason = self._holder.communicate(timeout=END_S_MAX)
            reason = f"this user may not mount a disk: {reason.strip()}"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        own_user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        enter = ["nsenter", f"--target={self._holder.pid}", "--mount", *own_user, f"--wd={working_directory}"]
        self.prefix = [*enter, "--"]
        """The words before a command that finds the disk there."""
        self._filler = Path(f"/proc/{self._holder.pid}/root") / path.relative_to("/") / "filler"

    def leave_room_for(self, room_bytes: int) -> None:
        """Have somebody else's file take the rest."""
        facts = os.statvfs(self._filler.parent)
        self._filler.write_bytes(bytes(facts.f_bavail * facts.f_frsize - room_bytes))

    def make_room(self) -> None:
        """Remove that file."""
        self._filler.unlink()

    def close(self) -> None:
        """The disk is gone once its last process is."""
        self._holder.communicate(timeout=END_S_MAX)


MountDisk: TypeAlias = Callable[..., MountedDisk]


@pytest.fixture
def mount_disk(cluster_directory: Path) -> Iterator[MountDisk]:
    """``mount_disk(path, options)``: a `MountedDisk` at a new directory, closed after the test."""
    with contextlib.ExitStack() as stack:

        def mount(path: Path, options: str = "size=16m") -> MountedDisk:
            path.mkdir(parents=True)
            disk = MountedDisk(path, options, working_directory=cluster_directory)
            stack.callback(disk.close)
            return disk

        yield mount
