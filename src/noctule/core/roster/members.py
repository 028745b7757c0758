"""The roster: every node that was ever let in, with what is known of it. Plain values; ids are never reused."""

from enum import StrEnum

from msgspec import Struct


class MemberState(StrEnum):
    """What is wanted of a member; whether it is alive is another question, and nobody's but the failure detector's."""

    ACTIVE = "active"
    """Takes replicas and leads."""
    DRAINING = "draining"
    """Keeps serving what it has while leadership and replicas are moved away."""
    LEFT = "left"
    """Drained and gone of its own will; it may not come back under this id."""
    REMOVED = "removed"
    """Taken out by an operator, or replaced after it stayed away; it may not come back under this id."""


PRESENT = (MemberState.ACTIVE, MemberState.DRAINING)
"""The states of members that belong to the cluster: they may connect, and hold what they hold."""


class Member(Struct, frozen=True):
    """One node in the roster."""

    id: int
    peer: str
    """host:port where other nodes connect for the framed stream."""
    control: str = ""
    """host:port of its gRPC service; empty when it has none."""
    http: str = ""
    resp: str = ""
    """Where clients find it."""
    labels: dict[str, str] = {}
    """Failure domains and whatever an operator likes: ``zone``, ``rack`` and ``host`` are heeded by placement."""
    weight: float = 1.0
    """Its share of replicas beside the others'; 0 takes none."""
    state: MemberState = MemberState.ACTIVE
    version: str = ""
    """Of the program that runs there, as it last said."""
    features: tuple[str, ...] = ()
    """What that program can do; a feature is opened once every present member has it."""
    joined_ms: int = 0
    """By the stamp of the entry that let it in."""


def farewell(member: Member) -> str:
    """How a member went, in words for its operator; empty while it belongs to the cluster."""
    if member.state is MemberState.LEFT:
        return f"node {member.id} has left the cluster"
    if member.state is MemberState.REMOVED:
        return f"node {member.id} was removed from the cluster: it may join anew, with an empty data folder"
    return ""
