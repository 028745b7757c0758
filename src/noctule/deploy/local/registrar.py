"""Keeps the nodes' registry told of the instances that the supervisor runs."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from noctule.base.errors import NoctuleError
from noctule.client.api import NodeClient
from noctule.client.pictures import Instance

RENEW_S = 5.0
"""The longest pause between two rounds."""
LOOK_S = 0.2
"""How often it is looked whether something changed that the nodes should know sooner."""
TTL_S = 15.0
"""An entry that was not renewed for three rounds vanishes."""
CALL_DEADLINE_S = 4.0
"""For one round, so that a cluster without a leader does not hold up the next."""
LEAVE_DEADLINE_S = 2.0
"""For taking entries out at the end; what is not taken out in time vanishes by itself."""

log = logging.getLogger("noctule.up")


class Registrar:
    """Tells any of the nodes; `entries` gives what there is to tell at the moment."""

    def __init__(self, urls: Sequence[str], entries: Callable[[], list[Instance]]) -> None:
        self._urls = urls
        self._entries = entries
        self._told: list[tuple[str, str, int]] = []
        self._is_failing = False

    async def run(self) -> None:
        """Tell the nodes every `RENEW_S`, and soon after a change of state or process, until cancelled.

        A failed round is logged, and the next follows.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self.tell()
            due_at = loop.time() + RENEW_S
            # The gateway changes states by itself and offers nothing to wait on; looking costs microseconds.
            while loop.time() < due_at and self._facts(self._entries()) == self._told:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)

    async def tell(self) -> None:
        """One round."""
        entries = self._entries()
        self._told = self._facts(entries)
        try:
            async with NodeClient(self._urls, deadline_s=CALL_DEADLINE_S) as client:
                await asyncio.gather(*(client.put_instance(entry) for entry in entries))
        except NoctuleError as error:
            if not self._is_failing:
                log.warning("registration_failed", extra={"reason": str(error)})
            self._is_failing = True
        else:
            self._is_failing = False

    async def leave(self) -> None:
        """Take all entries out."""
        try:
            async with NodeClient(self._urls, deadline_s=LEAVE_DEADLINE_S) as client:
                await asyncio.gather(*(client.delete_instance(entry.id) for entry in self._entries()))
        except NoctuleError as error:
            log.warning("deregistration_failed", extra={"reason": str(error)})

    @staticmethod
    def _facts(entries: list[Instance]) -> list[tuple[str, str, int]]:
        return [(entry.id, entry.state, entry.pid) for entry in entries]
