"""The door to a registry of one node that agrees with itself: the real registry and the real waits, without *meta*."""

from collections.abc import Sequence

from noctule.base.errors import UnavailableError
from noctule.core.registry.changes import Change
from noctule.core.registry.registry import Answered, Registry
from noctule.node.topic_waiters import TopicWaiters


class FakeRegistry:
    """As `node.api.RegistryDoor` says, at the time that a test sets, and without a quorum when it says so."""

    def __init__(self) -> None:
        self.view = Registry()
        self.now_ms = 1_700_000_000_000
        self.has_quorum = True
        self.contact_ms: int | None = 0
        self._waiters = TopicWaiters(lambda: self.view)
        self._waiters.look()

    async def change(self, changes: Sequence[Change], *, all_done: bool = False) -> list[Answered]:
        if not self.has_quorum:
            raise UnavailableError("no quorum")
        answers = self.view.apply(changes, self.now_ms, all_done=all_done)
        self._waiters.look()
        return answers

    async def catch_up(self) -> None:
        if not self.has_quorum:
            raise UnavailableError("no quorum")

    async def wait(self, topic: str, index: int, timeout_s: float) -> bool:
        return await self._waiters.wait(topic, index, timeout_s)

    def leader_known(self) -> bool:
        return self.has_quorum

    def last_contact_ms(self) -> int | None:
        return self.contact_ms
