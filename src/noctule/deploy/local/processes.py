"""One child process: started, heard, told to stop; and its log file.

Nothing here knows what the process is for. `Child` in child.py starts it again when it ends.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from noctule.base.errors import ConfigError, NoctuleError, StorageError, UnavailableError

LOG_BYTES_MAX = 16 * 1024 * 1024
"""A longer log is moved to ``.1``, over the one that was there: each process has at most twice this on disk."""

LINE_BYTES_MAX = 64 * 1024
"""A longer line on stdout is taken for several."""

KILLED_S_MAX = 5.0
"""How long the kernel may take to end a process after SIGKILL; only one stuck in a system call takes longer."""

SUPERVISOR_VARIABLE = "NOCTULE_SUPERVISOR_PID"
"""Tells a child whose it is, so that it can see that its supervisor ended before it could ask to be told."""

Notice: TypeAlias = Callable[[str], None]
"""Takes one line for the person who watches."""

_TAIL_BYTES = 64 * 1024
_SERVING_EVENTS = ("node_serving", "instance_serving")
_ERROR_BY_EXIT_CODE: dict[int, type[NoctuleError]] = {error.exit_code: error for error in (ConfigError, StorageError)}


def check_supervisor(environment: Mapping[str, str]) -> None:
    """For a child: raise `ConfigError` when the process that started it is no longer its parent."""
    expected = environment.get(SUPERVISOR_VARIABLE)
    if expected is not None and expected != str(os.getppid()):
        raise ConfigError(f"the supervisor that started this process (pid {expected}) has ended")


class LogFile:
    """The log of one process over all its lives, bounded by `LOG_BYTES_MAX` and as much again in ``.1``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = 0

    def open_for_child(self) -> int:
        """A descriptor for the stderr of a process, opened to append. What comes from now on is this life's."""
        self.rotate()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._start = os.fstat(descriptor).st_size
        return descriptor

    def append(self, line: bytes) -> None:
        """Add a line. A full disk loses it: a log must not stop what it tells of."""
        with contextlib.suppress(OSError), self.path.open("ab") as file:
            file.write(line + b"\n")

    def rotate(self, bytes_max: int = LOG_BYTES_MAX) -> None:
        """Empty a log that is over its bound, keeping its content in ``.1``.

        The process goes on writing into the same file, so the content is copied and the file cut; lines that are
        written between the two are lost. Costs a copy of `bytes_max` once in so many bytes.
        """
        with contextlib.suppress(OSError):
            size = self.path.stat().st_size
            if size <= bytes_max:
                return
            with self.path.open("r+b") as file, self.path.with_name(self.path.name + ".1").open("wb") as kept:
                while os.sendfile(kept.fileno(), file.fileno(), None, size):
                    pass
                file.truncate(0)
            self._start = 0

    def last_error(self) -> str:
        """What this life of the process last said went wrong, in one line; its last line when it named no error."""
        try:
            with self.path.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._start, end - _TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"its log cannot be read: {error.strerror}"
        said = [line.strip() for line in lines if line.strip()]
        for line in reversed(said):
            if line.startswith("error: "):
                return line.removeprefix("error: ")
            if line.startswith("{") and (words := _logged_error(line)):
                return words
        return said[-1] if said else "it said nothing"


class Process:
    """A process from its start to its end; belongs to the running event loop.

    It reads nothing, logs to `log` by its stderr, and says on stdout in one JSON line that it serves; whatever else it
    prints there goes to the log too. It is in a process group of its own, so that Ctrl-C reaches the supervisor alone,
    which then stops everything in order.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: LogFile) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self.name = name
        self.log = log
        self.serving: asyncio.Future[dict[str, Any]] = loop.create_future()
        """Done with the line in which it said that it serves."""
        self.ended: asyncio.Future[int] = loop.create_future()
        """Done with its exit code, as subprocess gives it: -9 when it was killed by signal 9."""
        self.started_at = loop.time()
        self.serving_since: float | None = None
        try:
            self._popen = _spawn(command, {**os.environ, **environment, SUPERVISOR_VARIABLE: str(os.getpid())}, log)
            # A pidfd is readable once its process has ended (pidfd_open(2)): no other child's end is mistaken for it.
            self._pidfd = _pidfd_of(self._popen)
        except OSError as error:
            raise StorageError(f"{name}: cannot start {command[0]}: {error.strerror or error}") from error
        assert self._popen.stdout is not None
        self._stdout = self._popen.stdout.fileno()
        self._partial = b""
        os.set_blocking(self._stdout, False)
        loop.add_reader(self._stdout, self._read_stdout)
        loop.add_reader(self._pidfd, self._note_end)

    @property
    def pid(self) -> int:
        """Its process id, also after its end."""
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended, as far as the event loop knows."""
        return not self.ended.done()

    async def wait_serving(self, timeout_s: float) -> dict[str, Any]:
        """The line in which it says that it serves.

        Raises the error that its exit code stands for, with its own last words, when it ends before; `UnavailableError`
        when it is silent for `timeout_s`.
        """
        either: list[asyncio.Future[Any]] = [self.serving, self.ended]
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self.serving.done():
            return self.serving.result()
        if self.ended.done():
            raise self.failure()
        raise UnavailableError(f"{self.name} did not serve within {timeout_s:g} s; its log: {self.log.path}")

    def failure(self) -> NoctuleError:
        """Why it ended, for one line on a screen."""
        code = self.ended.result()
        words = self.log.last_error() if code > 0 else f"was ended by signal {-code}" if code else "ended by itself"
        kind = _ERROR_BY_EXIT_CODE.get(code, UnavailableError)
        return kind(f"{self.name}: {words} (its log: {self.log.path})")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens when it has ended."""
        # Popen looks whether it has ended first, so the signal cannot reach another process of the same pid.
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    async def stop(self, timeout_s: float) -> None:
        """SIGTERM, and SIGKILL when it has not ended after `timeout_s`; it has ended on return."""
        if self.is_alive:
            self.send(signal.SIGTERM)
            await asyncio.wait({self.ended}, timeout=timeout_s)
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL; it has ended on return."""
        if self.is_alive:
            self.send(signal.SIGKILL)
            await asyncio.wait({self.ended}, timeout=KILLED_S_MAX)

    def _read_stdout(self) -> None:
        try:
            data = os.read(self._stdout, LINE_BYTES_MAX)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._stdout)
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > LINE_BYTES_MAX:
            lines, self._partial = [*lines, self._partial], b""
        for line in lines:
            self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        facts = _decode(line)
        if facts.get("event") in _SERVING_EVENTS and not self.serving.done():
            self.serving_since = self._loop.time()
            self.serving.set_result(facts)
        else:
            self.log.append(line)

    def _note_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._read_stdout()
        if self._partial:
            self._take_line(self._partial)
        self._loop.remove_reader(self._stdout)
        assert self._popen.stdout is not None
        self._popen.stdout.close()
        self.ended.set_result(self._popen.wait())


def _spawn(command: Sequence[str], environment: Mapping[str, str], log: LogFile) -> "subprocess.Popen[bytes]":
    stderr = log.open_for_child()
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            process_group=0,
        )
    finally:
        os.close(stderr)


def _pidfd_of(popen: "subprocess.Popen[bytes]") -> int:
    try:
        return os.pidfd_open(popen.pid)
    except OSError:
        # Nobody would notice its end, so it must not live.
        popen.kill()
        popen.communicate()
        raise


def _decode(line: bytes | str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def _logged_error(line: str) -> str:
    """What a line of a JSON log says went wrong; empty when it is no error."""
    facts = _decode(line)
    if facts.get("level") not in ("error", "critical"):
        return ""
    exception = str(facts.get("exception", "")).strip().splitlines()
    return f"{facts.get('event', 'error')}: {exception[-1]}" if exception else str(facts.get("event", ""))
