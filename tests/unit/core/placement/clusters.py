"""Clusters for the planner's tests, and what becomes of them when its plans are carried out."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from noctule.core.placement.picture import (
    Blocked,
    ClusterPicture,
    LeaderMove,
    Move,
    NodePicture,
    PartitionPicture,
    PlannerLimits,
    is_living,
)
from noctule.core.placement.planner import plan
from noctule.core.placement.replicas import place_replicas


def nodes_of(count: int, racks: int = 0, first: int = 1, **others: object) -> tuple[NodePicture, ...]:
    labels = [{"rack": f"r{number % racks}"} if racks else {} for number in range(count)]
    return tuple(NodePicture(id=first + number, labels=labels[number], **others) for number in range(count))  # type: ignore[arg-type]


def cluster_of(nodes: Sequence[NodePicture], partition_count: int, factor: int = 3) -> ClusterPicture:
    placed = place_replicas(range(1, partition_count + 1), nodes, factor)
    partitions = [
        PartitionPicture(id=number, replicas=replicas, leader=replicas[0])
        for number, replicas in enumerate(placed, start=1)
    ]
    return ClusterPicture(nodes=tuple(nodes), partitions=tuple(partitions), replication_factor=factor)


def with_nodes(picture: ClusterPicture, *changed: NodePicture) -> ClusterPicture:
    nodes = {node.id: node for node in picture.nodes} | {node.id: node for node in changed}
    return replace(picture, nodes=tuple(nodes.values()))


@dataclass
class Convergence:
    """What happened until nothing more was planned."""

    picture: ClusterPicture
    moves: list[Move] = field(default_factory=list)
    leader_moves: list[LeaderMove] = field(default_factory=list)
    blocked: tuple[Blocked, ...] = ()
    rounds: int = 0

    def moves_of_a_partition_max(self) -> int:
        return max(Counter(move.partition for move in self.moves).values(), default=0)

    def held(self) -> Counter[int]:
        return Counter(node for partition in self.picture.partitions for node in partition.replicas)

    def led(self) -> Counter[int]:
        return Counter(partition.leader for partition in self.picture.partitions)


def converge(
    picture: ClusterPicture,
    limits: PlannerLimits | None = None,
    *,
    rounds_max: int = 2_000,
    between: Callable[[ClusterPicture], ClusterPicture] = lambda picture: picture,
) -> Convergence:
    """Carry out plan after plan, checking each, until one is empty; `between` changes the world before each plan."""
    limits = limits or PlannerLimits()
    done = Convergence(picture)
    while done.rounds < rounds_max:
        done.picture = between(done.picture)
        answer = plan(done.picture, limits)
        check_plan(done.picture, answer.moves, answer.leader_moves, limits)
        if not answer.moves and not answer.leader_moves:
            done.blocked = answer.blocked
            return done
        done.rounds += 1
        done.moves += answer.moves
        done.leader_moves += answer.leader_moves
        done.picture = carried_out(done.picture, answer.moves, answer.leader_moves)
    raise AssertionError(f"no end after {rounds_max} plans; the last moves: {done.moves[-6:]} {done.leader_moves[-6:]}")


def carried_out(
    picture: ClusterPicture, moves: Sequence[Move], leader_moves: Sequence[LeaderMove] = ()
) -> ClusterPicture:
    partitions = {partition.id: partition for partition in picture.partitions}
    living = {node.id for node in picture.nodes if is_living(node)}
    for move in moves:
        partition = partitions[move.partition]
        replicas = [node for node in partition.replicas if node != move.source]
        if move.target:
            replicas.append(move.target)
        leader = partition.leader
        if leader not in replicas:
            leader = next(node for node in replicas if node in living)
        partitions[move.partition] = replace(partition, replicas=tuple(replicas), leader=leader)
    for leader_move in leader_moves:
        partitions[leader_move.partition] = replace(partitions[leader_move.partition], leader=leader_move.to)
    return replace(picture, partitions=tuple(partitions.values()))


def check_plan(
    picture: ClusterPicture, moves: Sequence[Move], leader_moves: Sequence[LeaderMove], limits: PlannerLimits
) -> None:
    """What must hold of every plan."""
    living = {node.id for node in picture.nodes if is_living(node)}
    partitions = {partition.id: partition for partition in picture.partitions}
    named = [each.partition for each in (*moves, *leader_moves)]
    assert len(named) == len(set(named)), "one operation on a partition"
    assert len(moves) + len(picture.running) <= max(limits.moves_max, len(picture.running))
    assert len(leader_moves) <= limits.leader_moves_max
    for move in moves:
        partition = partitions[move.partition]
        before = set(partition.replicas)
        assert not partition.has_operation
        assert move.reason
        assert "\n" not in move.reason
        assert not move.source or move.source in before
        assert not move.target or (move.target in living and move.target not in before)
        after = (before - {move.source}) | ({move.target} - {0})
        for replicas in (before, after):
            assert 2 * len(replicas & living) > len(replicas), "a majority of living replicas, before and after"
    for leader_move in leader_moves:
        assert leader_move.to in living
        assert leader_move.to in partitions[leader_move.partition].replicas
