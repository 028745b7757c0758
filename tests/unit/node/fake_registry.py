"""The registry itself behind its door, without Raft: changes apply at once, and time passes when the test says so."""

import asyncio
from collections.abc import Sequence

from noctule.base.errors import NoctuleError
from noctule.core.registry.changes import Change, PutNode
from noctule.core.registry.objects import RegistryNode
from noctule.core.registry.registry import Answered, Registry
from noctule.node.watch import Watch

NODE = "node-1"


class FakeDoor:
    """A `RegistryDoor` that does what it is asked, unless it is to fail; node 1 is there."""

    def __init__(self) -> None:
        self.view = Registry()
        self.watch = Watch()
        self.now_ms = 1_700_000_000_000
        self.failure: NoctuleError | None = None
        self.lists: list[Sequence[Change]] = []
        """Those that were asked for and applied."""
        self.apply(PutNode(RegistryNode(NODE, "127.0.0.1")))

    def apply(self, *changes: Change) -> None:
        """What somebody else asked for."""
        self.view.apply(changes, self.now_ms)
        self.view.check()
        self.watch.ring()

    def pass_time(self, ms: int) -> None:
        """So much later, with all done that the keeper sees to."""
        self.now_ms += ms
        while due := self.view.due(self.now_ms):
            self.apply(*due)

    async def change(self, changes: Sequence[Change], *, all_done: bool = False) -> list[Answered]:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        answers = self.view.apply(changes, self.now_ms, all_done=all_done)
        self.lists.append(changes)
        self.watch.ring()
        return answers

    async def catch_up(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def wait(self, topic: str, index: int, timeout_s: float) -> bool:
        return await self.watch.until(lambda: self.view.index_of(topic) > index, timeout_s)

    def leader_known(self) -> bool:
        return self.failure is None

    def last_contact_ms(self) -> int | None:
        return 0 if self.failure is None else 1234
