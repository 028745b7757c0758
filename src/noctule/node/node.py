"""One node without its doors: disk, peers, replicas, router and steward, started and stopped in order.

Here belongs the wiring of one process. Its picture of itself is pictures.py; what clients see of it is in `servers`.
"""

import logging
import os
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from hashlib import blake2b

from msgspec import structs

from noctule.adapters.control import MemberFacts
from noctule.adapters.files import DirectoryLock
from noctule.adapters.lua_engine import LuaEngine
from noctule.adapters.peer_connections import refusal_of
from noctule.adapters.transport import PeerTransport
from noctule.adapters.wal import Wal
from noctule.adapters.wal_format import WalIdentity
from noctule.adapters.wal_writer import WalWriter
from noctule.base.clock import Clock
from noctule.base.errors import DamagedLogError
from noctule.base.ids import META_GROUP
from noctule.core.meta.operations import Answer, Operation
from noctule.core.placement.partition_map import PartitionMap
from noctule.core.raft.config import RaftConfig
from noctule.core.replica.carry_out import FIRST_WAIT_S
from noctule.core.replica.durability import Durability
from noctule.core.replica.replica import SnapshotPolicy
from noctule.core.roster.features import FEATURES
from noctule.core.roster.members import PRESENT, Member
from noctule.core.wire.frames import PROTOCOL_VERSION
from noctule.core.wire.messages import Hello
from noctule.node.address_book import addresses_of, load_address_book
from noctule.node.administration import Administration
from noctule.node.agent.agent import LocalAgent
from noctule.node.api import NodePicture, Store
from noctule.node.cluster_face import ClusterRoutes, Face, StrictRoutes
from noctule.node.cluster_view import ClusterView
from noctule.node.config import NodeConfig
from noctule.node.data_folder import DataFolder, claim_data_folder, lock_data_folder
from noctule.node.governor import META_VOTERS_MAX, Founding
from noctule.node.host import Host
from noctule.node.node_tls import load_tls
from noctule.node.peer_folders import PeerFolders
from noctule.node.pictures import node_picture, staleness_ms
from noctule.node.premises import NodePremises
from noctule.node.proposals import Proposals, ask_meta
from noctule.node.recovery import ReplicaSettings, make_child, recover_or_return
from noctule.node.registry_door import RegistryDoor
from noctule.node.replication import ReplicationManager
from noctule.node.router import Router
from noctule.node.scripts import Scripts
from noctule.node.steward import Steward, wants_replica
from noctule.node.watch import Watch

log = logging.getLogger("noctule.node")

SEEN_S_MAX = 5.0
"""How long this node's own replica of *meta* may take to apply what the group has agreed on."""
QUIET_HEARTBEATS = 1
"""A group in which nothing happened for so many heartbeats goes quiet: each one more is a round of messages for each
command of a group that has few of them."""
QUIET_HEARTBEATS_WITH_LEASE = 2
"""The same where leaders hold leases. Fewer would take its lease from a group that is read all the time."""


class LocalNode:
    """A running node, as `node.api.Node` describes it. `open` recovers and starts it, `stop` ends it."""

    def __init__(
        self,
        config: NodeConfig,
        host: Host,
        transport: PeerTransport,
        steward: Steward,
        premises: NodePremises,
        wal: Wal,
        lock: DirectoryLock,
        clock: Clock,
        chance: random.Random,
        version: str,
    ) -> None:
        self.config = config
        self.host = host
        self.steward = steward
        self.premises = premises
        self.store: Store = Face(StrictRoutes(host.router)) if config.resp_strict_slots else host.router
        self.meta: Store = host.router.meta
        self.scripts = Scripts(self.meta, LuaEngine(), clock.now)
        self.replication = ReplicationManager(self)
        self.transport = transport
        self.version = version
        self.started_at = clock.now()
        self.clock = clock
        self.peer_port = 0
        self.dns = ""
        """host:port of its DNS door; empty while it has none."""
        self.draining = False
        self.more_counters: list[Callable[[], dict[str, int]]] = []
        """Of the doors, for the picture."""
        self.watch = Watch()
        """Rung whenever *meta* has changed here, and again when the steward has seen to what follows from that."""
        self.registry = RegistryDoor(self)
        self._meta_seen: tuple[int, int] = (0, -1)
        steward.changed = self.watch.ring
        host.turned = self._look_at_meta
        self.agent = LocalAgent(
            config.node_id,
            config.data_dir,
            self.registry,
            self.watch,
            clock,
            chance,
            member_count=lambda: len(premises.members),
            output_after_s=config.check_update_interval_s,
        )
        """To be started once the node has joined."""
        self.cluster = Administration(self)
        self.cluster_view = ClusterView(self)
        """The same in the words of Redis Cluster."""
        self.cluster_store: Store = Face(ClusterRoutes(host.router, host.switchboard.slots_led, self.cluster_view))
        """The door that answers for what this node leads, and tells where the rest is."""
        self._wal = wal
        self._lock = lock

    @classmethod
    async def open(cls, config: NodeConfig, clock: Clock, version: str) -> "LocalNode":
        """Claim the data folder, recover what it holds, and listen for peers.

        Raises `ConfigError` or `StorageError`; nothing is left running then. `join` must follow.
        """
        lock = lock_data_folder(config)
        chance = random.Random(int.from_bytes(os.urandom(16), "big"))
        cluster = config.cluster
        partitions = PartitionMap()
        with ExitStack() as on_error:
            on_error.callback(lock.release)
            folder = claim_data_folder(config, chance)
            peer_folders = PeerFolders(config.data_dir)
            book = load_address_book(config.data_dir)
            settings = _replica_settings(config, folder)
            wal, snapshots, replicas = recover_or_return(
                folder,
                WalIdentity(cluster.name, config.node_id),
                [META_GROUP],
                settings,
                segment_bytes_max=config.segment_bytes_max,
                now=clock.now(),
                chance=chance,
                on_damage=_tell_damage,
                members_known=len(book.members),
            )
            on_error.callback(wal.close)
            # What is made from now on promises nothing in the name of a directory whose log was lost.
            settings = replace(settings, directory=folder.directory)
            host = Host(
                node_id=config.node_id,
                replicas=replicas,
                router=lambda switchboard: Router(
                    partitions=partitions,
                    dispatch=switchboard,
                    new_origin=lambda: chance.getrandbits(62),
                    now=clock.now,
                    request_deadline_s=config.request_deadline_s,
                    site=site_of(cluster.name),
                    keeps_leases=settings.raft.lease_s > 0,
                    acknowledges_early=settings.durability is Durability.LEADER,
                ),
                partitions=partitions,
                make_child=lambda split, now: (
                    make_child(split, settings, now, chance)
                    if wants_replica(partitions, split.child, config.node_id)
                    else None
                ),
                snapshots=snapshots,
                clock=clock,
            )
            hello = structs.replace(_hello(config, folder, chance, version), cluster_id=book.cluster_id)
            known = {member.id: member for member in book.members} | {
                node: _named(config, node) for node in cluster.voters
            }
            addresses = addresses_of(known.values(), cluster.voters, config.node_id)
            transport = PeerTransport(hello, host, chance, peer_folders.admit, load_tls(config))
            transport.set_peers(addresses)
            host.peers_changed(addresses)
            premises = NodePremises(config, host, transport, settings, chance, clock)
            proposals = Proposals(host.router.operate, clock.now)
            steward = Steward(
                config.node_id,
                partitions,
                premises,
                proposals,
                host.switchboard.map_changed,
                host.switchboard.features_changed,
                chance,
            )
            transport.farewell, transport.dismissed = steward.farewell, premises.retire
            transport.meet = steward.meet
            if cluster.voters:
                steward.governor.founding = _founding(config, chance)
            node = cls(config, host, transport, steward, premises, wal, lock, clock, chance, version)
            node.peer_port = await transport.listen(config.host, config.peer_port)
            on_error.pop_all()
        host.attach(
            WalWriter(wal, host.batch_durable, host.disk_failed, in_kernel=True), transport, steward, premises.bulk
        )
        return node

    def join(self, resp: str, http: str, control: str = "", resp_cluster: str = "") -> None:
        """Tell peers where clients find this node, dial them, and begin to keep time."""
        peer = f"{self.config.advertise_host}:{self.peer_port}"
        own = self.transport.hello
        hello = structs.replace(own, resp=resp, http=http, control=control, peer=peer, resp_cluster=resp_cluster)
        self.transport.hello = hello
        self.steward.own = hello.member(peer)
        self.host.start()
        self.transport.dial()

    async def stop(self) -> None:
        """Hand leadership over, finish what the disk was given, leave. Being killed instead loses nothing either."""
        await self.host.stop()
        await self.premises.bulk.close()
        await self.transport.close()
        try:
            self._wal.close()
        finally:
            self._lock.release()

    # The Node that servers see ---------------------------------------------------------------------------------------

    def readiness(self) -> str:
        """Empty when this node can serve every group it has; else the first reason why not."""
        host = self.host
        if self.draining:
            return "draining"
        if host.failure:
            return f"the disk failed: {host.failure}"
        leaders = host.carrier.leaders
        refusals = "; ".join(self.transport.refusals.values())
        if (group := leaders.any_led_by(0)) is not None:
            return f"group {group} has no leader" + (f": {refusals}" if refusals else "")
        for node in leaders.nodes():
            if node != self.config.node_id and not self.transport.is_connected(node):
                return f"node {node}, which leads group {leaders.any_led_by(node)}, cannot be reached"
        if not self.steward.meta.cluster_id:
            return "the cluster is not formed yet"
        if lacking := sorted(self.steward.meta.features.difference(FEATURES)):
            return f"the cluster uses the features {lacking}, which this release does not have: upgrade this node"
        if closed := sorted(self._features_to_come()):
            return f"the features {closed}, which every node has, are not opened yet"
        if not self.steward.is_settled:
            return "this node is still making or removing replicas that the map gives or takes"
        if waiting := host.groups_not_admitted():
            groups = ", ".join(map(str, waiting))
            return f"this node has lost what it had on disk and waits to be readmitted to group {groups}"
        return ""

    def _features_to_come(self) -> set[str]:
        """What every member has said here that it can do, and *meta* is about to allow: until then it is refused."""
        meta = self.steward.meta
        present = [member for member in meta.roster.values() if member.state in PRESENT]
        said = [set((self.hello_of(member.id) or member).features) for member in present]
        return set.intersection(*said) - meta.features if said else set()

    def hello_of(self, node: int) -> Hello | None:
        """What a node last said of itself, also this one; None of one that was not heard since this process began."""
        return self.transport.hello if node == self.config.node_id else self.transport.hellos.get(node)

    def refusal_of_sender(self, hello: Hello) -> str:
        """Why whoever says this must not send snapshots; empty for a member of this cluster."""
        refusal = refusal_of(self.transport.hello, hello, None)
        if not refusal and hello.node_id not in self.transport.peers:
            refusal = f"node {hello.node_id} is not a member of the cluster of node {self.config.node_id}"
        return refusal or self.transport.admit(hello)

    def staleness_ms(self, key: bytes) -> int | None:
        """As `node.api.Node` says."""
        return staleness_ms(self, key)

    def publish(self, channel: bytes, payload: bytes, *, sharded: bool) -> int:
        """Tell the subscribers of all nodes, once; returns how often one of this node was told."""
        return self.host.pubsub.publish(channel, payload, sharded=sharded)

    def picture(self) -> NodePicture:
        """A fresh picture of this node and of the cluster as it sees it."""
        return node_picture(self)

    def _look_at_meta(self) -> None:
        """Wake who waits for *meta* at once, and not when the steward next looks: that is up to 10 ms later."""
        meta = self.steward.meta
        seen = (id(meta), meta.version)
        if seen != self._meta_seen:
            self._meta_seen = seen
            self.registry.meta_changed()
            self.watch.ring()

    async def operate(self, operation: Operation) -> Answer:
        """Have *meta* do an operation; returns what it answered, once this node sees it done too.

        A node that hears nothing of *meta* for `SEEN_S_MAX` returns all the same, for it is done.
        Raises `RequestError` when it is refused, `UnavailableError` when nothing was done in time, and
        `OutcomeUnknownError` when that is not known.
        """
        version, answer = await ask_meta(self.host.router.operate, operation)
        await self.watch.until(lambda: self.steward.meta.version >= version, SEEN_S_MAX)
        return answer


def site_of(cluster: str) -> bytes:
    """The site under which this cluster changes values that other clusters change, too."""
    return blake2b(cluster.encode(), digest_size=8).hexdigest().encode()


def facts_of(config: NodeConfig, version: str) -> MemberFacts:
    """What a node says of itself when it joins; ports that the system chooses are told later."""
    return MemberFacts(
        peer=f"{config.advertise_host}:{config.peer_port}",
        labels=_labels(config),
        weight=config.weight,
        version=version,
        features=FEATURES,
    )


def _labels(config: NodeConfig) -> dict[str, str]:
    return {"host": config.advertise_host} | config.labels


def _named(config: NodeConfig, node: int) -> Member:
    """A member of which nothing is known but what the settings say."""
    return Member(id=node, peer=config.cluster.voters[node])


def _founding(config: NodeConfig, chance: random.Random) -> Founding:
    cluster = config.cluster
    return Founding(
        cluster_id=f"{chance.getrandbits(64):016x}",
        members=tuple(_named(config, node) for node in sorted(cluster.voters)),
        partition_count=cluster.partition_count,
        replication_factor=cluster.replication_factor,
        settings={
            "migrations_concurrent_max": cluster.migrations_concurrent_max,
            "migration_chunk_bytes": cluster.migration_chunk_bytes,
            "migration_timeout_s": cluster.migration_timeout_s,
        },
    )


def _replica_settings(config: NodeConfig, folder: DataFolder) -> ReplicaSettings:
    quiet_heartbeats = QUIET_HEARTBEATS_WITH_LEASE if config.cluster.lease_ms else QUIET_HEARTBEATS
    return ReplicaSettings(
        node_id=config.node_id,
        voters=tuple(sorted(config.cluster.voters)[:META_VOTERS_MAX]),
        raft=RaftConfig(
            heartbeat_s=config.heartbeat_ms / 1000,
            election_timeout_s_min=config.election_timeout_ms_min / 1000,
            election_timeout_s_max=config.election_timeout_ms_max / 1000,
            lease_s=config.cluster.lease_ms / 1000,
            chunk_bytes_max=config.cluster.migration_chunk_bytes,
            quiet_after_s=quiet_heartbeats * config.heartbeat_ms / 1000,
        ),
        policy=SnapshotPolicy(entries=config.snapshot_entries),
        durability=Durability(config.cluster.durability),
        first_timeout_s=FIRST_WAIT_S,
        first_partitions=config.cluster.partition_count,
        directory=folder.directory,
        engine=LuaEngine(),
    )


def _hello(config: NodeConfig, folder: DataFolder, chance: random.Random, version: str) -> Hello:
    return Hello(
        protocol=PROTOCOL_VERSION,
        cluster=config.cluster.name,
        fingerprint=config.cluster.fingerprint(),
        node_id=config.node_id,
        incarnation=chance.getrandbits(48),
        folder=folder.owner.folder,
        directory=folder.directory,
        labels=_labels(config),
        weight=config.weight,
        version=version,
        features=FEATURES,
    )


def _tell_damage(damage: DamagedLogError, directory: int) -> None:
    fields = {"file": damage.file, "byte": damage.byte, "reason": damage.why, "directory": directory}
    log.error("log_damaged", extra={"fields": fields})
