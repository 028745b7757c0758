"""INFO and CONFIG GET: the node in Redis' words, as far as they are true of it.

Monitoring that reads Redis reads these; Noctule's own names are under ``# Noctule``, on /metrics and in /api/cluster.
"""

import platform
from collections import Counter

from noctule.adapters.process_stats import read_process_stats
from noctule.base.bounds import VALUE_BYTES_MAX
from noctule.base.ids import META_GROUP
from noctule.core.keyspace.databases import DATABASES
from noctule.core.keyspace.glob import PATTERN_BYTES_MAX, glob_matcher
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.pubsub.message import Kind
from noctule.node.api import NodePicture
from noctule.servers.resp_client import Client, Door, Handler
from noctule.servers.resp_families import Subcommand, family

COMPATIBLE_VERSION = b"7.4.0"
"""The version of Redis that clients are told, by which they choose what to send; CLIENT SETINFO is from 7.2."""

_ALL_SECTIONS = frozenset({b"default", b"all", b"everything"})


def info(door: Door, _client: Client, args: list[bytes]) -> Reply:
    """INFO [section …]: the sections asked for in any case, in Redis' order; unknown ones are left out."""
    wanted = {section.lower() for section in args[1:]} or _ALL_SECTIONS
    sections = _sections(door)
    if not wanted & _ALL_SECTIONS:
        sections = {title: rows for title, rows in sections.items() if title.lower().encode() in wanted}
    blocks = [
        f"# {title}\r\n" + "".join(f"{name}:{value}\r\n" for name, value in rows.items())
        for title, rows in sections.items()
    ]
    return "\r\n".join(blocks).encode()


def _sections(door: Door) -> dict[str, dict[str, object]]:
    picture, counters, subscriptions = door.picture(), door.counters(), door.pubsub.subscriptions
    stats = read_process_stats()
    return {
        "Server": {
            "redis_version": COMPATIBLE_VERSION.decode(),
            "redis_mode": "standalone",
            "os": f"{platform.system()} {platform.release()} {platform.machine()}",
            "process_id": picture.pid,
            "tcp_port": door.port,
            "uptime_in_seconds": int(picture.uptime_s),
            "uptime_in_days": int(picture.uptime_s // 86_400),
        },
        "Clients": {"connected_clients": sum(1 for _ in door.clients()), "maxclients": door.connections_max},
        "Memory": {
            "used_memory_rss": stats.resident_bytes if stats else 0,
            "maxmemory": 0,
            "maxmemory_policy": "noeviction",
        },
        "Persistence": {
            "loading": 0,
            "aof_enabled": 1,
            "aof_last_write_status": "err" if picture.storage_failure else "ok",
        },
        "Stats": {
            "total_connections_received": counters["noctule_resp_connections_total"],
            "total_commands_processed": counters["noctule_resp_commands_total"],
            "rejected_connections": counters["noctule_resp_connections_refused_total"],
            "pubsub_channels": len(subscriptions.names(Kind.CHANNEL)),
            "pubsub_patterns": len(subscriptions.names(Kind.PATTERN)),
            "pubsubshard_channels": len(subscriptions.names(Kind.SHARD)),
        },
        "Replication": {
            "role": "master",
            "connected_slaves": sum(1 for peer in picture.nodes if peer.alive and peer.id != picture.node_id),
        },
        "CPU": {"used_cpu_total": f"{stats.cpu_s:.2f}" if stats else "0"},
        "Cluster": {"cluster_enabled": 0},
        "Keyspace": _keyspace(picture),
        "Noctule": _noctule(picture),
    }


def _keyspace(picture: NodePicture) -> dict[str, object]:
    """The keys of this node's replicas by database, without those of *meta*; those that have none are left out."""
    groups = [group for group in picture.groups if group.id != META_GROUP]
    counts = Counter({0: sum(group.keys for group in groups)})
    for group in groups:
        counts.update(group.database_keys)
        counts[0] -= sum(group.database_keys.values())
    return {f"db{number}": f"keys={count}" for number, count in sorted(counts.items()) if count}


def _noctule(picture: NodePicture) -> dict[str, object]:
    return {
        "noctule_version": picture.version,
        "cluster": picture.cluster,
        "node_id": picture.node_id,
        "nodes": len(picture.nodes),
        "nodes_alive": sum(peer.alive for peer in picture.nodes),
        "groups": len(picture.groups),
        "groups_led": sum(group.leader == picture.node_id for group in picture.groups),
        "draining": int(picture.draining),
        # A reason may quote an operating system's message, and a line break would begin a field of its own.
        "storage_failure": " ".join(picture.storage_failure.split()),
        **picture.counters,
        **picture.gauges,
    }


def _settings(door: Door) -> dict[bytes, bytes]:
    """The settings of Redis that have an honest answer; no client can change them."""
    return {
        b"appendfsync": b"always",
        b"appendonly": b"yes",
        b"cluster-enabled": b"no",
        b"databases": b"%d" % DATABASES,
        b"maxclients": b"%d" % door.connections_max,
        b"maxmemory": b"0",
        b"maxmemory-policy": b"noeviction",
        b"port": b"%d" % door.port,
        b"proto-max-bulk-len": b"%d" % VALUE_BYTES_MAX,
        b"save": b"",
        b"timeout": b"0",
    }


def _config_get(door: Door, _client: Client, args: list[bytes]) -> Reply:
    if any(len(pattern) > PATTERN_BYTES_MAX for pattern in args[2:]):
        return Failure(b"ERR a pattern is over PATTERN_BYTES_MAX, %d bytes" % PATTERN_BYTES_MAX)
    matchers = [glob_matcher(pattern.lower()) for pattern in args[2:]]
    return {name: value for name, value in _settings(door).items() if any(matches(name) for matches in matchers)}


CONFIG: Handler = family(
    b"CONFIG",
    {b"GET": Subcommand(_config_get, -3, b"GET <pattern> [<pattern> ...]", b"Return settings that match.")},
)
"""The handler of CONFIG."""
