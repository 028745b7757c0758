"""The door to a registry of one node that agrees with itself: the real registry and the real waits, without *meta*."""

import asyncio
from collections.abc import Sequence

from noctule.base.errors import NoctuleError, UnavailableError
from noctule.core.registry.changes import Change, PutNode
from noctule.core.registry.objects import RegistryNode
from noctule.core.registry.registry import Answered, Registry
from noctule.node.topic_waiters import TopicWaiters
from noctule.node.watch import Watch

NODE = "node-1"


class FakeRegistry:
    """As `node.api.RegistryDoor` says, at the time that a test sets, and without a quorum when it says so.

    Each of the `nodes` is there from the beginning.
    """

    def __init__(self, *nodes: str) -> None:
        self.view = Registry()
        self.now_ms = 1_700_000_000_000
        self.has_quorum = True
        self.failure: NoctuleError | None = None
        """What every change and catching up ends with."""
        self.contact_ms: int | None = 0
        self.lists: list[Sequence[Change]] = []
        """Those that were asked for and applied."""
        self.watch = Watch()
        """Rung when anything has changed."""
        self._waiters = TopicWaiters(lambda: self.view)
        for node in nodes:
            self.view.apply([PutNode(RegistryNode(node, "127.0.0.1"))], self.now_ms)
        self._waiters.look()

    def apply(self, *changes: Change) -> None:
        """What somebody else asked for."""
        self.view.apply(changes, self.now_ms)
        self.view.check()
        self._changed()

    def pass_time(self, ms: int) -> None:
        """So much later, with all done that the keeper sees to."""
        self.now_ms += ms
        while due := self.view.due(self.now_ms):
            self.apply(*due)

    async def change(self, changes: Sequence[Change], *, all_done: bool = False) -> list[Answered]:
        await asyncio.sleep(0)
        self._check()
        answers = self.view.apply(changes, self.now_ms, all_done=all_done)
        self.lists.append(changes)
        self._changed()
        return answers

    async def catch_up(self) -> None:
        self._check()

    async def wait(self, topic: str, index: int, timeout_s: float) -> bool:
        return await self._waiters.wait(topic, index, timeout_s)

    def leader_known(self) -> bool:
        return self.has_quorum and self.failure is None

    def last_contact_ms(self) -> int | None:
        return self.contact_ms

    def _changed(self) -> None:
        self._waiters.look()
        self.watch.ring()

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure
        if not self.has_quorum:
            raise UnavailableError("no quorum")
