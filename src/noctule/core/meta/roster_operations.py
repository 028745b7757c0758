"""Who is in the cluster, by which token, and what all agree on: the operations that change that, each checked first.

Each function takes the objects, the operation and the stamp in unix ms. It raises `RequestError` with a sentence
before it has changed anything, or does all of it and answers.
"""

import msgspec

from noctule.base.bounds import PARTITIONS_MAX
from noctule.base.errors import RequestError
from noctule.base.ids import GroupId
from noctule.core.meta.bookkeeping import Admission
from noctule.core.meta.objects import Objects
from noctule.core.meta.operations import (
    Admit,
    ChangeSettings,
    CreateToken,
    Form,
    OpenFeature,
    RevokeToken,
    SetMemberState,
    UpdateMember,
)
from noctule.core.meta.settings import REPLICAS_MAX, change_settings
from noctule.core.meta.tokens import TOKENS_MAX, Token, is_token_hash
from noctule.core.placement.partition_map import Partition
from noctule.core.placement.slots import slot_range
from noctule.core.roster.members import PRESENT, Member, MemberState

MEMBERS_MAX = 1_000
"""Members that are present at one time."""
WEIGHT_MAX = 1_000.0
"""Of a member, beside the others' 1."""
NAME_LENGTH_MAX = 128
"""Characters of a cluster's id, a nonce, a feature."""

_NEXT_STATES = {
    MemberState.ACTIVE: (MemberState.DRAINING, MemberState.REMOVED),
    MemberState.DRAINING: (MemberState.ACTIVE, MemberState.LEFT, MemberState.REMOVED),
    MemberState.LEFT: (),
    MemberState.REMOVED: (),
}


def require(condition: object, sentence: str) -> None:
    """Refuse the operation with this sentence unless the condition holds."""
    if not condition:
        raise RequestError(sentence)


def require_formed(objects: Objects) -> None:
    """Refuse the operation while there is no cluster."""
    require(objects.cluster_id, "the cluster is not formed yet")


def require_feature(objects: Objects, name: str) -> None:
    """Refuse the operation while not every member can do what it asks for."""
    if name not in objects.features:
        lacking = _lacking(objects, name)
        why = f"nodes {lacking} do not have it: upgrade them" if lacking else "it is opened within moments: try again"
        raise RequestError(f"the feature {name!r} is not open yet; {why}")


def form(objects: Objects, operation: Form, now_ms: int) -> str:
    """See `Form`."""
    if objects.cluster_id:
        return objects.cluster_id
    members = {member.id: member for member in operation.members}
    require(0 < len(operation.cluster_id) <= NAME_LENGTH_MAX, "a cluster needs an id")
    require(members and len(members) == len(operation.members) and min(members) > 0, "each member needs its own id")
    require(len(members) <= MEMBERS_MAX, f"{MEMBERS_MAX} members are the most")
    require(len({member.peer for member in members.values()} - {""}) == len(members), "each member needs its own peer")
    for member in members.values():
        _require_weight(member)
    require(0 < len(operation.replicas) <= PARTITIONS_MAX, f"there are 1 to {PARTITIONS_MAX} partitions")
    for number, replicas in enumerate(operation.replicas, 1):
        require(0 < len(replicas) <= REPLICAS_MAX, f"partition {number} needs 1 to {REPLICAS_MAX} replicas")
        require(len(set(replicas)) == len(replicas), f"partition {number} has two replicas on one node")
        require(set(replicas) <= members.keys(), f"partition {number} has a replica on a node that is no member")
    values = {**operation.settings, "replication_factor": operation.replication_factor}
    objects.set_settings(change_settings(objects.settings, values))

    for member in sorted(members.values(), key=lambda member: member.id):
        objects.put_member(msgspec.structs.replace(member, state=MemberState.ACTIVE, joined_ms=now_ms))
    count = len(operation.replicas)
    for number, replicas in enumerate(operation.replicas, 1):
        first, last = slot_range(GroupId(number), count)
        objects.put_partition(Partition(number, first, last, tuple(replicas), initial=tuple(replicas)))
    counters = msgspec.structs.replace(
        objects.counters,
        cluster_id=operation.cluster_id,
        features=tuple(sorted(set.intersection(*(set(member.features) for member in members.values())))),
        member_id_next=max(members) + 1,
        partition_id_next=count + 1,
    )
    objects.set_counters(counters)
    return operation.cluster_id


def admit(objects: Objects, operation: Admit, now_ms: int) -> int:
    """See `Admit`."""
    require_formed(objects)
    require(0 < len(operation.nonce) <= NAME_LENGTH_MAX, "a node that joins draws a nonce")
    admission = objects.admission(operation.nonce)
    if admission is not None:
        require(admission.token == operation.token, "the join token is not the one of the first try")
        require(objects.is_present(admission.id), f"node {admission.id} was taken out: it joins anew under another id")
        return admission.id
    token = objects.tokens.get(operation.token)
    if token is None or token.is_void(now_ms):
        raise RequestError("the join token is not valid: it is unknown, used up, revoked or too old")
    present = [member for member in objects.roster.values() if member.state in PRESENT]
    require(len(present) < MEMBERS_MAX, f"the cluster has {len(present)} members, and {MEMBERS_MAX} are the most")
    given = objects.counters.member_id_next
    member = msgspec.structs.replace(operation.member, id=given, state=MemberState.ACTIVE, joined_ms=now_ms)
    _require_fits(objects, member)

    if not token.reusable:
        objects.remove_token(token.token)
    objects.set_counters(msgspec.structs.replace(objects.counters, member_id_next=given + 1))
    objects.put_admission(Admission(operation.nonce, operation.token, given))
    objects.put_member(member)
    return given


def update_member(objects: Objects, operation: UpdateMember, _now_ms: int) -> None:
    """See `UpdateMember`."""
    member = _present_member(objects, operation.id)
    after = msgspec.structs.replace(
        member,
        peer=operation.peer or member.peer,
        control=operation.control or member.control,
        http=operation.http or member.http,
        resp=operation.resp or member.resp,
        version=operation.version or member.version,
        features=operation.features or member.features,
        labels=member.labels if operation.labels is None else operation.labels,
        weight=member.weight if operation.weight < 0 else operation.weight,
    )
    require(after != member, f"nothing of node {member.id} would change")
    _require_fits(objects, after)
    objects.put_member(after)


def set_member_state(objects: Objects, operation: SetMemberState, _now_ms: int) -> None:
    """See `SetMemberState`."""
    member, wanted = _present_member(objects, operation.id), operation.state
    if wanted not in _NEXT_STATES[member.state]:
        raise RequestError(f"node {member.id} is {member.state}, and cannot be {wanted} after that")
    if wanted not in PRESENT:
        others = any(each.state in PRESENT for each in objects.roster.values() if each.id != member.id)
        require(others, f"node {member.id} is the last one")
    if wanted is MemberState.LEFT:
        held = len(objects.held_by.get(member.id, ()))
        require(not held, f"node {member.id} still holds {held} partitions")
    objects.put_member(msgspec.structs.replace(member, state=wanted))


def create_token(objects: Objects, operation: CreateToken, now_ms: int) -> None:
    """See `CreateToken`. Tokens that have become void are forgotten on the way."""
    require_formed(objects)
    require(is_token_hash(operation.token), "a token is known by its hash, and this is none")
    require(operation.token not in objects.tokens, "there is such a token already")
    require(not 0 < operation.expires_ms <= now_ms, "the token would be void from the beginning")
    void = [token.token for token in objects.tokens.values() if token.is_void(now_ms)]
    require(len(objects.tokens) - len(void) < TOKENS_MAX, f"{TOKENS_MAX} tokens are the most: revoke some")
    for gone in void:
        objects.remove_token(gone)
    objects.put_token(Token(operation.token, operation.reusable, operation.expires_ms, operation.note, now_ms))


def revoke_token(objects: Objects, operation: RevokeToken, _now_ms: int) -> None:
    """See `RevokeToken`."""
    require(operation.token in objects.tokens, "there is no such token")
    objects.remove_token(operation.token)


def change_cluster_settings(objects: Objects, operation: ChangeSettings, _now_ms: int) -> None:
    """See `ChangeSettings`."""
    require_formed(objects)
    objects.set_settings(change_settings(objects.settings, operation.values))


def open_feature(objects: Objects, operation: OpenFeature, _now_ms: int) -> None:
    """See `OpenFeature`."""
    require_formed(objects)
    name = operation.name
    require(0 < len(name) <= NAME_LENGTH_MAX, "a feature has a name")
    require(name not in objects.features, f"the feature {name!r} is open already")
    lacking = _lacking(objects, name)
    require(not lacking, f"nodes {lacking} do not have the feature {name!r} yet")
    features = tuple(sorted({*objects.counters.features, name}))
    objects.set_counters(msgspec.structs.replace(objects.counters, features=features))


def _lacking(objects: Objects, name: str) -> list[int]:
    """The present members that do not have a feature."""
    return sorted(m.id for m in objects.roster.values() if m.state in PRESENT and name not in m.features)


def _present_member(objects: Objects, node: int) -> Member:
    member = objects.roster.get(node)
    if member is None:
        raise RequestError(f"there is no node {node}")
    require(member.state in PRESENT, f"node {node} has been taken out of the cluster ({member.state})")
    return member


def _require_fits(objects: Objects, member: Member) -> None:
    """Refuse a member that cannot be reached, that takes another one's place, or that is too old for the cluster."""
    require(member.peer, "a member needs the address where its peers find it")
    _require_weight(member)
    for other in objects.roster.values():
        if other.id != member.id and other.state in PRESENT and other.peer == member.peer:
            raise RequestError(f"node {other.id} is at {member.peer}: if it is gone for good, remove it first")
    lacking = sorted(objects.features - {*member.features})
    require(not lacking, f"the cluster needs the features {lacking}, which this node does not have: upgrade it")


def _require_weight(member: Member) -> None:
    # Not a number compares false with everything and so is refused here.
    require(0 <= member.weight <= WEIGHT_MAX, f"a weight is from 0 to {WEIGHT_MAX:,.0f}")
