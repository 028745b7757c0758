"""One node without its doors: disk, peers, replicas and router, started and stopped in order.

Here belongs the wiring of one process and its picture of itself. What clients see of it is in `servers`.
"""

import logging
import os
import random
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import blake2b

from msgspec import structs

from noctule.adapters.files import DirectoryLock
from noctule.adapters.transport import PeerTransport
from noctule.adapters.wal import Wal
from noctule.adapters.wal_format import WalIdentity
from noctule.adapters.wal_writer import WalWriter
from noctule.base.clock import Clock
from noctule.base.errors import DamagedLogError
from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.placement.slots import key_slot, partition_table, slot_range
from noctule.core.raft.config import RaftConfig
from noctule.core.replica.durability import Durability
from noctule.core.replica.replica import Replica, SnapshotPolicy
from noctule.core.wire.frames import PROTOCOL_VERSION, Hello
from noctule.node.api import GroupPicture, NodePicture, PeerPicture, Store
from noctule.node.config import NodeConfig
from noctule.node.data_folder import DataFolder, claim_data_folder, lock_data_folder
from noctule.node.host import Host
from noctule.node.peer_folders import PeerFolders
from noctule.node.recovery import ReplicaSettings, preferred_leader, recover_or_return
from noctule.node.replication import ReplicationManager
from noctule.node.router import Router

log = logging.getLogger("noctule.node")

FIRST_TIMEOUT_S = 0.25
"""The preferred leader of a group campaigns so long after its start: by then nodes started together have met."""


class LocalNode:
    """A running node, as `node.api.Node` describes it. `open` recovers and starts it, `stop` ends it."""

    def __init__(
        self,
        config: NodeConfig,
        host: Host,
        transport: PeerTransport,
        wal: Wal,
        lock: DirectoryLock,
        clock: Clock,
        version: str,
    ) -> None:
        self.config = config
        self.host = host
        self.store: Store = host.router
        self.meta: Store = host.router.meta
        self.replication = ReplicationManager(self)
        self.transport = transport
        self.peer_port = 0
        self.draining = False
        self.more_counters: list[Callable[[], dict[str, int]]] = []
        """Of the doors, for the picture."""
        self._wal = wal
        self._lock = lock
        self._clock = clock
        self._version = version
        self._started_at = clock.now()
        self._slot_table = partition_table(config.cluster.partition_count)

    @classmethod
    async def open(cls, config: NodeConfig, clock: Clock, version: str) -> "LocalNode":
        """Claim the data folder, recover what it holds, and listen for peers.

        Raises `ConfigError` or `StorageError`; nothing is left running then. `join` must follow.
        """
        lock = lock_data_folder(config)
        chance = random.Random(int.from_bytes(os.urandom(16), "big"))
        cluster = config.cluster
        voters = tuple(sorted(cluster.voters))
        slot_table = partition_table(cluster.partition_count)
        with ExitStack() as on_error:
            on_error.callback(lock.release)
            folder = claim_data_folder(config, chance)
            peer_folders = PeerFolders(config.data_dir)
            wal, snapshots, replicas = recover_or_return(
                folder,
                WalIdentity(cluster.name, config.node_id),
                [META_GROUP, *(GroupId(number) for number in range(1, cluster.partition_count + 1))],
                _replica_settings(config, voters),
                segment_bytes_max=config.segment_bytes_max,
                now=clock.now(),
                chance=chance,
                on_damage=_tell_damage,
            )
            on_error.callback(wal.close)
            hello = _hello(config, folder, chance)
            host = Host(
                node_id=config.node_id,
                replicas=replicas,
                preferred_leader=lambda group: preferred_leader(group, voters),
                router=lambda switchboard: Router(
                    slot_table=slot_table,
                    dispatch=switchboard,
                    new_origin=lambda: chance.getrandbits(62),
                    now=clock.now,
                    request_deadline_s=config.request_deadline_s,
                    site=site_of(cluster.name),
                ),
                snapshots=snapshots,
                clock=clock,
            )
            addresses = {node: _split(address) for node, address in cluster.voters.items() if node != config.node_id}
            transport = PeerTransport(hello, addresses, host, chance, peer_folders.admit)
            node = cls(config, host, transport, wal, lock, clock, version)
            node.peer_port = await transport.listen(config.host, config.peer_port)
            on_error.pop_all()
        host.attach(WalWriter(wal, host.batch_durable, host.disk_failed), transport)
        return node

    def join(self, resp: str, http: str) -> None:
        """Tell peers where clients find this node, dial them, and begin to keep time."""
        self.transport.hello = structs.replace(self.transport.hello, resp=resp, http=http)
        self.host.start()
        self.transport.dial()

    async def stop(self) -> None:
        """Hand leadership over, finish what the disk was given, leave. Being killed instead loses nothing either."""
        await self.host.stop()
        await self.transport.close()
        try:
            self._wal.close()
        finally:
            self._lock.release()

    # The Node that servers see ---------------------------------------------------------------------------------------

    def readiness(self) -> str:
        """Empty when this node can serve every group; else the first reason why not."""
        if self.draining:
            return "draining"
        if self.host.failure:
            return f"the disk failed: {self.host.failure}"
        for group, replica in self.host.carrier.replicas.items():
            leader = replica.raft.leader
            if not leader:
                refusals = "; ".join(self.transport.refusals.values())
                return f"group {group} has no leader" + (f": {refusals}" if refusals else "")
            if leader != self.config.node_id and not self.transport.is_connected(leader):
                return f"node {leader}, which leads group {group}, cannot be reached"
        waiting = [str(group) for group, replica in self.host.carrier.replicas.items() if not _is_admitted(replica)]
        if waiting:
            return f"this node has lost what it had on disk and waits to be readmitted to group {', '.join(waiting)}"
        return ""

    def staleness_ms(self, key: bytes) -> int | None:
        """As `node.api.Node` says."""
        replica = self.host.carrier.replicas[self._slot_table[key_slot(key)]]
        return None if self.host.failure else replica.staleness_ms(self._clock.now())

    def picture(self) -> NodePicture:
        """A fresh picture of this node and of the cluster as it sees it."""
        config, host = self.config, self.host
        now = self._clock.now()
        replicas = host.carrier.replicas
        groups = [self._group_picture(group, replica) for group, replica in replicas.items()]
        leads: dict[int, int] = {}
        for group in groups:
            if group.leader is not None:
                leads[group.leader] = leads.get(group.leader, 0) + 1
        return NodePicture(
            node_id=config.node_id,
            cluster=config.cluster.name,
            durability=config.cluster.durability,
            version=self._version,
            protocol_version=PROTOCOL_VERSION,
            pid=os.getpid(),
            uptime_s=round(now - self._started_at, 3),
            data_dir=str(config.data_dir),
            storage_failure=host.failure,
            draining=self.draining,
            nodes=[self._peer_picture(node, leads.get(node, 0), now) for node in sorted(config.cluster.voters)],
            groups=groups,
            counters={
                "noctule_commands_total": host.router.commands_total,
                "noctule_command_retries_total": host.router.retries_total,
                "noctule_elections_won_total": host.elections_total,
                "noctule_snapshots_total": host.snapshots_total,
                "noctule_wal_batches_total": host.batches_total,
                "noctule_peer_frames_total": host.frames_total,
                "noctule_peer_frames_dropped_total": self.transport.frames_dropped,
                **{name: value for counters in self.more_counters for name, value in counters().items()},
            },
            gauges={"noctule_commands_waiting": host.router.waiting},
        )

    def _peer_picture(self, node: int, leads: int, now: Instant) -> PeerPicture:
        is_self = node == self.config.node_id
        hello = self.transport.hello if is_self else self.host.hellos.get(node)
        heard_at = self.host.heard_at.get(node)
        last_contact_ms = None if is_self or heard_at is None else round((now - heard_at) * 1000)
        timeout_ms = self.config.election_timeout_ms_max
        is_heard = last_contact_ms is not None and last_contact_ms < timeout_ms and self.transport.is_connected(node)
        return PeerPicture(
            id=node,
            alive=is_self or is_heard,
            peer=self.config.cluster.voters[node],
            resp=hello.resp if hello else "",
            http=hello.http if hello else "",
            leads=leads,
            last_contact_ms=last_contact_ms,
        )

    def _group_picture(self, group: GroupId, replica: Replica) -> GroupPicture:
        picture = replica.describe()
        raft = picture.raft
        partition_count = self.config.cluster.partition_count
        first, last = slot_range(group, partition_count) if group != META_GROUP else (-1, -1)
        lag = replica.lag(self._clock.wall_ms())
        return GroupPicture(
            id=group,
            first_slot=first,
            last_slot=last,
            role=raft.role,
            leader=raft.leader or None,
            term=raft.term,
            commit_index=raft.commit_index,
            applied_index=raft.applied_index,
            last_index=raft.last_index,
            snapshot_index=raft.snapshot_index,
            keys=picture.keys,
            lag={peer: each.entries for peer, each in lag.items()},
            lag_bytes={peer: each.bytes for peer, each in lag.items()},
            lag_s={peer: each.seconds for peer, each in lag.items()},
            staleness_ms=replica.staleness_ms(self._clock.now()),
            admitted=_is_admitted(replica),
        )


def site_of(cluster: str) -> bytes:
    """The site under which this cluster changes values that other clusters change, too."""
    return blake2b(cluster.encode(), digest_size=8).hexdigest().encode()


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _replica_settings(config: NodeConfig, voters: tuple[int, ...]) -> ReplicaSettings:
    return ReplicaSettings(
        node_id=config.node_id,
        voters=voters,
        raft=RaftConfig(
            heartbeat_s=config.heartbeat_ms / 1000,
            election_timeout_s_min=config.election_timeout_ms_min / 1000,
            election_timeout_s_max=config.election_timeout_ms_max / 1000,
            lease_s=config.cluster.lease_ms / 1000,
        ),
        policy=SnapshotPolicy(entries=config.snapshot_entries),
        durability=Durability(config.cluster.durability),
        first_timeout_s=FIRST_TIMEOUT_S,
    )


def _hello(config: NodeConfig, folder: DataFolder, chance: random.Random) -> Hello:
    return Hello(
        protocol=PROTOCOL_VERSION,
        cluster=config.cluster.name,
        fingerprint=config.cluster.fingerprint(),
        node_id=config.node_id,
        incarnation=chance.getrandbits(48),
        folder=folder.owner.folder,
        directory=folder.directory,
    )


def _tell_damage(damage: DamagedLogError, directory: int) -> None:
    fields = {"file": damage.file, "byte": damage.byte, "reason": damage.why, "directory": directory}
    log.error("log_damaged", extra={"fields": fields})


def _is_admitted(replica: Replica) -> bool:
    """Whether the group counts on this replica as it did before: it is known by its directory, and is no learner that
    is yet to be made a voter again."""
    consensus = replica.raft
    membership = consensus.log.committed_membership(consensus.applied)
    is_known = membership.directory_of(consensus.node_id) == consensus.directory
    return is_known and consensus.node_id not in membership.returning
