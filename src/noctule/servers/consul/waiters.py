"""Blocking queries: who waits for which topic of the registry, how many, and how they are woken.

A change wakes this once, and costs one look at each topic that is waited for, however many wait for it: thousands of
waiting requests cost memory only. Their own bound keeps them from taking the place of requests that do something.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from noctule.core.registry.registry import Registry
from noctule.node.watch import Watch
from noctule.servers.consul.errors import ConsulError

WAITING_MAX = 10_000
"""Blocking queries that wait at one node, each some KB; one more is answered 429."""

LOOK_S = 1.0
"""So often it is looked who is still there: that a client has gone rings nothing."""


class Waiters:
    """Of one node; `close` when it stops serving."""

    def __init__(self, registry: Callable[[], Registry], watch: Watch, waiting_max: int = WAITING_MAX) -> None:
        self._registry = registry
        self._watch = watch
        self._waiting_max = waiting_max
        self._by_topic: dict[str, set[_Waiter]] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self.count = 0
        """How many wait now."""

    async def until(self, topic: str, index: int, timeout_s: float, is_gone: Callable[[], bool]) -> None:
        """Return when the topic's index is above `index`, when the time has passed, or when this closes.

        Raises `ConsulError` (429) when as many wait as may, and `ConnectionError` once the client is gone.
        """
        if self._is_closed or self._registry().index_of(topic) > index:
            return
        with self.slot():
            waiter = _Waiter(index, is_gone)
            self._by_topic.setdefault(topic, set()).add(waiter)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._watch_topics(), name="consul-waiters")
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        await waiter.woken
            finally:
                waiting = self._by_topic[topic]
                waiting.discard(waiter)
                if not waiting:
                    del self._by_topic[topic]

    async def until_changed(
        self, value: Callable[[], object], known: object, timeout_s: float, is_gone: Callable[[], bool]
    ) -> None:
        """Return when the value is another than the known one, and as `until` otherwise; for what has no topic.

        Costs a look at each change of anything, so it is not for many.
        """
        ends_at = time.monotonic() + timeout_s
        with self.slot():
            while value() == known and not self._is_closed and (left_s := ends_at - time.monotonic()) > 0:
                await self._watch.next_change(min(left_s, LOOK_S))
                if is_gone():
                    raise ConnectionError("the client has gone")

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Be one of those that wait; raises `ConsulError` (429) when there are as many as may."""
        if self.count >= self._waiting_max:
            raise ConsulError(
                429, f"{self._waiting_max} blocking queries wait at this node, which is the limit: ask another node"
            )
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1

    async def close(self) -> None:
        """Let everybody who waits go on at once, with what there is; nobody waits from now on."""
        self._is_closed = True
        self._watch.ring()
        for waiting in self._by_topic.values():
            for waiter in waiting:
                waiter.wake()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch_topics(self) -> None:
        """Runs while anybody waits for a topic."""
        looked_at = time.monotonic()
        while self._by_topic:
            await self._watch.next_change(LOOK_S)
            is_due = time.monotonic() - looked_at >= LOOK_S
            if is_due:
                looked_at = time.monotonic()
            registry = self._registry()
            for topic, waiting in self._by_topic.items():
                index = registry.index_of(topic)
                for waiter in waiting:
                    if index > waiter.index:
                        waiter.wake()
                    elif is_due and waiter.is_gone():
                        waiter.hang_up()


class _Waiter:
    __slots__ = ("index", "is_gone", "woken")

    def __init__(self, index: int, is_gone: Callable[[], bool]) -> None:
        self.index = index
        self.is_gone = is_gone
        self.woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)

    def hang_up(self) -> None:
        if not self.woken.done():
            self.woken.set_exception(ConnectionError("the client has gone"))
