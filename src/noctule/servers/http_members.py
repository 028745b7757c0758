"""The members of the cluster over HTTP: who they are, and what is wanted of each."""

from msgspec import Struct

from noctule.base.errors import RequestError
from noctule.core.meta.operations import Operation, SetMemberState, UpdateMember
from noctule.core.meta.views import MemberView, Reach, view_members
from noctule.core.placement.risk import Risk
from noctule.core.roster.members import MemberState
from noctule.node.api import Administration
from noctule.servers.http_errors import NotFoundError
from noctule.servers.http_parameters import FORCE, NODE_ID
from noctule.servers.http_route import Answer, Call, json_answer, load_body

HELD_SHOWN_MAX = 10
"""Partitions that a refusal names; of more it tells the number."""


class MemberList(Struct, frozen=True):
    """Every node that was ever let in, by id."""

    nodes: list[MemberView]


class ReachList(Struct, frozen=True):
    """How the asked node reaches every other member, by id."""

    node: int
    """The asked one."""
    others: list[Reach]


class MemberChange(Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator may change of a member; what is null stays."""

    weight: float | None = None
    """Its share of replicas beside the others'; 0 takes none."""
    labels: dict[str, str] | None = None
    """All of them: those that are not named are taken away."""


async def list_members(call: Call) -> Answer:
    """All members, those that have gone included."""
    return json_answer(MemberList(_members(call.node.cluster)))


async def get_member(call: Call) -> Answer:
    """One member."""
    return json_answer(_member(call))


async def get_reach(call: Call) -> Answer:
    """How this node reaches the others."""
    return json_answer(ReachList(call.node.picture().node_id, await call.node.cluster.reach()))


async def get_risk(call: Call) -> Answer:
    """What removing a member as it is would mean."""
    _require(call)
    return json_answer(call.node.cluster.risk(call.get(NODE_ID)))


async def drain_member(call: Call) -> Answer:
    """Begin to move away what a member has."""
    return await _change(call, SetMemberState(_require(call), MemberState.DRAINING))


async def activate_member(call: Call) -> Answer:
    """Take a draining one back into service."""
    return await _change(call, SetMemberState(_require(call), MemberState.ACTIVE))


async def leave(call: Call) -> Answer:
    """A drained one leaves for good; refused, with what is still there, while it holds anything."""
    node, meta = _require(call), call.node.cluster.meta
    if held := sorted(meta.held_by.get(node, ())):
        named = ", ".join(map(str, held[:HELD_SHOWN_MAX]))
        more = f" and {len(held) - HELD_SHOWN_MAX} more" if len(held) > HELD_SHOWN_MAX else ""
        raise RequestError(f"node {node} still holds partitions {named}{more}: drain it and wait until it holds none")
    return await _change(call, SetMemberState(node, MemberState.LEFT))


async def remove_member(call: Call) -> Answer:
    """Take a member out as it is; refused when data may be lost by that, unless it is forced."""
    node = _require(call)
    risk: Risk = call.node.cluster.risk(node)
    if risk.is_dangerous and not call.get(FORCE):
        raise RequestError(" ".join([*risk.sentences, "Nothing was done; force does it all the same."]))
    return await _change(call, SetMemberState(node, MemberState.REMOVED))


async def patch_member(call: Call) -> Answer:
    """Change weight or labels."""
    change = load_body(call, MemberChange)
    if change.weight is not None and change.weight < 0:
        raise RequestError("body: a weight is 0 or more - at `$.weight`")
    weight = -1.0 if change.weight is None else change.weight
    return await _change(call, UpdateMember(_require(call), labels=change.labels, weight=weight))


async def _change(call: Call, operation: Operation) -> Answer:
    await call.node.cluster.operate(operation)
    return json_answer(_member(call))


def _require(call: Call) -> int:
    """The node of the path, which must be a member or have been one."""
    node = call.get(NODE_ID)
    if node not in call.meta.roster:
        raise NotFoundError(f"there is no node {node}")
    return node


def _member(call: Call) -> MemberView:
    node = _require(call)
    return next(view for view in _members(call.node.cluster) if view.id == node)


def _members(cluster: Administration) -> list[MemberView]:
    return view_members(cluster.meta, cluster.board, cluster.is_alive)
