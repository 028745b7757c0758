"""An engine's folder: rendered files that are swapped in whole, checked by the real program beforehand."""

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from noctule.adapters.files import disk_errors, lock_directory
from noctule.base.errors import ConfigError
from noctule.gateway.engines.engine import EnginePaths, Files

CHECK_S_MAX = 10.0
"""How long the program may take to say whether a config is one."""

SOCKET_PATH_BYTES_MAX = 88
"""The system allows 107, HAProxy 97, and configs are tried in a folder below."""

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
"""Debian keeps both programs where only root looks."""

Render = Callable[[EnginePaths], Files]
"""The files for a folder: rendered twice, once where they are tried and once where they are used."""


def find_program(name: str) -> str:
    """The path of a program; `ConfigError` when it is not installed."""
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        raise ConfigError(f"{name} is not installed (Debian: apt install {name})")
    return found


class EngineFolder:
    """One folder, for one driver at a time."""

    def __init__(self, path: Path, access_log: Path | None = None) -> None:
        self.path = path.absolute()
        self.log = self.path / "engine.log"
        self.access_log = (access_log or self.path / "access.log").absolute()
        self.paths = replace(EnginePaths.within(self.path), access_log=str(self.access_log))
        self._release: Callable[[], None] | None = None

    def open(self) -> None:
        """Make it where it is missing, and keep other drivers out. `ConfigError` when one is in there."""
        if len(self.paths.socket.encode()) > SOCKET_PATH_BYTES_MAX:
            raise ConfigError(f"{self.path} is too long for the sockets in it: choose a shorter folder")
        with disk_errors("making", self.path):
            # nginx's workers may be another user's, and keep long bodies in files there.
            for folder, mode in (
                (self.path, 0o755),
                (self.path / "temporary", 0o755),
                (self.path / "certificates", 0o700),
            ):
                folder.mkdir(parents=True, exist_ok=True, mode=mode)
        self._release = lock_directory(self.path).release

    def close(self) -> None:
        """Let another driver in."""
        if self._release is not None:
            self._release()
            self._release = None

    async def check(
        self, render: Render, secrets: Mapping[str, bytes], command: Callable[[Path], Sequence[str]]
    ) -> None:
        """Raise `ConfigError` with the program's own words when it refuses what is rendered; nothing is changed.

        `command` checks the files of a folder, with exit code 0 when they are good.
        """
        trial = self.path / "trial"
        paths = EnginePaths.within(trial)
        try:
            _write_all(trial, {**_encoded(render(paths)), **secrets})
            await _run_check(command(trial), trial)
        finally:
            shutil.rmtree(trial, ignore_errors=True)

    def write(self, render: Render, secrets: Mapping[str, bytes]) -> None:
        """Put the files in place, each whole or not at all; unchanged ones are left alone. `StorageError`."""
        _write_all(self.path, {**_encoded(render(self.paths)), **secrets})


def _encoded(files: Files) -> dict[str, bytes]:
    return {name: text.encode() for name, text in files.items()}


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    with disk_errors("writing the engine's config in", folder):
        (folder / "temporary").mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if path.exists() and path.read_bytes() == content:
                continue
            new = path.with_name(path.name + ".new")
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
            new.replace(path)


async def _run_check(command: Sequence[str], folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), CHECK_S_MAX)
    except TimeoutError:
        raise ConfigError(f"{command[0]} did not check the config within {CHECK_S_MAX:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        said = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
        complaints = [line for line in said if "[emerg]" in line or "[ALERT]" in line] or said[-1:]
        words = "; ".join(complaints[:3]).replace(f"{folder}/", "")
        raise ConfigError(f"{Path(command[0]).name} refuses the config: {words}")
