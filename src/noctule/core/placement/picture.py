"""What the planner looks at, and what it answers: plain values, frozen. Read planner.py next."""

from collections.abc import Mapping

from msgspec import Struct

from noctule.core.placement.partition_map import PartitionState
from noctule.core.roster.members import PRESENT, MemberState


class NodePicture(Struct, frozen=True):
    """One node of the roster, gone ones included while a partition still names them."""

    id: int
    labels: Mapping[str, str] = {}
    weight: float = 1.0
    state: MemberState = MemberState.ACTIVE
    is_alive: bool = True
    """As the failure detector of whoever plans sees it."""
    away_s: float = 0.0
    """How long it has not been alive."""
    memory_bytes: int = 0
    memory_bytes_max: int = 0
    """0: not known, or not bounded."""


class PartitionPicture(Struct, frozen=True):
    """One partition, as the map and the last reports have it."""

    id: int
    replicas: tuple[int, ...]
    leader: int = 0
    """The node that leads it now; 0 while nobody is known to."""
    bytes: int = 0
    keys: int = 0
    requests_per_s: float = 0.0
    state: PartitionState = PartitionState.ACTIVE
    has_operation: bool = False
    """A migration, split or merge is on its way, or waits for an operator: the planner leaves it alone."""


class Move(Struct, frozen=True):
    """One replica to be moved."""

    partition: int
    source: int
    """The node that loses its replica; 0: one is added."""
    target: int
    """The node that gets it; 0: one is dropped."""
    reason: str = ""
    """One line for operators."""


class LeaderMove(Struct, frozen=True):
    """One partition that another of its replicas is to lead."""

    partition: int
    to: int
    reason: str = ""


class Blocked(Struct, frozen=True):
    """What should be done and cannot, as things stand."""

    partitions: tuple[int, ...]
    sentence: str
    """What, why, and what would help."""


class ClusterPicture(Struct, frozen=True):
    """A cluster at one moment."""

    nodes: tuple[NodePicture, ...]
    partitions: tuple[PartitionPicture, ...]
    replication_factor: int
    running: tuple[Move, ...] = ()
    """Migrations on their way. They are counted as if they were done."""


class PlannerLimits(Struct, frozen=True):
    """What a plan may ask for. The defaults are for a planner that is asked every few seconds."""

    moves_max: int = 3
    """Migrations at a time, the running ones included. A dry run that is to show the whole way sets it high."""
    leader_moves_max: int = 16
    """In one plan. A transfer stops a partition for milliseconds."""
    node_replace_after_s: float = 300.0
    """A node that stays away so long has lost its replicas."""
    is_balancing: bool = True
    """False: only what repairs, drains, or follows the replication factor."""
    imbalance_min: float = 0.10
    """Nodes whose loads differ by less, as part of a fair share, are left as they are. Once moves are under way, they
    go on until it is half of this: so noise, which must be less than the other half, does not start them again."""
    leader_imbalance_min: float = 0.20
    """The same of what they lead; higher, for requests are noisier than bytes."""
    memory_share_max: float = 0.85
    """A node takes no replica that would fill its memory beyond this."""


class Plan(Struct, frozen=True):
    """What to do next, the most urgent first. No partition is in it twice."""

    moves: tuple[Move, ...] = ()
    leader_moves: tuple[LeaderMove, ...] = ()
    blocked: tuple[Blocked, ...] = ()


def is_lost(node: NodePicture | None, node_replace_after_s: float) -> bool:
    """Whether what was on a node is to be restored elsewhere: it left, was removed, or stays away too long."""
    if node is None or node.state not in PRESENT:
        return True
    return not node.is_alive and node.away_s >= node_replace_after_s


def is_living(node: NodePicture | None) -> bool:
    """Whether a replica on this node answers and votes, as far as anyone knows."""
    return node is not None and node.is_alive and node.state in PRESENT
