"""SENTINEL and ROLE: every node is a Sentinel that names one of the nodes, any of which takes writes, as the master.

There is one service. Who its master is, is told in node/service_master.py; nothing can be failed over, for nothing
needs to be: a client that follows comes to a node that is alive, and one that stays is served as well.
"""

from noctule.core.keyspace.failures import wrong_arity
from noctule.core.keyspace.reply import Failure, Reply
from noctule.node.cluster_view import ClusterMember, ClusterView
from noctule.servers.resp_client import Client, Door, about_cluster
from noctule.servers.resp_families import Subcommand, family

_NO_SUCH_MASTER = Failure(b"ERR No such master with that name")
_REFUSED = Failure(
    b"ERR every node takes writes and elections need no help; nothing is monitored, failed over or reset by hand"
)
_NO_QUORUM = (
    b"NOQUORUM %d usable Sentinels. Not enough available Sentinels to reach the specified quorum for this master. "
    b"Not enough available Sentinels to reach the majority and authorize a failover"
)


def _is_known(view: ClusterView, name: bytes) -> bool:
    return name.decode("utf-8", "replace") in view.service_names


def _fields(member: ClusterMember, kind: bytes) -> dict[bytes, Reply]:
    """What Sentinel tells of any instance; times that nobody measures here are 0."""
    flags = kind if member.is_alive else kind + b",s_down,o_down,disconnected"
    return {
        b"name": b"%b:%d" % (member.plain.host.encode(), member.plain.port),
        b"ip": member.plain.host.encode(),
        b"port": b"%d" % member.plain.port,
        b"runid": member.plain.name.encode(),
        b"flags": flags,
        b"link-pending-commands": b"0",
        b"link-refcount": b"1",
        b"last-ping-sent": b"0",
        b"last-ok-ping-reply": b"0",
        b"last-ping-reply": b"0",
        b"down-after-milliseconds": b"%d" % 1_000,
    }


def _master_fields(view: ClusterView, name: bytes) -> Reply:
    members, master = view.members(), view.master()
    alive = sum(member.is_alive for member in members)
    return {
        **_fields(master, b"master"),
        b"name": name,
        b"info-refresh": b"0",
        b"role-reported": b"master",
        b"role-reported-time": b"0",
        b"config-epoch": b"%d" % view.epoch,
        b"num-slaves": b"%d" % (len(members) - 1),
        b"num-other-sentinels": b"%d" % (alive - 1),
        b"quorum": b"%d" % (len(members) // 2 + 1),
        b"failover-timeout": b"0",
        b"parallel-syncs": b"0",
    }


def _slave_fields(member: ClusterMember, master: ClusterMember) -> Reply:
    return {
        **_fields(member, b"slave"),
        b"info-refresh": b"0",
        b"role-reported": b"slave",
        b"role-reported-time": b"0",
        b"master-link-down-time": b"0",
        b"master-link-status": b"ok" if member.is_alive else b"err",
        b"master-host": master.plain.host.encode(),
        b"master-port": b"%d" % master.plain.port,
        b"slave-priority": b"100",
        b"slave-repl-offset": b"0",
        b"replica-announced": b"1",
    }


def _sentinel_fields(member: ClusterMember) -> Reply:
    return {
        **_fields(member, b"sentinel"),
        b"name": member.plain.name.encode(),
        b"last-hello-message": b"0",
        b"voted-leader": b"?",
        b"voted-leader-epoch": b"0",
    }


def _address(view: ClusterView, args: list[bytes]) -> Reply:
    if not _is_known(view, args[2]):
        return None
    place = view.master().plain
    return [place.host.encode(), b"%d" % place.port]


def _masters(view: ClusterView, _args: list[bytes]) -> Reply:
    return [_master_fields(view, name.encode()) for name in view.service_names]


def _master(view: ClusterView, args: list[bytes]) -> Reply:
    return _master_fields(view, args[2]) if _is_known(view, args[2]) else _NO_SUCH_MASTER


def _replicas(view: ClusterView, args: list[bytes]) -> Reply:
    """All other nodes, which take writes as well."""
    if not _is_known(view, args[2]):
        return _NO_SUCH_MASTER
    master = view.master()
    return [_slave_fields(member, master) for member in view.members() if member.id != master.id]


def _sentinels(view: ClusterView, args: list[bytes]) -> Reply:
    if not _is_known(view, args[2]):
        return _NO_SUCH_MASTER
    return [_sentinel_fields(member) for member in view.members() if member.id != view.node_id]


def _ckquorum(view: ClusterView, args: list[bytes]) -> Reply:
    if not _is_known(view, args[2]):
        return _NO_SUCH_MASTER
    members = view.members()
    alive = sum(member.is_alive for member in members)
    if 2 * alive > len(members):
        return b"OK %d usable Sentinels. Quorum and failover authorization can be reached" % alive
    return Failure(_NO_QUORUM % alive)


def _myid(view: ClusterView, _args: list[bytes]) -> Reply:
    return next(member.plain.name.encode() for member in view.members() if member.id == view.node_id)


def _is_master_down(view: ClusterView, args: list[bytes]) -> Reply:
    """Whether the node at that address is down as far as known here; no Sentinel is ever voted for."""
    place = args[2].decode("utf-8", "replace"), args[3]
    down = any(
        not member.is_alive and (member.plain.host, b"%d" % member.plain.port) == place for member in view.members()
    )
    return [int(down), b"*", 0]


def role(door: Door, _client: Client, args: list[bytes]) -> Reply:
    """ROLE: master, for every node takes writes; its replicas are the other nodes that are alive."""
    if len(args) != 1:
        return wrong_arity(args[0])
    view = door.cluster
    others = [m for m in view.members() if m.is_alive and m.id != view.node_id] if view is not None else []
    replicas: list[Reply] = [[m.plain.host.encode(), b"%d" % m.plain.port, b"0"] for m in others]
    return [b"master", 0, replicas]


def _refused(_door: Door, _client: Client, _args: list[bytes]) -> Reply:
    return _REFUSED


def _nothing(_door: Door, _client: Client, _args: list[bytes]) -> Reply:
    return []


SENTINEL = family(
    b"SENTINEL",
    {
        b"CKQUORUM": Subcommand(
            about_cluster(_ckquorum), 3, b"CKQUORUM <master-name>", b"Check whether most nodes are alive."
        ),
        b"FAILOVER": Subcommand(_refused, 3, b"FAILOVER <master-name>", b"Refused."),
        b"FLUSHCONFIG": Subcommand(_refused, 2, b"FLUSHCONFIG", b"Refused."),
        b"GET-MASTER-ADDR-BY-NAME": Subcommand(
            about_cluster(_address),
            3,
            b"GET-MASTER-ADDR-BY-NAME <master-name>",
            b"Return the ip and port number of the master with that name.",
        ),
        b"IS-MASTER-DOWN-BY-ADDR": Subcommand(
            about_cluster(_is_master_down),
            6,
            b"IS-MASTER-DOWN-BY-ADDR <ip> <port> <current-epoch> <runid>",
            b"Check if the node at ip:port is down from this node's point of view.",
        ),
        b"MASTER": Subcommand(
            about_cluster(_master), 3, b"MASTER <master-name>", b"Show the state and info of the specified master."
        ),
        b"MASTERS": Subcommand(about_cluster(_masters), 2, b"MASTERS", b"Show the one service under its names."),
        b"MONITOR": Subcommand(_refused, 6, b"MONITOR <name> <ip> <port> <quorum>", b"Refused."),
        b"MYID": Subcommand(about_cluster(_myid), 2, b"MYID", b"Return the ID of the Sentinel instance."),
        b"PENDING-SCRIPTS": Subcommand(_nothing, 2, b"PENDING-SCRIPTS", b"Return nothing."),
        b"REMOVE": Subcommand(_refused, 3, b"REMOVE <master-name>", b"Refused."),
        b"REPLICAS": Subcommand(
            about_cluster(_replicas), 3, b"REPLICAS <master-name>", b"Show the other nodes and their state."
        ),
        b"RESET": Subcommand(_refused, 3, b"RESET <pattern>", b"Refused."),
        b"SENTINELS": Subcommand(
            about_cluster(_sentinels), 3, b"SENTINELS <master-name>", b"Show the other nodes and their state."
        ),
        b"SET": Subcommand(_refused, -5, b"SET <master-name> <option> <value> ...", b"Refused."),
        b"SLAVES": Subcommand(
            about_cluster(_replicas), 3, b"SLAVES <master-name>", b"Show the other nodes and their state."
        ),
    },
)
"""The handler of SENTINEL."""
