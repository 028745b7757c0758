"""Waiting for this node's view of the cluster to change."""

import asyncio
from collections.abc import Callable


class Watch:
    """Rung by the steward whenever what it knows has changed; for tasks of the same loop."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake everyone who waits."""
        self._rung.set()
        self._rung = asyncio.Event()

    async def next_change(self, timeout_s: float) -> bool:
        """Wait for the next change; False when none came in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return False
        return True

    async def until(self, condition: Callable[[], object], timeout_s: float) -> bool:
        """Wait until the condition holds, which only changes can bring about; False when it did not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._rung.wait()
        except TimeoutError:
            return False
        return True
