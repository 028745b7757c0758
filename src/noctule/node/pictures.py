"""A node's picture of itself and of the cluster as it sees it: what /api/cluster and `noctule status` show."""

import os
from typing import TYPE_CHECKING

from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.databases import DATABASE_SLOTS
from noctule.core.meta.views import differing_replicas
from noctule.core.placement.partition_map import PartitionMap
from noctule.core.placement.slots import key_slot
from noctule.core.replica.replica import Replica
from noctule.core.roster.members import Member
from noctule.core.wire.frames import PROTOCOL_VERSION
from noctule.node.api import GroupPicture, NodePicture, PeerPicture

if TYPE_CHECKING:
    from noctule.node.node import LocalNode


def node_picture(node: "LocalNode") -> NodePicture:
    """A fresh one; costs microseconds for each replica here."""
    config, host, meta = node.config, node.host, node.steward.meta
    now = node.clock.now()
    groups = [group_picture(node, group, replica, meta.map) for group, replica in sorted(host.carrier.replicas.items())]
    members = node.premises.members or {
        each: Member(id=each, peer=address) for each, address in config.cluster.voters.items()
    }
    leaders = host.carrier.leaders
    return NodePicture(
        node_id=config.node_id,
        cluster=config.cluster.name,
        durability=config.cluster.durability,
        version=node.version,
        protocol_version=PROTOCOL_VERSION,
        pid=os.getpid(),
        uptime_s=round(now - node.started_at, 3),
        data_dir=str(config.data_dir),
        storage_failure=host.failure,
        draining=node.draining,
        nodes=[_peer_picture(node, members[each], leaders.count(each), now) for each in sorted(members)],
        groups=groups,
        counters={
            "noctule_commands_total": host.router.commands_total,
            "noctule_command_retries_total": host.router.retries_total,
            "noctule_elections_won_total": host.elections_total,
            "noctule_snapshots_total": host.snapshots_total,
            "noctule_wal_batches_total": host.batches_total,
            "noctule_peer_frames_total": host.frames_total,
            "noctule_peer_frames_dropped_total": node.transport.frames_dropped,
            **host.pubsub.counters(),
            **node.steward.comparer.counters(),
            **node.agent.counters(),
            **{name: value for counters in node.more_counters for name, value in counters().items()},
        },
        gauges={
            "noctule_commands_waiting": host.router.waiting,
            "noctule_clients_blocked": host.router.waiting_room.waiting,
            "noctule_registry_nodes": len(meta.registry.nodes),
            "noctule_registry_instances": len(meta.registry.instances),
            "noctule_registry_index": meta.registry.index,
            **node.agent.gauges(),
        },
        dns=node.dns,
        cluster_id=meta.cluster_id,
        epoch=meta.map.epoch,
        formed=bool(meta.cluster_id),
        differing=differing_replicas(meta.map, node.steward.board),
    )


def _peer_picture(node: "LocalNode", member: Member, leads: int, now: Instant) -> PeerPicture:
    host, is_self = node.host, member.id == node.config.node_id
    hello = node.transport.hello if is_self else host.hellos.get(member.id)
    liveness = host.liveness.describe().get(member.id)
    heard_at = liveness.heard_at if liveness is not None else None
    return PeerPicture(
        id=member.id,
        alive=node.premises.is_alive(member.id),
        peer=node.config.cluster.voters.get(member.id, member.peer),
        # A node that was met while it was starting had not opened its doors yet; the roster is told of them later.
        resp=(hello.resp if hello else "") or member.resp,
        http=(hello.http if hello else "") or member.http,
        leads=leads,
        last_contact_ms=None if heard_at is None else round((now - heard_at) * 1000),
    )


def staleness_ms(node: "LocalNode", key: bytes) -> int | None:
    """As `node.api.Node.staleness_ms`; None also where there is no replica to read."""
    replica = node.host.carrier.replicas.get(node.steward.meta.map.slot_table[key_slot(key)])
    return None if node.host.failure or replica is None else replica_staleness_ms(node, replica)


def replica_staleness_ms(node: "LocalNode", replica: Replica) -> int | None:
    """How old this node's own replica of a group may be; None when that is not known."""
    now, consensus, asleep_heard_at = node.clock.now(), replica.raft, None
    if consensus.is_quiet():
        heard = {each: picture.heard_at for each, picture in node.host.liveness.describe().items()}
        heard[node.config.node_id] = now
        asleep_heard_at = consensus.nodes_heard_at(heard)
    return replica.staleness_ms(now, asleep_heard_at)


def group_picture(node: "LocalNode", group: GroupId, replica: Replica, partitions: PartitionMap) -> GroupPicture:
    """One replica."""
    picture = replica.describe()
    raft = picture.raft
    partition = partitions.get(group)
    lag = replica.lag(node.clock.wall_ms())
    return GroupPicture(
        id=group,
        first_slot=partition.first_slot if partition else -1,
        last_slot=partition.last_slot if partition else -1,
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
        staleness_ms=replica_staleness_ms(node, replica),
        admitted=replica.raft.is_admitted(),
        database_keys=_database_keys(replica),
    )


def _database_keys(replica: Replica) -> dict[int, int]:
    slots = replica.keyspace.slots
    return {number: len(slots[slot]) for slot, number in DATABASE_SLOTS.items() if slot in slots}
