"""Blocking queries that wait at one node: how many may, and when they are let go before their time.

Their own bound keeps thousands that wait from taking the place of requests that do something. Who is woken by which
change is told in node/topic_waiters.py.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from noctule.node.api import RegistryDoor
from noctule.node.watch import Watch
from noctule.servers.consul.errors import ConsulError

WAITING_MAX = 10_000
"""Blocking queries that wait at one node, each some 16 KiB with its connection; one more is answered 429."""

LOOK_S = 1.0
"""So often it is looked whose client has gone: that rings nothing."""


class Waiting:
    """Of one node; `close` when it stops serving."""

    def __init__(self, registry: RegistryDoor, watch: Watch, waiting_max: int = WAITING_MAX) -> None:
        self._registry = registry
        self._watch = watch
        self._waiting_max = waiting_max
        self._clocks: dict[asyncio.Timeout, Callable[[], bool]] = {}
        """Of each that waits, with the question whether its client has gone."""
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def count(self) -> int:
        """How many wait now."""
        return len(self._clocks)

    async def until(
        self,
        topic: str,
        index: int,
        timeout_s: float,
        is_gone: Callable[[], bool],
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        """After `refresh`, return when the topic's index is above `index`, or the time has passed, or this closes.

        It counts as waiting from the beginning: a crowd that comes back at once must not keep everybody else out.
        Raises `ConsulError` (429) when as many wait as may, `ConnectionError` once the client is gone, and what
        `refresh` raises.
        """
        is_fresh = False
        async with self._place(is_gone) as clock:
            await refresh()
            is_fresh = True
            if self._registry.view.index_of(topic) <= index and not self._is_closed:
                clock.reschedule(asyncio.get_running_loop().time() + timeout_s)
                # The clock may be put forward, which the registry's own could not.
                await self._registry.wait(topic, index, 2 * timeout_s)
        if not is_fresh:
            await refresh()

    async def until_other(
        self, value: Callable[[], object], known: object, timeout_s: float, is_gone: Callable[[], bool]
    ) -> None:
        """Return when the value is another than the known one, and as `until` otherwise; for what has no topic.

        Costs a look at each change of anything and at each `LOOK_S`, so it is not for many.
        """
        async with self._place(is_gone) as clock:
            clock.reschedule(asyncio.get_running_loop().time() + timeout_s)
            while value() == known and not self._is_closed:
                await self._watch.next_change(LOOK_S)

    async def close(self) -> None:
        """Let everybody who waits go on at once, with what there is; nobody waits from now on."""
        self._is_closed = True
        for clock in self._clocks:
            _end(clock)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @asynccontextmanager
    async def _place(self, is_gone: Callable[[], bool]) -> AsyncIterator[asyncio.Timeout]:
        """Be one of those that wait, until the clock that this gives has run out or what is done with it has ended."""
        if self.count >= self._waiting_max:
            raise ConsulError(
                429, f"{self._waiting_max} blocking queries wait at this node, which is the limit: ask another node"
            )
        try:
            async with asyncio.timeout(None) as clock:
                self._clocks[clock] = is_gone
                if self._task is None or self._task.done():
                    self._task = asyncio.create_task(self._let_go(), name="consul-waiting")
                try:
                    yield clock
                finally:
                    del self._clocks[clock]
        except TimeoutError:
            if not clock.expired():
                raise
        if is_gone():
            raise ConnectionError("the client has gone")

    async def _let_go(self) -> None:
        """Runs while anybody waits: those whose client has gone need not."""
        while self._clocks:
            await asyncio.sleep(LOOK_S)
            for clock, is_gone in self._clocks.items():
                if is_gone():
                    _end(clock)


def _end(clock: asyncio.Timeout) -> None:
    if not clock.expired():
        clock.reschedule(asyncio.get_running_loop().time())
