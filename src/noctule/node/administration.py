"""The door for whoever looks after a cluster: what it consists of, what would be done next, and what is to be done."""

import asyncio
import os
from typing import TYPE_CHECKING

from noctule.adapters.control import HeartbeatRequest
from noctule.adapters.control_client import ControlClient
from noctule.base.errors import NoctuleError, UnavailableError
from noctule.base.ids import GroupId
from noctule.core.meta.operations import Answer, Operation
from noctule.core.meta.state import MetaState
from noctule.core.meta.views import Reach, middle_slot
from noctule.core.placement.hotspots import split_by_size
from noctule.core.placement.partition_map import Partition
from noctule.core.placement.picture import Plan
from noctule.core.placement.risk import Risk, estimate_risk
from noctule.core.replica.digests import DIGEST
from noctule.core.roster.loads import Compared, LoadBoard
from noctule.core.roster.members import Member
from noctule.node.comparer import CHECK
from noctule.node.node_tls import load_tls
from noctule.node.proposals import reply_of
from noctule.node.watch import Watch

if TYPE_CHECKING:
    from noctule.node.node import LocalNode


COMPARE_S_MAX = 30.0
"""How long a comparison is waited for. A replica that is silent is given 5 s, and more where much is held."""
COMPARE_LOOK_S = 0.1
"""How often it is looked for what the leader has told; it tells once a second."""


class Administration:
    """One node's, as `node.api.Administration` describes it."""

    def __init__(self, node: "LocalNode") -> None:
        self._node = node

    @property
    def meta(self) -> MetaState:
        """What *meta* says, as far as it is applied here. For reading, until control goes back to the loop."""
        return self._node.steward.meta

    @property
    def board(self) -> LoadBoard:
        """What the leaders of all groups have told."""
        return self._node.steward.board

    @property
    def watch(self) -> Watch:
        """Rung when either has changed."""
        return self._node.watch

    def is_alive(self, node: int) -> bool:
        """Whether this node's failure detector trusts that one."""
        return self._node.premises.is_alive(node)

    def plan(self) -> Plan:
        """Everything that would have to be moved for the cluster to be as it should, balance included."""
        steward = self._node.steward
        return steward.governor.plan(steward.meta, self._node.clock.now(), is_dry=True, is_balancing=True)

    def risk(self, node: int) -> Risk:
        """What is lost, or hangs by a thread, when that node is taken out as it is."""
        steward = self._node.steward
        return estimate_risk(steward.governor.picture(steward.meta, self._node.clock.now()), node)

    def dividing_slot(self, partition: Partition) -> int:
        """Where a split halves the keys, by this node's replica; its slots where it has none, or cannot tell."""
        replica = self._node.host.carrier.replicas.get(GroupId(partition.id))
        if replica is not None:
            keys = {slot: len(values) for slot, values in replica.keyspace.slots.items()}
            advice = split_by_size(keys, partition.first_slot, partition.last_slot)
            if advice.at_slot:
                return advice.at_slot
        return middle_slot(partition)

    async def reach(self) -> list[Reach]:
        """How this node reaches every other member now: whether frames flow, and how long a call there and back takes.

        Asks all of them at once; one that does not answer costs a second.
        """
        node = self._node
        others = [member for _, member in sorted(node.premises.members.items()) if member.id != node.config.node_id]
        client = ControlClient(load_tls(node.config))
        try:
            return await asyncio.gather(*(self._reach(client, member) for member in others))
        finally:
            await client.close()

    async def _reach(self, client: ControlClient, member: Member) -> Reach:
        node, hello = self._node, self._node.transport.hello
        call_ms, problem = None, node.transport.refusals.get(member.id, "")
        started = node.clock.now()
        try:
            request = HeartbeatRequest(hello.node_id, hello.incarnation, hello.cluster_id, number=1)
            await client.heartbeat(member.control, request)
            call_ms = round((node.clock.now() - started) * 1000, 3)
        except NoctuleError as error:
            problem = "; ".join(filter(None, (problem, str(error))))
        return Reach(
            node=member.id,
            is_connected=node.transport.is_connected(member.id),
            is_trusted=self.is_alive(member.id),
            call_ms=call_ms,
            problem=problem,
        )

    async def compare(self, partition: Partition) -> Compared:
        """Have every replica of a partition digest its state, wherever it is led; what came of it, as its leader told.

        Raises `UnavailableError` when there was no leader, or it has told nothing in time: it may have changed, or be
        of an older release.
        """
        group, nonce = GroupId(partition.id), CHECK + os.urandom(8).hex().encode()
        router = self._node.host.router
        await reply_of(lambda sink: router.order(group, [DIGEST, nonce], sink))
        until = self._node.clock.now() + COMPARE_S_MAX
        while (now := self._node.clock.now()) < until:
            load = self.board.load_of(group)
            if load is not None and load.compared is not None and load.compared.nonce == nonce:
                return load.compared
            await self.watch.next_change(min(COMPARE_LOOK_S, until - now))
        raise UnavailableError(f"the leader of partition {group} has told nothing for {COMPARE_S_MAX:g} s: ask again")

    async def operate(self, operation: Operation) -> Answer:
        """Have *meta* do an operation; returns what it answered, once this node sees it done too.

        Raises `RequestError` when it is refused, `UnavailableError` when nothing was done in time, and
        `OutcomeUnknownError` when that is not known.
        """
        return await self._node.operate(operation)
