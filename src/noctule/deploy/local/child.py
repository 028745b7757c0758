"""One program of the cluster: whatever process runs it now, and another when that one ends."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noctule.base.errors import RETIRED, NoctuleError, StorageError
from noctule.deploy.local.plan import ProcessPlan
from noctule.deploy.local.processes import LogFile, Notice, Process
from noctule.deploy.local.restarts import DELAY_S_MAX, RestartPolicy

START_TIMEOUT_S = 30.0
"""How long a process may take until it serves."""

log = logging.getLogger("noctule.up")


class Child:
    """A program that is to run. `start`, then `wait_serving`, then `keep_running` in a task; at last `stop`."""

    def __init__(self, plan: ProcessPlan, log_dir: Path, notice: Notice) -> None:
        self.plan = plan
        self.log = LogFile(log_dir / f"{plan.name}.log")
        self._process: Process | None = None
        self._policy = RestartPolicy()
        self._notice = notice

    @property
    def pid(self) -> int:
        """Of its process, or of the last one; 0 before the first."""
        return self._process.pid if self._process else 0

    @property
    def facts(self) -> dict[str, Any]:
        """What its process said when it served."""
        return self._running().serving.result()

    @property
    def is_serving(self) -> bool:
        """Whether its process is there and has said that it serves."""
        return self._process is not None and self._process.is_alive and self._process.serving.done()

    def start(self) -> None:
        """Start its process; returns at once."""
        self._process = Process(self.plan.name, self.plan.command, self.plan.environment, self.log)

    async def wait_serving(self) -> None:
        """Return once it serves; raises as `Process.wait_serving`."""
        await self._running().wait_serving(START_TIMEOUT_S)

    async def raise_at_end(self) -> None:
        """Raise the error its process ended with, once it has ended; never returns."""
        process = self._running()
        await asyncio.wait({process.ended})
        raise process.failure()

    async def keep_running(self, *, on_end: Callable[[], None], on_serving: Callable[[], None]) -> None:
        """Start it again whenever it ends, until cancelled, or until it ends for good (`RETIRED`).

        It must have served by now.

        `on_end` is called at once when a process that served has ended, `on_serving` when its successor serves.
        """
        was_serving = True
        while True:
            process = self._running()
            # Not awaited itself: cancelling this task must not cancel the future, which `stop` waits for too.
            await asyncio.wait({process.ended})
            if was_serving:
                on_end()
            if process.ended.result() == RETIRED:
                log.info("child_retired", extra={"child": self.plan.name})
                return
            was_serving = False
            await self._start_again(self._delay_s(process))
            try:
                await self.wait_serving()
            except NoctuleError as error:
                log.warning("child_not_serving", extra={"child": self.plan.name, "reason": str(error)})
                await self._running().kill()
            else:
                log.info("child_restarted", extra={"child": self.plan.name, "pid": self.pid})
                self._notice(f"{self.plan.name} serves again (pid {self.pid})")
                on_serving()
                was_serving = True

    async def _start_again(self, delay_s: float) -> None:
        """Start it after the delay, as often as it takes: a machine that is out of memory may have some later."""
        while True:
            await asyncio.sleep(delay_s)
            try:
                self.start()
            except StorageError as error:
                log.error("child_not_started", extra={"child": self.plan.name, "reason": str(error)})
                delay_s = DELAY_S_MAX
            else:
                return

    def rotate_log(self) -> None:
        """Keep its log within its bound."""
        self.log.rotate()

    async def stop(self, timeout_s: float) -> None:
        """SIGTERM, after `timeout_s` SIGKILL; nothing runs on return."""
        if self._process is not None:
            await self._process.stop(timeout_s)

    async def kill(self) -> None:
        """SIGKILL; nothing runs on return."""
        if self._process is not None:
            await self._process.kill()

    def _running(self) -> Process:
        assert self._process is not None, "start comes first"
        return self._process

    def _delay_s(self, process: Process) -> float:
        """Count this end, tell of it, and give the wait before the next start."""
        now = asyncio.get_running_loop().time()
        served_s = now - process.serving_since if process.serving_since is not None else 0.0
        was_broken = self._policy.is_broken
        delay_s = self._policy.ended(alive_s=now - process.started_at, served_s=served_s)
        reason = str(process.failure())
        facts = {"child": self.plan.name, "reason": reason, "delay_s": delay_s, "crashes": self._policy.crashes}
        if not self._policy.is_broken:
            log.warning("child_ended", extra=facts)
            self._notice(f"{reason}; starting it again in {delay_s:g} s")
        elif not was_broken:
            log.error("child_down", extra=facts)
            self._notice(
                f"{reason}; it crashed {self._policy.crashes} times in a row and stays down, "
                f"tried again every {DELAY_S_MAX:g} s"
            )
        return delay_s
