"""The door to the registry: this node's replica to read, and the ways to change it, to catch up with it, to wait."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from noctule.base.errors import StorageError, UnavailableError
from noctule.base.ids import META_GROUP
from noctule.core.keyspace.reply import Reply
from noctule.core.meta.operations import COMMAND, ChangeRegistry, encode_operation
from noctule.core.registry.bounds import LIST_BYTES_MAX, require_fits
from noctule.core.registry.changes import Change
from noctule.core.registry.registry import Answered, Registry
from noctule.node.pictures import replica_staleness_ms
from noctule.node.proposals import reply_of
from noctule.node.topic_waiters import TopicWaiters

if TYPE_CHECKING:
    from noctule.node.node import LocalNode

CATCH_UP_S_MAX = 5.0
"""How long *meta* may take to confirm a read, and this node's replica to come so far. A new leader takes about one
second."""


class RegistryDoor:
    """One node's, as `node.api.RegistryDoor` describes it."""

    def __init__(self, node: "LocalNode") -> None:
        self._node = node
        self._waiters = TopicWaiters(lambda: self.view)
        self._spread_index = 0
        """Of the registry when followers were last told of a commit."""

    @property
    def view(self) -> Registry:
        """This node's replica. For reading, until control goes back to the loop."""
        return self._node.steward.meta.registry

    async def change(self, changes: Sequence[Change], *, all_done: bool = False) -> list[Answered]:
        """Apply all of them or none; what each answered, once this node's `view` shows it.

        Raises `RequestError` when one is refused, which the sentence tells (`changes.change_refused`), and with
        `all_done` also when one would answer False; `UnavailableError` when nothing was done in time, and
        `OutcomeUnknownError` when that is not known. Also returned when this node hears nothing of *meta* for 5 s.
        """
        operation = ChangeRegistry(list(changes), all_done)
        require_fits(len(encode_operation(operation)[1]), LIST_BYTES_MAX, "bytes of the list of changes")
        answer = await self._node.operate(operation)
        if not isinstance(answer, list):
            raise StorageError("meta answered a change of the registry with something else")
        return answer

    async def catch_up(self) -> None:
        """Afterwards `view` holds everything that was acknowledged, on any node, before the call.

        A round of reading of *meta*, without a write. Raises `UnavailableError` without a quorum.
        """
        router, watch = self._node.host.router, self._node.watch
        try:
            async with asyncio.timeout(CATCH_UP_S_MAX):
                version = await reply_of(lambda sink: router.query(META_GROUP, [COMMAND], sink))
                if not isinstance(version, int):
                    raise UnavailableError("the leader of meta has another release and cannot confirm reads: upgrade")
                is_here = await watch.until(lambda: self._node.steward.meta.version >= version, CATCH_UP_S_MAX)
        except TimeoutError:
            is_here = False
        if not is_here:
            raise UnavailableError(f"no quorum of meta has confirmed a read for {CATCH_UP_S_MAX:g} s")

    async def wait(self, topic: str, index: int, timeout_s: float) -> bool:
        """True once `view.index_of(topic)` is above `index`; False when it was not in time."""
        return await self._waiters.wait(topic, index, timeout_s)

    def meta_changed(self) -> None:
        """This node's replica of *meta* has changed: wake who waits for that, here and on the other nodes."""
        self._waiters.look()
        index = self.view.index
        if index != self._spread_index and self._node.host.carrier.replicas[META_GROUP].raft.is_leader():
            # Followers hear of a commit with the next heartbeat, 50 ms later or more (ADR 0030); a round of reading is
            # one at once. Who watches services through them must not wait.
            self._node.host.router.query(META_GROUP, [COMMAND], _Unheard())
        self._spread_index = index

    def leader_known(self) -> bool:
        """Whether this node knows who leads *meta*."""
        return self._node.host.switchboard.leader_of(META_GROUP)[0] != 0

    def last_contact_ms(self) -> int | None:
        """How old `view` may be (`core.raft.staleness`); 0 where *meta* is led, None when that is not known."""
        replica = self._node.host.carrier.replicas[META_GROUP]
        return 0 if replica.raft.is_leader() else replica_staleness_ms(self._node, replica)


class _Unheard:
    """Takes the answer of a read that was made for its round alone."""

    def deliver(self, reply: Reply) -> None:
        """Whatever it is: without a quorum there is nobody to tell."""
