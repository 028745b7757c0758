"""Between the replicas, the router and the frames: who gets what. The real node and the simulator use it alike.

It answers two protocols: `Peers` of the `Carrier` below it and `Dispatch` of the `Router` above. What leaves for
another node gathers here until whoever owns the sockets takes it at the end of the turn.
"""

import logging
from collections.abc import Callable
from typing import Protocol

from noctule.base.ids import GroupId
from noctule.core.keyspace.keyspace import ReadOutcome
from noctule.core.keyspace.reply import Reply
from noctule.core.raft import events as raft
from noctule.core.raft.messages import InstallSnapshot, Message
from noctule.core.replica.events import Answer, DigestReady, Event, Query, Refuse, Submit
from noctule.core.replica.replica import Replica
from noctule.core.wire.frames import Answered, Envelope, Forward, ForwardQuery, PeerMessage, Refused
from noctule.node.router import Router

log = logging.getLogger("noctule.node")


class Surroundings(Protocol):
    """What the switchboard needs of the node it is in."""

    def take(self, group: GroupId, event: Event) -> None:
        """Hand an event to a replica; its effects come back through the `Carrier`."""

    def schedule_turn(self) -> None:
        """See to it that the turn ends soon."""

    def is_connected(self, node: int) -> bool:
        """Whether a frame to that node would leave."""
        ...

    def wall_ms(self) -> int:
        """This node's wall clock."""
        ...

    def elected(self, group: GroupId, term: int) -> None:
        """This node leads the group now."""

    def membership_changed(self, group: GroupId, change: raft.MembershipChanged | raft.MembershipRefused) -> None:
        """Who belongs to the group has changed here, or a change was refused."""

    def send_bulk(self, to: int, group: GroupId, message: InstallSnapshot) -> None:
        """Send a chunk of a snapshot by whatever way is best for much data; `put` is one that always is there."""

    def digest_ready(self, group: GroupId, digest: DigestReady) -> None:
        """The digest of the group's state here, as of an index that all replicas share."""


class Switchboard:
    """One node's."""

    def __init__(
        self,
        node_id: int,
        replicas: dict[GroupId, Replica],
        surroundings: Surroundings,
        router: Callable[["Switchboard"], Router],
    ) -> None:
        self.router = router(self)
        self._outgoing: dict[int, list[Envelope]] = {}
        self._node_id = node_id
        self._replicas = replicas
        self._surroundings = surroundings
        self._is_closed = False

    def close(self) -> None:
        """The replicas are not to be asked any more: the router finds no leader, and no read is answered from here."""
        self._is_closed = True

    def take_outgoing(self) -> dict[int, list[Envelope]]:
        """What this turn has for each other node, in order; it is the caller's now."""
        outgoing, self._outgoing = self._outgoing, {}
        return outgoing

    def receive(self, sender: int, envelopes: list[Envelope]) -> None:
        """Every message of a frame, in order; one for a group that is not here is ignored."""
        replicas, take, router = self._replicas, self._surroundings.take, self.router
        for number, message in envelopes:
            group = GroupId(number)
            if group not in replicas:
                continue
            if isinstance(message, Forward):
                take(group, Submit(sender, message.origin, message.sequence, message.batch, message.term))
            elif isinstance(message, ForwardQuery):
                take(group, Query(sender, message.origin, message.number, message.commands, message.lease))
            elif isinstance(message, Answered):
                router.answered(group, message.origin, message.number, message.results, is_write=message.is_write)
            elif isinstance(message, Refused):
                self._refused(group, message)
            else:
                take(group, raft.Received(sender, message))

    def _refused(self, group: GroupId, refusal: Refuse | Refused) -> None:
        self.router.refused(
            group,
            refusal.origin,
            refusal.number,
            is_write=refusal.is_write,
            disclaimed_term=refusal.disclaimed_term,
        )

    def put(self, to: int, group: GroupId, message: PeerMessage) -> None:
        """Into this turn's frame for a node."""
        self._outgoing.setdefault(to, []).append((group, message))

    # Peers of the Carrier --------------------------------------------------------------------------------------------

    def send(self, to: int, group: GroupId, message: Message) -> None:
        """Into this turn's frame, or the way of what is large."""
        if type(message) is InstallSnapshot:
            self._surroundings.send_bulk(to, group, message)
        else:
            self.put(to, group, message)

    def answer(self, group: GroupId, answer: Answer | Refuse) -> None:
        """To the router here, or into the frame for the node whose router asked."""
        origin, number, is_write = answer.origin, answer.number, answer.is_write
        if answer.to == self._node_id:
            if isinstance(answer, Answer):
                self.router.answered(group, origin, number, answer.results, is_write=is_write)
            else:
                self._refused(group, answer)
        elif isinstance(answer, Answer):
            self.put(answer.to, group, Answered(origin, is_write, number, answer.results))
        else:
            self.put(answer.to, group, Refused(origin, is_write, number, answer.disclaimed_term))

    def role_changed(self, group: GroupId, change: raft.RoleChanged) -> None:
        """The router asks whoever leads now."""
        log.debug(
            "role_changed",
            extra={"fields": {"group": group, "role": change.role, "term": change.term, "leader": change.leader}},
        )
        if change.leader:
            self.router.leader_changed(group)
        if change.leader == self._node_id:
            self._surroundings.elected(group, change.term)

    def membership_changed(self, group: GroupId, change: raft.MembershipChanged | raft.MembershipRefused) -> None:
        """To the surroundings."""
        self._surroundings.membership_changed(group, change)

    def digest_ready(self, group: GroupId, digest: DigestReady) -> None:
        """To the surroundings."""
        self._surroundings.digest_ready(group, digest)

    # Dispatch of the Router ------------------------------------------------------------------------------------------

    def leader_of(self, group: GroupId) -> tuple[int, int]:
        """As this node's replica knows; nobody once it is closed."""
        consensus = self._replicas[group].raft
        return 0 if self._is_closed else consensus.leader, consensus.term

    def dispatch_write(self, to: int, group: GroupId, term: int, origin: int, sequence: int, batch: bytes) -> bool:
        """Here or into the peer's frame."""
        if to == self._node_id:
            self._surroundings.take(group, Submit(to, origin, sequence, batch, term))
            return True
        return self._forward(to, group, Forward(origin, sequence, batch, term))

    def dispatch_query(
        self, to: int, group: GroupId, origin: int, number: int, commands: list[list[bytes]], *, lease: bool
    ) -> bool:
        """Here or into the peer's frame."""
        if to == self._node_id:
            self._surroundings.take(group, Query(to, origin, number, commands, lease))
            return True
        return self._forward(to, group, ForwardQuery(origin, number, commands, lease))

    def _forward(self, to: int, group: GroupId, message: Forward | ForwardQuery) -> bool:
        if not self._surroundings.is_connected(to):
            return False
        self.put(to, group, message)
        self._surroundings.schedule_turn()
        return True

    def read_local(self, group: GroupId, command: list[bytes]) -> Reply | ReadOutcome:
        """This node's own replica."""
        if self._is_closed:
            return ReadOutcome.MUST_LOG
        return self._replicas[group].read_local(command, self._surroundings.wall_ms())

    def schedule_turn(self) -> None:
        """As the surroundings do."""
        self._surroundings.schedule_turn()
