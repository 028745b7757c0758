"""The cluster in the words of Redis Cluster: who has which slots, where a client finds them, and whom to ask instead.

A node has two endpoints in it. Its *cluster face* is the primary of the slots that it leads; its *plain face*, which
answers for every slot, is the replica of those it only has a copy of. So no endpoint is both, which clients such as
redis-py take for granted. See ADR 0025.
"""

from dataclasses import dataclass, replace
from hashlib import sha1
from typing import TYPE_CHECKING, NamedTuple

from noctule.base.addresses import split_address
from noctule.base.ids import META_GROUP, GroupId
from noctule.core.keyspace.keyspace import ReadOutcome
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.within import READ_WITHIN
from noctule.core.roster.members import Member
from noctule.node.service_master import ServiceMaster

if TYPE_CHECKING:
    from noctule.node.node import LocalNode

NOT_SERVED = Failure(b"CLUSTERDOWN Hash slot not served")
"""While the leader of the slot's partition is not known, or cannot be reached from here."""


class Endpoint(NamedTuple):
    """Where a client connects."""

    name: str
    """40 hexadecimal digits, for ever the same for one face of one node of one cluster."""
    host: str
    """Without brackets. Empty while nobody has told it."""
    port: int


@dataclass(frozen=True, slots=True)
class ClusterMember:
    """One node that belongs to the cluster."""

    id: int
    cluster: Endpoint
    plain: Endpoint
    peer_port: int
    is_alive: bool


@dataclass(frozen=True, slots=True)
class SlotRange:
    """Slots that one node leads."""

    first: int
    last: int
    """Both inclusive."""
    leader: int
    """A node that is alive. Until one is elected, the one that will most likely be: it answers with what is so by then,
    and clients such as redis-py give up where a slot is nobody's."""
    replicas: tuple[int, ...]
    """The other nodes that hold a copy and are alive, in ascending order."""
    is_served: bool = True
    """Whether the leader is known, and no guess."""


class ClusterView:
    """As one node sees it; everything is made anew for each question."""

    def __init__(self, node: "LocalNode") -> None:
        self._node = node
        self._service_master = ServiceMaster()

    @property
    def node_id(self) -> int:
        """Of the node that is asked."""
        return self._node.config.node_id

    @property
    def epoch(self) -> int:
        """Of the map of partitions."""
        return self._node.steward.meta.map.epoch

    @property
    def service_names(self) -> list[str]:
        """By which Sentinel's clients may ask for the one service."""
        names = (self._node.config.sentinel_service, self._node.config.cluster.name)
        return list(dict.fromkeys(names))

    def master_id(self) -> int:
        """Whom Sentinel's clients are sent to; alive, and stable while it is. Cheap while *meta* has a leader."""
        leader, premises = self._leader_of(META_GROUP), self._node.premises
        others = [leader] if leader else [each for each in premises.members if premises.is_alive(each)]
        return self._service_master.choose(leader, [*others, self.node_id])

    def master(self) -> ClusterMember:
        """The same with its places."""
        node = self.master_id()
        members = {member.id: member for member in self.members()}
        return members.get(node, members[self.node_id])  # One that is not in the roster yet has no place either.

    def members(self) -> list[ClusterMember]:
        """All nodes that belong to the cluster, by their ids; this one is always among them."""
        first = {each: Member(each, address) for each, address in self._node.config.cluster.voters.items()}
        known = dict(self._node.premises.members or first)
        known.setdefault(self.node_id, Member(self.node_id, self._node.transport.hello.peer))
        return [self._member(known[each]) for each in sorted(known)]

    def ranges(self) -> list[SlotRange]:
        """All slots of which a copy is on a node that is alive, in ascending order; neighbours that differ in nothing
        are one range."""
        found: list[SlotRange] = []
        is_alive = self._node.premises.is_alive
        partitions = sorted(self._node.steward.partitions, key=lambda partition: partition.first_slot)
        for partition in partitions:
            alive = [each for each in partition.replicas if is_alive(each)]
            known = self._leader_of(GroupId(partition.id))
            leader = known or (alive[0] if alive else 0)
            if leader and partition.slot_count:
                others = tuple(sorted(each for each in alive if each != leader))
                here = SlotRange(partition.first_slot, partition.last_slot, leader, others, is_served=known != 0)
                if found and here == replace(found[-1], first=found[-1].last + 1, last=here.last):
                    here = replace(here, first=found.pop().first)
                found.append(here)
        return found

    def redirect(self, slot: int) -> Failure:
        """What a client is told that asks this node's cluster face for a slot that another one leads."""
        group = self._node.steward.partitions.slot_table[slot]
        leader = self._leader_of(group) if group else 0
        if not leader or leader == self.node_id:
            return NOT_SERVED  # Or this node is just about to know what it leads.
        there = self._endpoint(leader, self._node.premises.members.get(leader))
        return Failure(b"MOVED %d %b:%d" % (slot, there.host.encode(), there.port)) if there.host else NOT_SERVED

    def count_keys(self, slot: int) -> int:
        """The keys of a slot in the copy held here; 0 without one."""
        reply = self._read_slot(slot, [b"DBSIZE"])
        return reply if isinstance(reply, int) else 0

    def keys(self, slot: int, count: int) -> list[bytes]:
        """Up to `count` keys of a slot in the copy held here, in their order."""
        reply = self._read_slot(slot, [b"KEYS", b"*"])
        return [key for key in reply[:count] if isinstance(key, bytes)] if isinstance(reply, list) else []

    def _read_slot(self, slot: int, command: list[bytes]) -> Reply | ReadOutcome:
        group = self._node.steward.partitions.slot_table[slot]
        place = b"%d" % slot
        return self._node.host.switchboard.read_local(group, [READ_WITHIN, place, place, *command])

    def _leader_of(self, group: GroupId) -> int:
        """Who leads the group and can be reached; 0 when nobody is known."""
        node = self._node
        leader = node.host.switchboard.leader_of(group)[0]
        if not leader and group not in node.host.carrier.replicas:
            leader = node.steward.board.leader_of(group)
        return leader if leader and node.premises.is_alive(leader) else 0

    def _member(self, member: Member) -> ClusterMember:
        hello = self._node.hello_of(member.id)
        peer = hello.peer if hello is not None and hello.peer else member.peer
        plain = hello.resp if hello is not None and hello.resp else member.resp
        return ClusterMember(
            member.id,
            self._endpoint(member.id, member),
            Endpoint(self._name(member.id, "plain"), *_split(plain)),
            _split(peer)[1],
            self._node.premises.is_alive(member.id),
        )

    def _endpoint(self, node: int, member: Member | None) -> Endpoint:
        """The cluster face of a node; the plain one, which does for all slots, where that has none or never told."""
        hello = self._node.hello_of(node)
        told = (hello.resp_cluster or hello.resp) if hello is not None else ""
        return Endpoint(self._name(node, "cluster"), *_split(told or (member.resp if member is not None else "")))

    def _name(self, node: int, face: str) -> str:
        cluster = self._node.steward.meta.cluster_id or self._node.config.cluster.name
        return sha1(f"{cluster}/{node}/{face}".encode(), usedforsecurity=False).hexdigest()


def _split(address: str) -> tuple[str, int]:
    return split_address(address) if address else ("", 0)
