"""An agent over a real registry without Raft behind it, and probes that say what the test wants."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

from noctule.adapters.files import FileSystem
from noctule.adapters.system_clock import SystemClock
from noctule.core.registry.definitions import CheckDefinition
from noctule.core.registry.objects import CheckStatus
from noctule.node.agent.agent import LocalAgent
from tests.unit.node.fake_registry import NODE, FakeRegistry


class FakeProbes:
    """Answers every attempt with `result`, once nothing holds it."""

    def __init__(self) -> None:
        self.result = (CheckStatus.PASSING, "fine")
        self.running = self.running_max = self.attempts = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def attempt(self, check: CheckDefinition) -> tuple[CheckStatus, str]:
        self.attempts += 1
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            await self.go_on.wait()
            return self.result
        finally:
            self.running -= 1

    async def close(self) -> None:
        pass


class World:
    """One registry, and one life after another of the agent of node 1; `close` it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.door = FakeRegistry(NODE)
        self.probes = FakeProbes()
        self.agent: LocalAgent

    async def start(self, files: FileSystem | None = None, output_after_s: float = 300.0) -> LocalAgent:
        self.agent = LocalAgent(
            1,
            self.folder,
            self.door,
            self.door.watch,
            SystemClock(),
            Random(7),
            probes=self.probes,
            output_after_s=output_after_s,
            files=files,
        )
        await self.agent.start()
        return self.agent

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.002)

    def status(self, check: str) -> CheckStatus | None:
        """As the registry has it."""
        known = self.door.view.checks.get((NODE, check))
        return known.status if known is not None else None
