"""What is told before a dead node is taken out by force."""

from msgspec.structs import replace

from noctule.core.placement.picture import ClusterPicture, NodePicture, PartitionPicture
from noctule.core.placement.risk import estimate_risk
from tests.unit.core.placement.clusters import nodes_of, with_nodes

MIB = 1 << 20


def dead(node: int) -> NodePicture:
    return NodePicture(id=node, is_alive=False, away_s=10.0)


def picture_of(*replicas: tuple[int, ...]) -> ClusterPicture:
    partitions = tuple(
        PartitionPicture(id=number, replicas=nodes, bytes=MIB) for number, nodes in enumerate(replicas, start=1)
    )
    return with_nodes(ClusterPicture(nodes=nodes_of(5), partitions=partitions, replication_factor=3), dead(1))


def test_one_dead_node_of_three_endangers_nothing_but_leaves_no_reserve() -> None:
    risk = estimate_risk(picture_of((1, 2, 3), (2, 3, 4), (1, 2, 3, 4, 5)), 1)
    assert (risk.held, risk.fragile, risk.living_replicas) == ((1, 3), (1,), {2: 1, 4: 1})
    assert not risk.is_dangerous
    assert risk.bytes_at_risk == 0
    assert risk.sentences == (
        "Partitions that cannot lose another node until they are restored: 1.",
        "Partitions with a replica on node 1: 2.",
    )


def test_what_has_no_majority_or_no_copy_left_is_told_first() -> None:
    picture = with_nodes(picture_of((1, 2, 3), (1, 2), (1,), (3, 4, 5)), dead(2))
    risk = estimate_risk(picture, 1)
    assert risk.is_dangerous
    assert (risk.without_majority, risk.without_copy, risk.fragile) == ((1,), (2, 3), ())
    assert risk.living_replicas == {0: 2, 1: 1}
    assert risk.bytes_at_risk == 3 * MIB
    assert risk.sentences == (
        "Partitions without any living replica: 2. Their data are lost for good.",
        "Partitions without a majority: 1. They stop, and acknowledged writes may be lost: "
        "bring another of their nodes back first.",
        "Data at risk: 3.0 MiB.",
        "Partitions with a replica on node 1: 3.",
    )


def test_a_living_node_is_to_be_drained() -> None:
    picture = replace(picture_of((1, 2, 3)), nodes=nodes_of(5))
    assert "Node 1 is alive: drain it instead, which loses nothing." in estimate_risk(picture, 1).sentences


def test_a_node_without_replicas_endangers_nothing() -> None:
    assert estimate_risk(picture_of((2, 3, 4)), 1).sentences == ("No partition has a replica on node 1.",)
