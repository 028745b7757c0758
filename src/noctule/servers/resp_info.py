"""INFO and CONFIG GET: the node in Redis' words, as far as they are true of it.

Monitoring that reads Redis reads these; Noctule's own names are under ``# Noctule``, on /metrics and in /api/cluster.
"""

import platform
import sys
from collections import Counter
from hashlib import sha1

from noctule.adapters.process_stats import read_process_stats
from noctule.base.bounds import COMMAND_BYTES_MAX, VALUE_BYTES_MAX
from noctule.base.ids import META_GROUP
from noctule.core.keyspace.databases import DATABASES
from noctule.core.keyspace.glob import PATTERN_BYTES_MAX, glob_matcher
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.pubsub.message import Kind
from noctule.node.api import NodePicture
from noctule.servers.resp_client import Client, Door
from noctule.servers.resp_families import Subcommand, family

COMPATIBLE_VERSION = b"7.4.0"
"""The version of Redis that clients are told, by which they choose what to send; CLIENT SETINFO is from 7.2."""

_ALL_SECTIONS = frozenset({b"default", b"all", b"everything"})
_NO_REPLICATION_ID = "0" * 40


def info(door: Door, client: Client, args: list[bytes]) -> Reply:
    """INFO [section …]: the sections asked for in any case, in Redis' order; unknown ones are left out."""
    wanted = {section.lower() for section in args[1:]} or _ALL_SECTIONS
    sections = _sections(door, is_cluster=client.is_cluster)
    if not wanted & _ALL_SECTIONS:
        sections = {title: rows for title, rows in sections.items() if title.lower().encode() in wanted}
    blocks = [
        f"# {title}\r\n" + "".join(f"{name}:{value}\r\n" for name, value in rows.items())
        for title, rows in sections.items()
    ]
    return "\r\n".join(blocks).encode()


def _sections(door: Door, *, is_cluster: bool) -> dict[str, dict[str, object]]:
    picture, counters, subscriptions = door.picture(), door.counters(), door.pubsub.subscriptions
    stats = read_process_stats()
    resident = stats.resident_bytes if stats else 0
    return {
        "Server": _server(door, picture, is_cluster=is_cluster),
        "Clients": {
            "connected_clients": sum(1 for _ in door.clients()),
            "cluster_connections": 0,
            "maxclients": door.connections_max,
            "tracking_clients": 0,
        },
        "Memory": {
            "used_memory": resident,
            "used_memory_human": _human(resident),
            "used_memory_rss": resident,
            "used_memory_rss_human": _human(resident),
            "maxmemory": 0,
            "maxmemory_human": "0B",
            "maxmemory_policy": "noeviction",
            "mem_fragmentation_ratio": "1.00",
        },
        "Persistence": {
            "loading": 0,
            "async_loading": 0,
            "rdb_changes_since_last_save": 0,
            "rdb_bgsave_in_progress": 0,
            "rdb_last_bgsave_status": "ok",
            "aof_enabled": 1,
            "aof_rewrite_in_progress": 0,
            "aof_rewrite_scheduled": 0,
            "aof_last_bgrewrite_status": "ok",
            "aof_last_write_status": "err" if picture.storage_failure else "ok",
        },
        "Stats": {
            "total_connections_received": counters["noctule_resp_connections_total"],
            "total_commands_processed": counters["noctule_resp_commands_total"],
            "rejected_connections": counters["noctule_resp_connections_refused_total"],
            "pubsub_channels": len(subscriptions.names(Kind.CHANNEL)),
            "pubsub_patterns": len(subscriptions.names(Kind.PATTERN)),
            "pubsubshard_channels": len(subscriptions.names(Kind.SHARD)),
            "evicted_keys": 0,
            "latest_fork_usec": 0,
        },
        "Replication": _replication(door, picture),
        "CPU": {"used_cpu_total": f"{stats.cpu_s:.2f}" if stats else "0"},
        # Of the next four nothing is gathered here: /metrics counts commands and errors.
        "Modules": {},
        "Commandstats": {},
        "Errorstats": {},
        "Latencystats": {},
        "Cluster": {"cluster_enabled": int(is_cluster)},
        "Keyspace": _keyspace(picture),
        "Noctule": _noctule(picture),
    }


def _server(door: Door, picture: NodePicture, *, is_cluster: bool) -> dict[str, object]:
    return {
        "redis_version": COMPATIBLE_VERSION.decode(),
        "redis_mode": "cluster" if is_cluster else "standalone",
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "arch_bits": 64,
        "process_id": picture.pid,
        "run_id": _run_id(picture),
        "tcp_port": door.cluster_port if is_cluster else door.port,
        "server_time_usec": door.clock.wall_ms() * 1_000,
        "uptime_in_seconds": int(picture.uptime_s),
        "uptime_in_days": int(picture.uptime_s // 86_400),
        "executable": sys.executable,
        "config_file": "",
    }


def _run_id(picture: NodePicture) -> str:
    """40 hexadecimal digits of one process, as clients compare them to notice a restart."""
    facts = f"{picture.cluster_id}/{picture.node_id}/{picture.pid}"
    return sha1(facts.encode(), usedforsecurity=False).hexdigest()


def _replication(door: Door, picture: NodePicture) -> dict[str, object]:
    """Every node takes writes, so each is a master, and the others that are alive are its replicas."""
    others = []
    if door.cluster is not None:
        others = [each for each in door.cluster.members() if each.is_alive and each.id != picture.node_id]
    alive = sum(1 for peer in picture.nodes if peer.alive and peer.id != picture.node_id)
    rows: dict[str, object] = {"role": "master", "connected_slaves": alive}
    for number, each in enumerate(others):
        rows[f"slave{number}"] = f"ip={each.plain.host},port={each.plain.port},state=online,offset=0,lag=0"
    return rows | {
        "master_failover_state": "no-failover",
        "master_replid": _NO_REPLICATION_ID,
        "master_repl_offset": 0,
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
    }


def _human(count: int) -> str:
    """Bytes as Redis writes them for people."""
    for unit, letter in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if count >= unit:
            return f"{count / unit:.2f}{letter}"
    return f"{count}B"


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


def _settings(door: Door, *, is_cluster: bool) -> dict[bytes, bytes]:
    """The settings of Redis that have an honest answer; no client can change them."""
    return {
        b"appendfsync": b"always",
        b"appendonly": b"yes",
        b"client-query-buffer-limit": b"%d" % COMMAND_BYTES_MAX,
        b"cluster-enabled": b"yes" if is_cluster else b"no",
        b"cluster-require-full-coverage": b"no",
        b"databases": b"%d" % DATABASES,
        b"dir": door.picture().data_dir.encode(),
        b"maxclients": b"%d" % door.connections_max,
        b"maxmemory": b"0",
        b"maxmemory-policy": b"noeviction",
        b"notify-keyspace-events": b"",
        b"port": b"%d" % (door.cluster_port if is_cluster else door.port),
        b"proto-max-bulk-len": b"%d" % VALUE_BYTES_MAX,
        b"save": b"",
        b"slowlog-log-slower-than": b"-1",
        b"slowlog-max-len": b"0",
        b"timeout": b"0",
    }


def _config_get(door: Door, client: Client, args: list[bytes]) -> Reply:
    if any(len(pattern) > PATTERN_BYTES_MAX for pattern in args[2:]):
        return Failure(b"ERR a pattern is over PATTERN_BYTES_MAX, %d bytes" % PATTERN_BYTES_MAX)
    matchers = [glob_matcher(pattern.lower()) for pattern in args[2:]]
    settings = _settings(door, is_cluster=client.is_cluster)
    return {name: value for name, value in settings.items() if any(matches(name) for matches in matchers)}


def _config_set(_door: Door, _client: Client, _args: list[bytes]) -> Reply:
    return Failure(
        b"ERR CONFIG SET is refused: a node's settings are those of noctule.toml, NOCTULE_* and its flags, "
        b"and the cluster's are changed by noctule cluster set"
    )


def _config_rewrite(_door: Door, _client: Client, _args: list[bytes]) -> Reply:
    return Failure(b"ERR The server is running without a config file")


def _config_resetstat(_door: Door, _client: Client, _args: list[bytes]) -> Reply:
    """Accepted, and nothing is reset: whoever reads /metrics counts on counters that only rise."""
    return OK


CONFIG = family(
    b"CONFIG",
    {
        b"GET": Subcommand(_config_get, -3, b"GET <pattern> [<pattern> ...]", b"Return settings that match."),
        b"RESETSTAT": Subcommand(_config_resetstat, 2, b"RESETSTAT", b"Accepted; counters only rise."),
        b"REWRITE": Subcommand(_config_rewrite, 2, b"REWRITE", b"Refused."),
        b"SET": Subcommand(_config_set, -4, b"SET <directive> <value>", b"Refused: settings are not changed here."),
    },
)
"""The handler of CONFIG."""
