"""What a steward needs of the real node: its host, transport, disk and neighbours. The simulator has its own."""

import logging
import random
from collections.abc import Callable, Mapping

from msgspec import structs

from noctule.adapters.process_stats import resident_bytes
from noctule.adapters.snapshot_stream import SnapshotSender
from noctule.adapters.transport import PeerTransport
from noctule.base.addresses import split_address
from noctule.base.clock import Clock
from noctule.base.ids import META_GROUP, GroupId
from noctule.core.placement.partition_map import Partition
from noctule.core.replica.events import Event
from noctule.core.replica.replica import Replica
from noctule.core.roster.loads import LoadReport
from noctule.core.roster.members import Member
from noctule.core.wire.messages import DigestTold
from noctule.node.address_book import AddressBook, addresses_of, save_address_book
from noctule.node.api import ReplySink
from noctule.node.config import NodeConfig
from noctule.node.host import Host
from noctule.node.node_tls import load_tls
from noctule.node.recovery import ReplicaSettings, make_replica

log = logging.getLogger("noctule.node")


class NodePremises:
    """One real node's."""

    def __init__(
        self,
        config: NodeConfig,
        host: Host,
        transport: PeerTransport,
        settings: ReplicaSettings,
        chance: random.Random,
        clock: Clock,
    ) -> None:
        self.replicas: dict[GroupId, Replica] = host.carrier.replicas
        self.members: dict[int, Member] = {}
        """Those present, as far as *meta* is applied here."""
        self.retired: Callable[[str], None] = lambda _: None
        """Told when this node no longer belongs to the cluster, and why."""
        self._config = config
        self._host = host
        self._transport = transport
        self._settings = settings
        self._chance = chance
        self._clock = clock
        self._saved = AddressBook()
        self.bulk = SnapshotSender(lambda: transport.hello, load_tls(config), is_compressed=config.compress_snapshots)
        """By which snapshots leave."""

    @property
    def active(self) -> set[GroupId]:
        """As the carrier keeps it."""
        return self._host.carrier.active

    @property
    def requests(self) -> dict[GroupId, int]:
        """As the switchboard counts them."""
        return self._host.switchboard.requests

    @property
    def digests(self) -> dict[GroupId, dict[int, DigestTold]]:
        """As the host gathers them."""
        return self._host.digests

    def add_replica(self, partition: Partition) -> None:
        """Make it, and hand it to the host."""
        group = GroupId(partition.id)
        replica, records = make_replica(partition, self._settings, self._clock.now(), self._chance)
        self._host.add_replica(group, replica, records)
        log.debug("replica_made", extra={"fields": {"group": group, "initial": partition.initial}})

    def mute_replica(self, group: GroupId, is_mute: bool) -> None:
        """The host hands it nothing."""
        (self._host.muted.add if is_mute else self._host.muted.discard)(group)

    def remove_replica(self, group: GroupId) -> None:
        """The host forgets it."""
        self._host.remove_replica(group)
        log.info("replica_removed", extra={"fields": {"group": group}})

    def take(self, group: GroupId, event: Event) -> None:
        """To the host."""
        self._host.take(group, event)

    def set_members(self, cluster_id: str, members: Mapping[int, Member]) -> None:
        """Dial them, and remember where they are for the next start."""
        self.members = dict(members)
        first, own = self._config.cluster.voters, self._config.node_id
        self._transport.hello = structs.replace(self._transport.hello, cluster_id=cluster_id)
        addresses = addresses_of(members.values(), first, own)
        self._host.peers_changed(addresses)
        self._transport.set_peers(addresses)
        self.bulk.set_peers({member.id: self._control_of(member) for member in members.values() if member.id != own})
        book = AddressBook.of(cluster_id, members.values())
        if book != self._saved:
            self._saved = book
            self._host.in_disk_thread(lambda: save_address_book(self._config.data_dir, book))

    def _control_of(self, member: Member) -> str:
        """By its own word first: one that was started on another port is in the roster a little later."""
        hello = self._host.hellos.get(member.id)
        return (hello.control if hello is not None else "") or member.control

    def add_peer(self, member: Member) -> None:
        """Dial it."""
        addresses = {**self._transport.peers, member.id: split_address(member.peer)}
        self._host.peers_changed(addresses)
        self._transport.set_peers(addresses)

    def is_alive(self, node: int) -> bool:
        """As the host's failure detector says."""
        return node == self._config.node_id or self._host.is_trusted(node)

    def order(self, group: GroupId, args: list[bytes], sink: ReplySink) -> None:
        """Through the router."""
        self._host.router.order(group, args, sink)

    def broadcast(self, report: LoadReport) -> None:
        """Into the next frame to each connected peer."""
        for node in self._transport.peers:
            if self._transport.is_connected(node):
                self._host.switchboard.put(node, META_GROUP, report)
        self._host.schedule_turn()

    def memory_bytes(self) -> int:
        """Resident, by the system."""
        return resident_bytes()

    def wall_ms(self) -> int:
        """By the system."""
        return self._clock.wall_ms()

    def retire(self, reason: str) -> None:
        """Once."""
        told, self.retired = self.retired, lambda _: None
        told(reason)
