"""An engine's process by its own handle, and the one who starts it again when it ends by itself.

An engine outlives whoever started it: if the driver is killed, traffic goes on with the last config, and the next
driver takes the engine over. So nothing here asks the kernel to end it with its parent.
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from noctule.base.errors import NoctuleError, StorageError

LOG_BYTES_MAX = 64 * 1024 * 1024
"""A longer log is moved to ``.1``, over the one that was there: each has at most twice this on disk."""

RESTART_DELAY_S_MIN = 0.05
RESTART_DELAY_S_MAX = 5.0
SETTLED_S = 10.0
"""A process that was alive for so long is started again without delay."""

KILLED_S_MAX = 5.0
"""How long the kernel may take to end a process after SIGKILL."""

_TAIL_BYTES = 16 * 1024

log = logging.getLogger("noctule.gateway")


class EngineProcess:
    """A process that was started here, or was found running; belongs to the running event loop."""

    def __init__(self, pid: int, popen: "subprocess.Popen[bytes] | None" = None) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self.pid = pid
        self.started_at = loop.time()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._popen = popen
        # A pidfd is readable once its process has ended (pidfd_open(2)): no other process is mistaken for it.
        self._pidfd = os.pidfd_open(pid)
        loop.add_reader(self._pidfd, self._note_end)

    @classmethod
    def start(cls, command: Sequence[str], folder: Path, *, stdout: Path, stderr: Path) -> "EngineProcess":
        """Start it in `folder`, in a process group of its own; `StorageError` when that is not possible."""
        try:
            with stdout.open("ab") as out, stderr.open("ab") as err:
                popen = subprocess.Popen(
                    command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, process_group=0
                )
            return cls(popen.pid, popen)
        except OSError as error:
            raise StorageError(f"cannot start {command[0]}: {error.strerror or error}") from error

    @classmethod
    def adopt(cls, pid: int) -> "EngineProcess | None":
        """One that runs already; None when it does not any more."""
        try:
            return cls(pid)
        except ProcessLookupError:
            return None

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended, as far as the event loop knows."""
        return not self.ended.done()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens when it has ended."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def send_to_group(self, number: signal.Signals) -> None:
        """Send a signal to the processes that it started and that outlived it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def wait_end(self, timeout_s: float) -> bool:
        """Whether it has ended, after `timeout_s` at most."""
        await asyncio.wait({self.ended}, timeout=timeout_s)
        return self.ended.done()

    async def stop(self, gently: signal.Signals, timeout_s: float) -> None:
        """The gentle signal, after `timeout_s` SIGKILL; it has ended on return."""
        self.send(gently)
        if not await self.wait_end(timeout_s):
            self.send(signal.SIGKILL)
            await self.wait_end(KILLED_S_MAX)

    def _note_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._popen is not None:
            self._popen.wait()
        self.ended.set_result(None)


class Keeper:
    """Whichever process runs an engine now. `keep` it, and `run` in a task starts another when it ends by itself."""

    def __init__(self, engine: str, start_again: Callable[[], Awaitable[EngineProcess]]) -> None:
        self.process: EngineProcess | None = None
        self.restarts = 0
        self._engine = engine
        self._start_again = start_again
        self._changed = asyncio.Event()
        self._delay_s = RESTART_DELAY_S_MIN

    @property
    def pid(self) -> int:
        """0 while none runs."""
        return self.process.pid if self.process is not None and self.process.is_alive else 0

    def keep(self, process: EngineProcess) -> None:
        """From now on this is the one; the one before may end as it likes."""
        self.process = process
        process.ended.add_done_callback(lambda _: self._changed.set())

    def let_go(self) -> EngineProcess | None:
        """Expect the end of the one that runs, for another will be kept in its place."""
        process, self.process = self.process, None
        return process

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            process = self.process
            if process is None or process.is_alive:
                continue
            await self._restart(process)

    async def _restart(self, process: EngineProcess) -> None:
        lived_s = asyncio.get_running_loop().time() - process.started_at
        if lived_s >= SETTLED_S:
            self._delay_s = RESTART_DELAY_S_MIN
        self.restarts += 1
        log.warning("engine_ended", extra={"engine": self._engine, "pid": process.pid, "delay_s": self._delay_s})
        await asyncio.sleep(self._delay_s)
        self._delay_s = min(2 * self._delay_s, RESTART_DELAY_S_MAX)
        try:
            self.keep(await self._start_again())
        except NoctuleError as error:
            log.error("engine_not_started", extra={"engine": self._engine, "reason": str(error)})
            self._changed.set()
        else:
            log.info("engine_restarted", extra={"engine": self._engine, "pid": self.pid})


def cut_log(path: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Empty a log that is over its bound, keeping its content in ``.1``; lines written meanwhile may be lost.

    Its writer goes on with the same file, opened to append.
    """
    with contextlib.suppress(OSError):
        size = path.stat().st_size
        if size <= bytes_max:
            return
        with path.open("r+b") as file, path.with_name(path.name + ".1").open("wb") as kept:
            while os.sendfile(kept.fileno(), file.fileno(), None, size):
                pass
            file.truncate(0)


def last_words(path: Path, offset: int = 0) -> str:
    """What a log says at its end, from `offset` on, in one line."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(offset, end - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError as error:
        return f"its log cannot be read: {error.strerror}"
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else "it said nothing"
