"""Replication of this node's groups in an operator's words: write something to all replicas, see who has it.

A face over the node's own door and picture; it decides nothing. How many replicas there are is *meta*'s to change.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from noctule.core.keyspace.reply import Reply
from noctule.node.api import NodePicture, Store


class Replicated(Protocol):
    """What is needed of the node."""

    store: Store

    def picture(self) -> NodePicture:
        """As `node.api.Node`."""
        ...


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica as the leader of its group, which is this node, has heard of it."""

    group: int
    node: int
    lag_entries: int
    lag_bytes: int
    lag_s: float


class ReplicationManager:
    """Of one running node."""

    def __init__(self, node: Replicated) -> None:
        self._node = node

    async def replicate_message(self, command: list[bytes]) -> Reply:
        """The reply to one command; of a write it comes once the command is as durable as `durability` says."""
        return (await self.replicate_batch([command]))[0]

    async def replicate_batch(self, commands: Sequence[list[bytes]]) -> list[Reply]:
        """The replies to commands that take effect on each key in their order, in that order; some may be failures.

        Those of one partition travel together. A batch over several partitions is not atomic.
        """
        sinks = [_Awaited() for _ in commands]
        conversation = self._node.store.conversation()
        for command, sink in zip(commands, sinks, strict=True):
            conversation.submit(command, sink)
        return [await sink.reply for sink in sinks]

    def replication_status(self) -> list[ReplicaStatus]:
        """Every replica of the groups that this node leads, but its own, by group and node.

        Of the other groups their leaders know.
        """
        return [
            ReplicaStatus(group.id, node, entries, group.lag_bytes[node], group.lag_s[node])
            for group in self._node.picture().groups
            for node, entries in sorted(group.lag.items())
        ]


class _Awaited:
    """The sink of one command; the store bounds how long it waits."""

    __slots__ = ("reply",)

    def __init__(self) -> None:
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def deliver(self, reply: Reply) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)
