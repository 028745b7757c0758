"""What a steward needs of a simulated node; `node.premises` is that of a real one, and this keeps to its rules."""

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from noctule.base.ids import META_GROUP, GroupId
from noctule.core.placement.partition_map import Partition
from noctule.core.replica.events import Event
from noctule.core.replica.replica import Replica
from noctule.core.roster.loads import LoadReport
from noctule.core.roster.members import Member
from noctule.core.wire.messages import DigestTold
from noctule.node.address_book import AddressBook, save_address_book
from noctule.node.api import ReplySink
from noctule.node.recovery import ReplicaSettings, make_replica
from noctule.verify.sim.disk import DATA_DIRECTORY

if TYPE_CHECKING:
    from noctule.verify.sim.machine import Machine


class SimulatedPremises:
    """One machine's, for one life."""

    def __init__(self, machine: "Machine", settings: ReplicaSettings, chance: random.Random) -> None:
        self.replicas: dict[GroupId, Replica] = machine.replicas
        self.members: dict[int, Member] = {}
        """Those present, as far as *meta* is applied here."""
        self._machine = machine
        self._settings = settings
        self._chance = chance
        self._saved = AddressBook()

    @property
    def active(self) -> set[GroupId]:
        """As the carrier keeps it."""
        return self._machine.carrier.active

    @property
    def requests(self) -> dict[GroupId, int]:
        """As the switchboard counts them."""
        return self._machine.switchboard.requests

    @property
    def digests(self) -> Mapping[GroupId, Mapping[int, DigestTold]]:
        """As the machine gathers them."""
        return self._machine.digests

    def add_replica(self, partition: Partition) -> None:
        """Make it, and hand it to the machine."""
        group, now = GroupId(partition.id), self._machine.now()
        replica, records = make_replica(partition, self._settings, now, self._chance)
        self._machine.add_replica(group, replica, records)

    def mute_replica(self, group: GroupId, is_mute: bool) -> None:
        """The machine hands it nothing."""
        (self._machine.muted.add if is_mute else self._machine.muted.discard)(group)

    def remove_replica(self, group: GroupId) -> None:
        """The machine forgets it."""
        self._machine.remove_replica(group)

    def take(self, group: GroupId, event: Event) -> None:
        """To the machine."""
        self._machine.take(group, event)

    def set_members(self, cluster_id: str, members: Mapping[int, Member]) -> None:
        """Reach them and nobody else, and remember them for the next start."""
        machine = self._machine
        self.members = dict(members)
        machine.peers_changed(members.keys() - {machine.node_id})
        book = AddressBook.of(cluster_id, members.values())
        if book != self._saved:
            self._saved = book
            machine.in_disk_thread(lambda: save_address_book(DATA_DIRECTORY, book, machine.disk.files))

    def add_peer(self, member: Member) -> None:
        """Reach it too."""
        self._machine.peers_changed({*self._machine.peers, member.id})

    def is_alive(self, node: int) -> bool:
        """As the machine's failure detector says."""
        return node == self._machine.node_id or self._machine.is_trusted(node)

    def order(self, group: GroupId, args: list[bytes], sink: ReplySink) -> None:
        """Through the router."""
        self._machine.router.order(group, args, sink)

    def broadcast(self, report: LoadReport) -> None:
        """Into the next frame to each peer."""
        machine = self._machine
        for node in sorted(machine.peers):
            machine.switchboard.put(node, META_GROUP, report)
        machine.schedule_turn()

    def memory_bytes(self) -> int:
        """What the replicas' keys take; nobody measures a simulated process."""
        return sum(replica.keyspace.bytes_used for replica in self.replicas.values())

    def wall_ms(self) -> int:
        """The machine's."""
        return self._machine.wall_ms()

    def retire(self, reason: str) -> None:
        """This node no longer belongs to the cluster: it ends for good."""
        self._machine.world.retire(self._machine.node_id, reason)
