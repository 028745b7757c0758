"""CLUSTER and its subcommands: the partitions and their leaders in the shapes of Redis 7.0, on every listener.

What CLUSTER changes in Redis is refused here with a sentence that says what Noctule has in its place.
"""

from noctule.core.keyspace.failures import NOT_AN_INTEGER
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.placement.slots import SLOT_COUNT, key_slot
from noctule.node.cluster_view import ClusterMember, ClusterView, Endpoint, SlotRange
from noctule.servers.resp_client import Handler, about_cluster
from noctule.servers.resp_families import Subcommand, family

_BAD_SLOT = Failure(b"ERR Invalid slot")
_BAD_SLOT_OR_COUNT = Failure(b"ERR Invalid slot or number of keys")


def _slots(view: ClusterView, _args: list[bytes]) -> Reply:
    members = {member.id: member for member in view.members()}
    return [
        [
            each.first,
            each.last,
            _place(members[each.leader].cluster),
            *(_place(members[node].plain) for node in each.replicas if node in members),
        ]
        for each in view.ranges()
        if each.leader in members
    ]


def _place(endpoint: Endpoint) -> Reply:
    return [endpoint.host.encode(), endpoint.port, endpoint.name.encode(), {}]


def _shards(view: ClusterView, _args: list[bytes]) -> Reply:
    led = _led(view)
    shards: list[Reply] = []
    members = view.members()
    for member in members:
        ranges = led.get(member.id, [])
        # A node's slots may have their copies on different nodes; a shard's replicas have all of its slots.
        common = set.intersection(*(set(each.replicas) for each in ranges)) if ranges else set()
        nodes = [_shard_node(member.cluster, b"master", is_online=member.is_alive)]
        nodes += [_shard_node(each.plain, b"replica", is_online=True) for each in members if each.id in common]
        bounds: list[Reply] = [bound for first, last in _merged(ranges) for bound in (first, last)]
        shards.append({b"slots": bounds, b"nodes": nodes})
    return shards


def _shard_node(endpoint: Endpoint, role: bytes, *, is_online: bool) -> Reply:
    host = endpoint.host.encode()
    return {
        b"id": endpoint.name.encode(),
        b"port": endpoint.port,
        b"ip": host,
        b"endpoint": host,
        b"role": role,
        b"replication-offset": 0,
        b"health": b"online" if is_online else b"fail",
    }


def _nodes(view: ClusterView, _args: list[bytes]) -> Reply:
    led, epoch = _led(view), view.epoch
    return b"".join(
        node_line(member, led.get(member.id, []), epoch, is_self=member.id == view.node_id) for member in view.members()
    )


def node_line(member: ClusterMember, ranges: list[SlotRange], epoch: int, *, is_self: bool) -> bytes:
    """One line of CLUSTER NODES: every node takes writes, so all of them are masters, some without slots."""
    endpoint = member.cluster
    flags = b"myself,master" if is_self else b"master" if member.is_alive else b"master,fail"
    words = [
        endpoint.name.encode(),
        b"%b:%d@%d" % (endpoint.host.encode(), endpoint.port, member.peer_port),
        flags if endpoint.host else flags + b",noaddr",
        b"-",
        b"0",
        b"0",
        b"%d" % epoch,
        b"connected" if member.is_alive else b"disconnected",
        *(b"%d-%d" % (first, last) if last > first else b"%d" % first for first, last in _merged(ranges)),
    ]
    return b" ".join(words) + b"\n"


def _led(view: ClusterView) -> dict[int, list[SlotRange]]:
    led: dict[int, list[SlotRange]] = {}
    for each in view.ranges():
        led.setdefault(each.leader, []).append(each)
    return led


def _merged(ranges: list[SlotRange]) -> list[tuple[int, int]]:
    """The same slots in as few ranges as there are."""
    found: list[tuple[int, int]] = []
    for each in ranges:
        if found and found[-1][1] + 1 == each.first:
            found[-1] = (found[-1][0], each.last)
        else:
            found.append((each.first, each.last))
    return found


def _info(view: ClusterView, _args: list[bytes]) -> Reply:
    ranges = view.ranges()
    served = sum(each.last - each.first + 1 for each in ranges if each.is_served)
    facts = {
        "cluster_state": "ok" if served == SLOT_COUNT else "fail",
        "cluster_slots_assigned": SLOT_COUNT,
        "cluster_slots_ok": served,
        "cluster_slots_pfail": 0,
        "cluster_slots_fail": SLOT_COUNT - served,
        "cluster_known_nodes": len(view.members()),
        "cluster_size": len({each.leader for each in ranges}),
        "cluster_current_epoch": view.epoch,
        "cluster_my_epoch": view.epoch,
        "cluster_stats_messages_sent": 0,
        "cluster_stats_messages_received": 0,
        "total_cluster_links_buffer_limit_exceeded": 0,
    }
    return "".join(f"{name}:{value}\r\n" for name, value in facts.items()).encode()


def _myid(view: ClusterView, _args: list[bytes]) -> Reply:
    """The primary of this node's slots; in Noctule it is its shard, too."""
    return next(member.cluster.name.encode() for member in view.members() if member.id == view.node_id)


def _keyslot(_view: ClusterView, args: list[bytes]) -> Reply:
    return key_slot(args[2])


def _countkeysinslot(view: ClusterView, args: list[bytes]) -> Reply:
    slot = parse_int(args[2])
    if slot is None:
        return NOT_AN_INTEGER
    return view.count_keys(slot) if 0 <= slot < SLOT_COUNT else _BAD_SLOT


def _getkeysinslot(view: ClusterView, args: list[bytes]) -> Reply:
    slot, count = parse_int(args[2]), parse_int(args[3])
    if slot is None or count is None:
        return NOT_AN_INTEGER
    return [*view.keys(slot, count)] if 0 <= slot < SLOT_COUNT and count >= 0 else _BAD_SLOT_OR_COUNT


def _known(view: ClusterView, name: bytes) -> Failure | None:
    names = {endpoint.name.encode() for member in view.members() for endpoint in (member.cluster, member.plain)}
    return None if name.lower() in names else Failure(b"ERR Unknown node " + name[:128])


def _count_failure_reports(view: ClusterView, args: list[bytes]) -> Reply:
    """No reports are gathered here: each node judges by what it hears itself."""
    return _known(view, args[2]) or 0


def _replicas(view: ClusterView, args: list[bytes]) -> Reply:
    """None: a node's slots have their copies on different nodes. CLUSTER SLOTS names those of each range."""
    return _known(view, args[2]) or []


def _links(view: ClusterView, _args: list[bytes]) -> Reply:
    """One connection to each node that is alive, which both use."""
    return [
        {
            b"direction": b"to",
            b"node": member.cluster.name.encode(),
            b"create-time": 0,
            b"events": b"rw",
            b"send-buffer-allocated": 0,
            b"send-buffer-used": 0,
        }
        for member in view.members()
        if member.is_alive and member.id != view.node_id
    ]


def _refused(instead: bytes) -> Handler:
    failure = Failure(b"ERR Noctule moves slots by itself; " + instead)
    return lambda _door, _client, _args: failure


_BY_MIGRATION = _refused(b"noctule cluster rebalance and noctule partition move say where to")
_BY_MEMBERSHIP = _refused(b"noctule node --join and noctule cluster leave change which nodes there are")
_BY_ELECTION = _refused(b"each partition elects its leader, and noctule cluster drain takes leadership from a node")
_ALL_DURABLE = _refused(b"its map is in the log and on disk already")

CLUSTER = family(
    b"CLUSTER",
    {
        b"ADDSLOTS": Subcommand(_BY_MIGRATION, -3, b"ADDSLOTS <slot> [<slot> ...]", b"Refused."),
        b"ADDSLOTSRANGE": Subcommand(_BY_MIGRATION, -4, b"ADDSLOTSRANGE <start slot> <end slot> ...", b"Refused."),
        b"BUMPEPOCH": Subcommand(_BY_ELECTION, 2, b"BUMPEPOCH", b"Refused."),
        b"COUNT-FAILURE-REPORTS": Subcommand(
            about_cluster(_count_failure_reports),
            3,
            b"COUNT-FAILURE-REPORTS <node-id>",
            b"Return 0 for a node that is known.",
        ),
        b"COUNTKEYSINSLOT": Subcommand(
            about_cluster(_countkeysinslot), 3, b"COUNTKEYSINSLOT <slot>", b"Return the number of keys in <slot>."
        ),
        b"DELSLOTS": Subcommand(_BY_MIGRATION, -3, b"DELSLOTS <slot> [<slot> ...]", b"Refused."),
        b"DELSLOTSRANGE": Subcommand(_BY_MIGRATION, -4, b"DELSLOTSRANGE <start slot> <end slot> ...", b"Refused."),
        b"FAILOVER": Subcommand(_BY_ELECTION, -2, b"FAILOVER [FORCE|TAKEOVER]", b"Refused."),
        b"FLUSHSLOTS": Subcommand(_BY_MIGRATION, 2, b"FLUSHSLOTS", b"Refused."),
        b"FORGET": Subcommand(_BY_MEMBERSHIP, 3, b"FORGET <node-id>", b"Refused."),
        b"GETKEYSINSLOT": Subcommand(
            about_cluster(_getkeysinslot),
            4,
            b"GETKEYSINSLOT <slot> <count>",
            b"Return key names stored by current node in a slot.",
        ),
        b"INFO": Subcommand(about_cluster(_info), 2, b"INFO", b"Return information about the cluster."),
        b"KEYSLOT": Subcommand(about_cluster(_keyslot), 3, b"KEYSLOT <key>", b"Return the hash slot for <key>."),
        b"LINKS": Subcommand(about_cluster(_links), 2, b"LINKS", b"Return the connections to the other nodes."),
        b"MEET": Subcommand(_BY_MEMBERSHIP, -4, b"MEET <ip> <port> [<bus-port>]", b"Refused."),
        b"MYID": Subcommand(about_cluster(_myid), 2, b"MYID", b"Return the node id."),
        b"MYSHARDID": Subcommand(
            about_cluster(_myid), 2, b"MYSHARDID", b"Return the node id, which is the shard's, too."
        ),
        b"NODES": Subcommand(about_cluster(_nodes), 2, b"NODES", b"Return cluster configuration seen by node."),
        b"REPLICAS": Subcommand(
            about_cluster(_replicas), 3, b"REPLICAS <node-id>", b"Return nothing; SLOTS names replicas."
        ),
        b"REPLICATE": Subcommand(_BY_MIGRATION, 3, b"REPLICATE <node-id>", b"Refused."),
        b"RESET": Subcommand(_BY_MEMBERSHIP, -2, b"RESET [HARD|SOFT]", b"Refused."),
        b"SAVECONFIG": Subcommand(_ALL_DURABLE, 2, b"SAVECONFIG", b"Refused."),
        b"SET-CONFIG-EPOCH": Subcommand(_BY_ELECTION, 3, b"SET-CONFIG-EPOCH <epoch>", b"Refused."),
        b"SETSLOT": Subcommand(_BY_MIGRATION, -4, b"SETSLOT <slot> ...", b"Refused."),
        b"SHARDS": Subcommand(
            about_cluster(_shards), 2, b"SHARDS", b"Return the slots of each node, and the nodes associated with them."
        ),
        b"SLAVES": Subcommand(
            about_cluster(_replicas), 3, b"SLAVES <node-id>", b"Return nothing; SLOTS names replicas."
        ),
        b"SLOTS": Subcommand(
            about_cluster(_slots),
            2,
            b"SLOTS",
            b"Return ranges of slots, each with its leader's and its replicas' places.",
        ),
    },
)
"""The handler of CLUSTER."""
