"""Who waits for something in the registry to change, by what it is, so that a change wakes those it concerns.

A thousand blocking queries that wait for other services cost a change nothing but the look at its own topics.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

from noctule.base.errors import UnavailableError
from noctule.core.registry.registry import Registry

WAITING_MAX = 20_000
"""Of one node, together."""

_KEY, _PREFIX = "key:", "prefix:"


class TopicWaiters:
    """Of one node; for tasks of one loop. `look` is to be called when this node's replica of *meta* has changed."""

    def __init__(self, view: Callable[[], Registry]) -> None:
        self._view = view
        self._waiting: dict[str, dict[asyncio.Future[None], int]] = {}
        """By topic: who waits, and above which index."""
        self._count = 0
        self._prefix_lengths: Counter[int] = Counter()
        """Of the prefixes somebody waits for: which of them a key has is found by these, whatever the key's length."""
        self._seen = 0
        """The index at which the registry was last looked at."""

    async def wait(self, topic: str, index: int, timeout_s: float) -> bool:
        """Whether the topic's index is above `index`, at once or before the time is up.

        Raises `UnavailableError` when too many wait.
        """
        if self._view().index_of(topic) > index:
            return True
        if self._count >= WAITING_MAX:
            raise UnavailableError(f"{WAITING_MAX} requests wait for changes of the registry: ask another node")
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._add(topic, woken, index)
        try:
            async with asyncio.timeout(timeout_s):
                await woken
        except TimeoutError:
            return False
        finally:
            self._drop(topic, woken)
        return True

    def look(self) -> None:
        """Wake those who wait for what has changed since the last look; costs what has changed."""
        view = self._view()
        changed = view.changed_since(self._seen)
        self._seen = view.index
        if not self._waiting:
            return
        if changed is None:  # A snapshot was loaded: everything may be different.
            for topic in list(self._waiting):
                self._wake(topic, view.index_of(topic))
            return
        for topic in changed:
            index = view.index_of(topic)
            self._wake(topic, index)
            if self._prefix_lengths and topic.startswith(_KEY):
                key = topic.removeprefix(_KEY)
                for length in self._prefix_lengths:
                    if length <= len(key):
                        self._wake(_PREFIX + key[:length], index)

    def _wake(self, topic: str, index: int) -> None:
        for woken, above in self._waiting.get(topic, {}).items():
            if index > above and not woken.done():
                woken.set_result(None)

    def _add(self, topic: str, woken: asyncio.Future[None], index: int) -> None:
        self._waiting.setdefault(topic, {})[woken] = index
        self._count += 1
        if topic.startswith(_PREFIX):
            self._prefix_lengths[len(topic) - len(_PREFIX)] += 1

    def _drop(self, topic: str, woken: asyncio.Future[None]) -> None:
        del self._waiting[topic][woken]
        self._count -= 1
        if not self._waiting[topic]:
            del self._waiting[topic]
        if topic.startswith(_PREFIX):
            length = len(topic) - len(_PREFIX)
            self._prefix_lengths[length] -= 1
            if not self._prefix_lengths[length]:
                del self._prefix_lengths[length]
