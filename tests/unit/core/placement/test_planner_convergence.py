"""Plans carried out one after the other come to an end, soon, and what they leave is as it should be."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from noctule.core.placement.domains import Domains
from noctule.core.placement.picture import ClusterPicture, NodePicture, PartitionPicture, PlannerLimits
from noctule.core.placement.planner import plan
from noctule.core.roster.members import MemberState
from tests.unit.core.placement.clusters import Convergence, carried_out, cluster_of, converge, nodes_of, with_nodes

MANY = PlannerLimits(moves_max=20, leader_moves_max=50)


@st.composite
def clusters(draw: st.DrawFn) -> ClusterPicture:
    """Up to 12 nodes of all kinds, partitions of all sizes thrown on them anyhow, and a factor that may not fit."""
    rng = draw(st.randoms(use_true_random=False))
    count = draw(st.integers(1, 12))
    racks = draw(st.sampled_from([0, 2, 3, 5]))
    states = [MemberState.ACTIVE] * 6 + [MemberState.DRAINING, MemberState.REMOVED]
    nodes = []
    for number in range(1, count + 1):
        state = rng.choice(states)
        is_alive = state is not MemberState.REMOVED and rng.random() > 0.15
        nodes.append(
            NodePicture(
                id=number,
                labels={"rack": str(rng.randrange(racks))} if racks else {},
                weight=rng.choice([0.5, 1.0, 1.0, 1.0, 2.0]),
                state=state,
                is_alive=is_alive,
                away_s=0.0 if is_alive else rng.choice([1.0, 1_000.0]),
            )
        )
    partitions = []
    for number in range(1, draw(st.integers(1, 40)) + 1):
        replicas = tuple(rng.sample(range(1, count + 1), rng.randint(1, min(count, 5))))
        partitions.append(
            PartitionPicture(
                id=number,
                replicas=replicas,
                leader=rng.choice([0, *(node for node in replicas if nodes[node - 1].is_alive)]),
                bytes=rng.choice([0, 10_000, 1 << 20, 5 << 20, 200 << 20]),
                keys=rng.randrange(100_000),
                requests_per_s=rng.choice([0.0, 1.0, 30.0, 100.0, 2_000.0]),
            )
        )
    return ClusterPicture(nodes=tuple(nodes), partitions=tuple(partitions), replication_factor=draw(st.integers(1, 5)))


@settings(max_examples=150, deadline=None)
@given(clusters(), st.sampled_from([PlannerLimits(), MANY]))
def test_every_cluster_comes_to_rest(picture: ClusterPicture, limits: PlannerLimits) -> None:
    """`converge` checks each plan. A partition moves once for each thing that is wrong with it, and for balance."""
    done = converge(picture, limits, rounds_max=600)
    wrong = sum(wrongs(picture, partition) for partition in picture.partitions)
    assert len(done.moves) <= wrong + 2 * sum(len(each.replicas) for each in done.picture.partitions)
    takers = [node for node in picture.nodes if node.state is MemberState.ACTIVE and node.is_alive]
    domains = Domains(picture.nodes)
    is_calm = all(node.is_alive or node.away_s > 300 for node in picture.nodes)
    blocked = {number for each in done.blocked for number in each.partitions}
    for partition in done.picture.partitions:
        if partition.id not in blocked and is_calm:
            assert len(partition.replicas) == picture.replication_factor
            assert set(partition.replicas) <= {node.id for node in takers}
            least = sum(domains.least_added([node.id for node in takers], len(partition.replicas)))
            assert domains.clashes(partition.replicas) == least


def wrongs(picture: ClusterPicture, partition: PartitionPicture) -> int:
    """At most so many moves can be due for other reasons than balance."""
    return abs(len(partition.replicas) - picture.replication_factor) + 2 * len(partition.replicas)


@pytest.mark.parametrize(("before", "more", "partitions"), [(3, 1, 30), (3, 3, 60), (5, 2, 128), (10, 10, 300)])
def test_new_nodes_get_their_share_and_little_else_moves(before: int, more: int, partitions: int) -> None:
    picture = with_nodes(cluster_of(nodes_of(before), partitions), *nodes_of(more, first=before + 1))
    done = converge(picture)
    needed = 3 * partitions * more / (before + more)
    assert needed * 0.8 <= len(done.moves) <= needed
    assert done.moves_of_a_partition_max() <= min(more, 3)
    assert {move.target for move in done.moves} == set(range(before + 1, before + more + 1))
    assert_even(done)


def assert_even(done: Convergence) -> None:
    """Of equal partitions on equal nodes: within the deadband, or as near as whole replicas allow. Leaders less so,
    as they may only go where replicas are."""
    for counts, gap in ((done.held(), 0.10), (done.led(), 0.35)):
        held = [counts[node.id] for node in done.picture.nodes]
        fair = sum(held) / len(held)
        assert max(held) - min(held) <= max(gap * fair, 1)


def test_twenty_nodes_beside_a_hundred() -> None:
    """10,000 partitions. Five thousand replicas are needed on the new nodes, and no more than that moves."""
    picture = cluster_of(nodes_of(100, racks=10), 10_000)
    picture = with_nodes(picture, *nodes_of(20, racks=10, first=101))
    done = converge(picture, PlannerLimits(moves_max=500, leader_moves_max=500))
    assert 0.85 * 5_000 <= len(done.moves) <= 5_000
    assert done.moves_of_a_partition_max() <= 3
    assert sum(moved > 1 for moved in Counter(move.partition for move in done.moves).values()) < 2_000
    assert_even(done)
    racks = {node.id: node.labels["rack"] for node in done.picture.nodes}
    assert all(len({racks[node] for node in each.replicas}) == 3 for each in done.picture.partitions)


def test_a_lost_rack_is_restored_elsewhere() -> None:
    picture = cluster_of(nodes_of(12, racks=4), 100)
    lost = [replace(node, is_alive=False, away_s=301.0) for node in picture.nodes if node.labels["rack"] == "r0"]
    held = picture_held(picture, {node.id for node in lost})
    done = converge(with_nodes(picture, *lost))
    assert held <= len(done.moves) <= held * 1.2
    racks = {node.id: node.labels["rack"] for node in done.picture.nodes}
    assert all({racks[node] for node in each.replicas} == {"r1", "r2", "r3"} for each in done.picture.partitions)


def picture_held(picture: ClusterPicture, nodes: set[int]) -> int:
    return sum(len(nodes.intersection(partition.replicas)) for partition in picture.partitions)


@pytest.mark.parametrize(("was", "becomes"), [(3, 5), (5, 3), (1, 3), (3, 1)])
def test_the_factor_is_followed(was: int, becomes: int) -> None:
    picture = replace(cluster_of(nodes_of(6, racks=6), 60, factor=was), replication_factor=becomes)
    done = converge(picture)
    assert all(len(partition.replicas) == becomes for partition in done.picture.partitions)
    assert len(done.moves) == 60 * abs(was - becomes)
    assert_even(done)


def test_big_partitions_are_spread_by_bytes() -> None:
    """A tenth of the partitions holds most bytes, and all of it began on three of six nodes."""
    partitions = tuple(
        PartitionPicture(
            id=number, replicas=(1, 2, 3), leader=1 + number % 3, bytes=(900 if number % 10 == 0 else 10) << 20
        )
        for number in range(1, 61)
    )
    done = converge(ClusterPicture(nodes=nodes_of(6), partitions=partitions, replication_factor=3))
    stored = Counter({node.id: 0 for node in done.picture.nodes})
    for partition in done.picture.partitions:
        for node in partition.replicas:
            stored[node] += partition.bytes
    assert max(stored.values()) <= 1.35 * sum(stored.values()) / 6
    assert done.moves_of_a_partition_max() <= 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("count", "partition_count"), [(3, 16), (5, 64), (10, 300)])
def test_noise_moves_nothing_for_long(count: int, partition_count: int, seed: int) -> None:
    """Every partition's requests change by half at every plan, and by ten times now and then: once it has come to
    rest, what still moves in 200 plans is next to nothing, and none of it comes back."""
    rng = random.Random(seed)
    rates = {number: rng.expovariate(0.01) for number in range(1, partition_count + 1)}

    def noisy(picture: ClusterPicture) -> ClusterPicture:
        def rate(number: int) -> float:
            return rates[number] * rng.uniform(0.5, 1.5) * (10 if rng.random() < 0.002 else 1)

        return replace(
            picture,
            partitions=tuple(replace(each, requests_per_s=rate(each.id)) for each in picture.partitions),
        )

    picture = with_nodes(cluster_of(nodes_of(count), partition_count), NodePicture(id=count + 1))
    moves, places = [], []
    for number in range(260):
        picture = noisy(picture)
        answer = plan(picture, MANY)
        picture = carried_out(picture, answer.moves, answer.leader_moves)
        if number >= 60:
            moves += answer.moves
            places += [(move.partition, move.target) for move in answer.moves]
    assert len(moves) <= max(0.02 * 3 * partition_count, 2)
    assert len(places) == len(set(places)), "nothing comes back to where it was"


def test_an_idle_cluster_is_not_moved_by_a_few_requests() -> None:
    picture = cluster_of(nodes_of(3), 12, factor=1)
    picture = with_nodes(picture, *nodes_of(3))
    few = tuple(replace(each, requests_per_s=5.0 if each.id == 1 else 0.0) for each in picture.partitions)
    assert plan(replace(picture, partitions=few), MANY).moves == ()
