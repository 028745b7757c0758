"""The cluster itself in Consul's words: /v1/agent/self and members, /v1/status, /v1/operator; and what is not there."""

from noctule.base.ids import META_GROUP
from noctule.core.registry.bounds import VALUE_BYTES_MAX
from noctule.core.roster.members import Member, MemberState
from noctule.node.api import NodePicture
from noctule.servers.consul.call import Call
from noctule.servers.consul.durations import NS_PER_MS, render_duration
from noctule.servers.consul.errors import TEXT, ConsulError
from noctule.servers.consul.renderings import Json
from noctule.servers.consul.sessions import TTL_MS_MIN
from noctule.servers.http_route import Answer

CONSUL_VERSION = "1.8.7"
"""Whose API this is, for clients that ask for a version to decide what they may do."""

_ALIVE, _LEFT, _FAILED = 1, 3, 4
"""Serf's statuses of a member."""
_PROTOCOL = {
    "ProtocolMin": 1,
    "ProtocolMax": 5,
    "ProtocolCur": 2,
    "DelegateMin": 2,
    "DelegateMax": 5,
    "DelegateCur": 4,
}
_COORDINATE = {"Vec": [0.0] * 8, "Error": 1.5, "Adjustment": 0.0, "Height": 1e-05}
"""Of the centre, where everything is: distances are not measured."""


async def get_self(call: Call) -> Answer:
    """This node: what a client asks to know whom it talks to."""
    picture, name = call.node.picture(), call.agent.name
    node_id = _uuid_of(call, name)
    config: Json = {
        "Datacenter": call.datacenter,
        "NodeName": name,
        "NodeID": node_id,
        "Revision": f"noctule-{picture.version}",
        "Server": True,
        "Version": CONSUL_VERSION,
        # Patroni asks for it here, in ns, when a TTL was refused.
        "SessionTTLMin": TTL_MS_MIN * NS_PER_MS,
    }
    debug = {
        **config,
        "SessionTTLMin": render_duration(TTL_MS_MIN * NS_PER_MS),
        "ACLsEnabled": False,
        "DNSDomain": "consul.",
        "KVMaxValueSize": VALUE_BYTES_MAX,
        "ServerMode": True,
    }
    own = next((each for each in _members(call, picture.version) if each["Name"] == name), None)
    agent = call.agent
    stats = {
        "agent": {"checks": str(len(agent.checks())), "services": str(len(agent.services()))},
        "build": {"prerelease": "", "revision": f"noctule-{picture.version}", "version": CONSUL_VERSION},
        "consul": {"acl": "disabled", "known_datacenters": "1", "leader": _leads(picture), "server": "true"},
    }
    meta = call.state.nodes[name].meta if name in call.state.nodes else {}
    whole = {"Config": config, "DebugConfig": debug, "Coord": _COORDINATE, "Member": own, "Stats": stats, "Meta": meta}
    return call.json(whole)


async def list_members(call: Call) -> Answer:
    """Every member of the cluster, and whether this node's failure detector trusts it."""
    return call.json(_members(call, call.node.picture().version))


async def get_leader(call: Call) -> Answer:
    """The address of the node that leads the registry, as members connect to it; empty while none is known."""
    return call.json(_leader(call))


async def list_peers(call: Call) -> Answer:
    """The addresses of all members."""
    return call.json([member.peer for member in _present(call)])


async def get_raft_configuration(call: Call) -> Answer:
    """All members as voters of one Raft group; of the one that keeps the registry only some are."""
    leader = _leader(call)
    servers = [
        {
            "ID": _uuid_of(call, _name(member)),
            "Node": _name(member),
            "Address": member.peer,
            "Leader": member.peer == leader,
            "ProtocolVersion": "3",
            "Voter": True,
        }
        for member in _present(call)
    ]
    return call.json({"Servers": servers, "Index": 0})


async def list_events(call: Call) -> Answer:
    """No event: there are no user events."""
    return call.json([], headers={"X-Consul-Index": "1"})


async def fire_event(call: Call) -> Answer:
    """Refused: nobody would hear it."""
    call.require("Missing name")
    raise ConsulError(
        501, "user events are not there: watch a key, or publish on a channel of the store (PUBLISH) instead"
    )


async def list_coordinates(call: Call) -> Answer:
    """No node, for the same reason."""
    return call.json([], headers=await call.read("nodes"))


async def get_coordinate(call: Call) -> Answer:
    """No node has coordinates."""
    call.require("Missing node name")
    return Answer(404, b"", TEXT)


async def list_coordinate_datacenters(call: Call) -> Answer:
    """No datacenter: distances in the network are not measured."""
    return call.json([])


async def refuse_acl(_: Call) -> Answer:
    """As a Consul whose access control is off."""
    raise ConsulError(401, "ACL support disabled")


def _present(call: Call) -> list[Member]:
    roster = call.node.cluster.meta.roster
    return [
        member for _, member in sorted(roster.items()) if member.state in (MemberState.ACTIVE, MemberState.DRAINING)
    ]


def _members(call: Call, version: str) -> list[Json]:
    return [_member(call, member, version) for _, member in sorted(call.node.cluster.meta.roster.items())]


def _member(call: Call, member: Member, version: str) -> Json:
    host, _, port = member.peer.rpartition(":")
    is_present = member.state in (MemberState.ACTIVE, MemberState.DRAINING)
    return {
        "Name": _name(member),
        "Addr": host.strip("[]"),
        "Port": int(port or 0),
        "Tags": {
            "acls": "0",
            "build": f"{CONSUL_VERSION}:noctule-{member.version or version}",
            "dc": call.datacenter,
            "id": _uuid_of(call, _name(member)),
            "port": port,
            "raft_vsn": "3",
            "role": "consul",
            "segment": "",
            "vsn": "2",
            "vsn_max": "3",
            "vsn_min": "2",
        },
        "Status": (_ALIVE if call.node.cluster.is_alive(member.id) else _FAILED) if is_present else _LEFT,
        **_PROTOCOL,
    }


def _name(member: Member) -> str:
    return f"node-{member.id}"


def _uuid_of(call: Call, name: str) -> str:
    node = call.state.nodes.get(name)
    return "" if node is None else node.id


def _leader(call: Call) -> str:
    picture = call.node.picture()
    leader = next((group.leader for group in picture.groups if group.id == META_GROUP), None)
    return next((peer.peer for peer in picture.nodes if peer.id == leader), "")


def _leads(picture: NodePicture) -> str:
    is_leader = any(group.id == META_GROUP and group.leader == picture.node_id for group in picture.groups)
    return "true" if is_leader else "false"
