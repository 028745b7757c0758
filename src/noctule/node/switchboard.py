"""Between the replicas, the router and the frames: who gets what. The real node and the simulator use it alike.

It answers two protocols: `Peers` of the `Carrier` below it and `Dispatch` of the `Router` above. What leaves for
another node gathers here until whoever owns the sockets takes it at the end of the turn.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Final, Protocol, get_args

from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.keyspace.keyspace import ReadOutcome
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.placement.partition_map import PartitionMap
from noctule.core.raft import events as raft
from noctule.core.raft.messages import InstallSnapshot, Message
from noctule.core.replica.events import Answer, DigestReady, Event, Publish, Query, Ready, Refuse, Submit
from noctule.core.replica.replica import Replica
from noctule.core.replica.shared_reads import DRAWN_BELOW, Following, SharedReads
from noctule.core.roster.loads import LoadReport
from noctule.core.wire.messages import (
    Answered,
    DigestTold,
    Envelope,
    Forward,
    ForwardQuery,
    ForwardReads,
    KeyReady,
    Leads,
    PeerMessage,
    Published,
    ReadRound,
    ReadRoundReply,
    ReadsAnswered,
    Refused,
    Where,
)
from noctule.node.leader_hints import LeaderHints
from noctule.node.local_reads import read_local_keys
from noctule.node.router import Router
from noctule.node.slots_led import SlotsLed

log = logging.getLogger("noctule.node")

_RAFT: Final = frozenset(get_args(Message))
"""Most of what comes is of these types."""


class Surroundings(Protocol):
    """What the switchboard needs of the node it is in."""

    def take(self, group: GroupId, event: Event) -> None:
        """Hand an event to a replica; its effects come back through the `Carrier`."""

    def schedule_turn(self) -> None:
        """See to it that the turn ends soon."""

    def is_connected(self, node: int) -> bool:
        """Whether a frame to that node would leave."""
        ...

    def is_trusted(self, node: int) -> bool:
        """Whether the node is there and answers, as far as this one can tell."""
        ...

    def wall_ms(self) -> int:
        """This node's wall clock."""
        ...

    def now(self) -> Instant:
        """The clock by which it waits."""
        ...

    def elected(self, group: GroupId, term: int) -> None:
        """This node leads the group now."""

    def membership_changed(self, group: GroupId, change: raft.MembershipChanged | raft.MembershipRefused) -> None:
        """Who belongs to the group has changed here, or a change was refused."""

    def digest_told(self, group: GroupId, sender: int, digest: DigestTold) -> None:
        """A replica of a group that is led here, perhaps the leader's own, tells the digest of its state."""

    def load_told(self, sender: int, report: LoadReport) -> None:
        """A node tells what it leads."""

    def published(self, message: Published) -> None:
        """A node tells what was published there."""

    def publish(self, publish: Publish) -> None:
        """Tell all nodes what a logged command published."""

    def send_bulk(self, to: int, group: GroupId, message: InstallSnapshot) -> None:
        """Send a chunk of a snapshot by whatever way is best for much data; `put` is one that always is there."""


class Switchboard:
    """One node's. The replicas are those of the `Carrier`: some are added and removed while the node runs."""

    def __init__(
        self,
        node_id: int,
        replicas: dict[GroupId, Replica],
        surroundings: Surroundings,
        router: Callable[["Switchboard"], Router],
        partitions: PartitionMap,
    ) -> None:
        self.node_id = node_id
        self.router = router(self)
        self.requests: dict[GroupId, int] = {}
        """For each group how many commands its replica here has answered; whoever reads it may empty it."""
        self._hints = LeaderHints(node_id, partitions, surroundings.is_trusted, surroundings.now)
        self._outgoing: dict[int, list[Envelope]] = {}
        self._replicas = replicas
        self._surroundings = surroundings
        self._is_closed = False
        drawn = self.router.new_origin() % DRAWN_BELOW
        self._following = Following(drawn)
        self._reads = SharedReads(replicas, self.requests, surroundings.is_connected, surroundings.now, drawn)
        self.slots_led = SlotsLed(partitions)
        """The slots whose partition this node leads, for whoever answers for those alone."""

    def close(self) -> None:
        """The replicas are not to be asked any more: the router finds no leader, and no read is answered from here."""
        self._is_closed = True
        self._reads.close()
        self.slots_led.close()

    def map_changed(self, changed_groups: Iterable[GroupId]) -> None:
        """Follow the map of partitions, in which these have changed, come or gone."""
        self._hints.map_changed()
        self.slots_led.map_changed()
        self.router.map_changed(changed_groups)

    def features_changed(self, features: frozenset[str]) -> None:
        """Follow what the cluster does, all of whose members can; told before the first `map_changed`."""
        self.router.features_changed(features)

    def replica_removed(self, group: GroupId, replica: Replica) -> None:
        """A replica was taken out: whoever waits for it is to ask elsewhere."""
        self.slots_led.change(group, is_led=False)
        self._following.change(group, 0, 0)
        self._reads.membership_changed(group)
        for refusal in replica.abandon():
            self.answer(group, refusal)
        self._surroundings.schedule_turn()

    def peer_lost(self, node: int) -> None:
        """The connection to a node is gone, and what was on its way with it."""
        self._hints.peer_lost(node)
        self.router.peer_lost(node)
        answers = self._reads.peer_lost(node, self._surroundings.wall_ms())
        if answers:
            self._answer_reads(answers)
            self._surroundings.schedule_turn()

    def take_outgoing(self) -> dict[int, list[Envelope]]:
        """What this turn has for each other node, in order; it is the caller's now. Begins the round of its reads."""
        rounds, answers = self._reads.begin(self._surroundings.wall_ms())
        for peer, round_ in rounds:
            self.put(peer, META_GROUP, round_)
        self._answer_reads(answers)
        outgoing, self._outgoing = self._outgoing, {}
        return outgoing

    def receive(self, sender: int, envelopes: list[Envelope]) -> None:
        """Every message of a frame, in order. For a group that is not here requests are refused, Raft's are ignored."""
        replicas, take, router = self._replicas, self._surroundings.take, self.router
        for number, message in envelopes:
            group = GroupId(number)
            if type(message) in _RAFT:
                if group in replicas:
                    take(group, raft.Received(sender, message))  # type: ignore[arg-type]
            elif isinstance(message, Answered):
                router.answered(group, message.origin, message.number, message.results, is_write=message.is_write)
            elif isinstance(message, ReadRound):
                self.put(sender, META_GROUP, self._following.reply(sender, message, replicas))
            elif isinstance(message, ReadRoundReply):
                self._answer_reads(self._reads.replied(sender, message, self._surroundings.wall_ms()))
            elif isinstance(message, ForwardReads):
                self._reads.ask(sender, message)
            elif isinstance(message, ReadsAnswered):
                router.reads_answered(sender, message)
            elif isinstance(message, Refused):
                self._hints.refused(group, sender, message.leader, message.term)
                self._refused(group, message)
            elif isinstance(message, Leads):
                if self._hints.learn(group, message.leader, message.term):
                    router.leader_changed(group)
            elif isinstance(message, Published):
                self._surroundings.published(message)
            elif isinstance(message, KeyReady):
                router.waiting_room.key_ready(message.key, message.kind, message.count)
            elif isinstance(message, LoadReport):
                self._surroundings.load_told(sender, message)
            elif isinstance(message, DigestTold):
                self._surroundings.digest_told(group, sender, message)
            elif group not in replicas:
                self._turn_away(sender, group, message)
            elif isinstance(message, Forward):
                origin, number, batch, term = message.origin, message.sequence, message.batch, message.term
                take(group, Submit(sender, origin, number, batch, term, message.has_scripts))
            elif isinstance(message, ForwardQuery):
                origin, number, commands = message.origin, message.number, message.commands
                take(group, Query(sender, origin, number, commands, message.lease))
            elif isinstance(message, Where):
                leader, term = self._known_here(group)
                if leader:
                    self.put(sender, group, Leads(leader, term))
                    self._surroundings.schedule_turn()

    def _answer_reads(self, answers: list[tuple[int, ReadsAnswered]]) -> None:
        for to, answer in answers:
            if to == self.node_id:
                self.router.reads_answered(to, answer)
            else:
                self.put(to, META_GROUP, answer)

    def _turn_away(self, sender: int, group: GroupId, message: PeerMessage) -> None:
        """A replica may have been here when the request was sent, so nothing is disclaimed."""
        if isinstance(message, Forward):
            self.put(sender, group, Refused(message.origin, True, message.sequence))
        elif isinstance(message, ForwardQuery):
            self.put(sender, group, Refused(message.origin, False, message.number))
        self._surroundings.schedule_turn()

    def _refused(self, group: GroupId, refusal: Refuse | Refused) -> None:
        self.router.refused(
            group,
            refusal.origin,
            refusal.number,
            is_write=refusal.is_write,
            disclaimed_term=refusal.disclaimed_term,
        )

    def put(self, to: int, group: GroupId, message: PeerMessage) -> None:
        """Into this turn's frame for that node; may be lost."""
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
        if isinstance(answer, Answer):
            self.requests[group] = self.requests.get(group, 0) + len(answer.results)
        if answer.to == self.node_id:
            if isinstance(answer, Answer):
                self.router.answered(group, origin, number, answer.results, is_write=is_write)
            else:
                self._refused(group, answer)
        elif isinstance(answer, Answer):
            self.put(answer.to, group, Answered(origin, is_write, number, answer.results))
        else:
            leader, term = self._known_here(group)
            self.put(answer.to, group, Refused(origin, is_write, number, answer.disclaimed_term, leader, term))

    def ready(self, ready: Ready) -> None:
        """To the clients who wait here, or into the frame for the node where they do."""
        if ready.to == self.node_id:
            self.router.waiting_room.key_ready(ready.key, ready.kind, ready.count)
        else:
            self.put(ready.to, META_GROUP, KeyReady(ready.key, ready.kind, ready.count))

    def role_changed(self, group: GroupId, change: raft.RoleChanged) -> None:
        """The router asks whoever leads now."""
        if log.isEnabledFor(logging.DEBUG):  # Thousands of groups may change at once.
            fields = {"group": group, "role": change.role, "term": change.term, "leader": change.leader}
            log.debug("role_changed", extra={"fields": fields})
        self.slots_led.change(group, is_led=change.leader == self.node_id)
        self._following.change(group, 0 if change.leader == self.node_id else change.leader, change.term)
        if change.leader:
            self.router.leader_changed(group)
        if change.leader == self.node_id:
            self._surroundings.elected(group, change.term)

    def membership_changed(self, group: GroupId, change: raft.MembershipChanged | raft.MembershipRefused) -> None:
        """To the surroundings."""
        self._reads.membership_changed(group)
        self._surroundings.membership_changed(group, change)

    def digest_ready(self, group: GroupId, digest: DigestReady) -> None:
        """To the leader, which compares."""
        told, leader = DigestTold(digest.nonce, digest.index, digest.digest), self._replicas[group].raft.leader
        if leader == self.node_id:
            self._surroundings.digest_told(group, leader, told)
        elif leader:
            self.put(leader, group, told)

    def publish(self, publish: Publish) -> None:
        """To the surroundings."""
        self._surroundings.publish(publish)

    # Dispatch of the Router ------------------------------------------------------------------------------------------

    def leader_of(self, group: GroupId) -> tuple[int, int]:
        """As this node's replica knows, or else as other nodes have told; nobody once it is closed."""
        leader, term = self._known_here(group)
        if leader or self._is_closed or self._is_voter(group):
            return leader, term
        hint = self._hints.get(group)
        if hint[0]:
            return hint
        asked = self._hints.whom_to_ask(group)
        if asked:
            self.put(asked, group, Where())
            self._surroundings.schedule_turn()
        return 0, term

    def _known_here(self, group: GroupId) -> tuple[int, int]:
        """Leader and term as the replica here knows; 0 and 0 without one."""
        replica = self._replicas.get(group)
        if replica is None:
            return 0, 0
        return 0 if self._is_closed else replica.raft.leader, replica.raft.term

    def _is_voter(self, group: GroupId) -> bool:
        """Whether the replica here is sure to hear of a leader from the group itself."""
        replica = self._replicas.get(group)
        return replica is not None and self.node_id in replica.raft.log.membership.voters

    def dispatch_write(
        self,
        to: int,
        group: GroupId,
        term: int,
        origin: int,
        sequence: int,
        batch: bytes,
        *,
        has_scripts: bool = False,
    ) -> bool:
        """Here or into the peer's frame."""
        if to == self.node_id:
            if group not in self._replicas:
                return False
            self._surroundings.take(group, Submit(to, origin, sequence, batch, term, has_scripts))
            return True
        return self._forward(to, group, Forward(origin, sequence, batch, term, has_scripts))

    def dispatch_query(
        self, to: int, group: GroupId, origin: int, number: int, commands: list[list[bytes]], *, lease: bool
    ) -> bool:
        """Here or into the peer's frame."""
        if to == self.node_id:
            if group not in self._replicas:
                return False
            self._surroundings.take(group, Query(to, origin, number, commands, lease))
            return True
        return self._forward(to, group, ForwardQuery(origin, number, commands, lease))

    def dispatch_reads(self, to: int, number: int, groups: list[int], commands: list[list[bytes]]) -> bool:
        """Here or into the peer's frame, with the word of this node."""
        if to != self.node_id:
            unrest = self._following.unrest(to)
            return self._forward(to, META_GROUP, ForwardReads(number, groups, commands, unrest))
        self._reads.ask(to, ForwardReads(number, groups, commands))
        self._surroundings.schedule_turn()
        return True

    def _forward(self, to: int, group: GroupId, message: Forward | ForwardQuery | ForwardReads) -> bool:
        if not self._surroundings.is_connected(to):
            return False
        self.put(to, group, message)
        self._surroundings.schedule_turn()
        return True

    def read_local(self, group: GroupId, command: list[bytes]) -> Reply | ReadOutcome:
        """This node's own replica, if there is one."""
        if self._is_closed or group not in self._replicas:
            return ReadOutcome.MUST_LOG
        return self._replicas[group].read_local(command, self._surroundings.wall_ms())

    def read_keys(
        self, slot_table: list[GroupId], commands: list[list[bytes] | Failure], start: int, wall_ms: int
    ) -> list[Reply]:
        """The same of many single keys, at a time that the caller knows."""
        if self._is_closed:
            return []
        return read_local_keys(self._replicas, slot_table, commands, start, wall_ms)

    def schedule_turn(self) -> None:
        """As the surroundings do."""
        self._surroundings.schedule_turn()
