"""Many partitions on ten simulated nodes form, fail and grow; what a node costs does not grow with what others hold."""

from noctule.verify.sim.scale import LOAD_PER_NODE, Cluster

IDLE_MESSAGES_MAX = 30
"""In a second, of one node among ten: reports to the others, and next to nothing for its groups."""


def test_ten_nodes_with_three_hundred_partitions_live() -> None:
    cluster = Cluster(10, 300)
    cluster.form()
    cluster.pass_time(10.0)
    assert cluster.measure(3.0).messages < IDLE_MESSAGES_MAX, "groups sleep"
    cluster.measure(2.0, LOAD_PER_NODE)
    assert cluster.answered >= 10 * LOAD_PER_NODE * 2 * 0.95
    for node in cluster.world.founders[:2]:
        cluster.restart(node)
    served_s, _ = cluster.lose_rack()
    assert served_s < 5.0
    cluster.grow(2)
    _, moves = cluster.rebalance()
    held, share = cluster.held()
    assert moves >= share * 2 * 0.8
    assert len(held) == 12


def test_what_a_node_costs_does_not_grow_with_the_partitions_it_holds_idle() -> None:
    costs = []
    for partitions in (50, 300):
        cluster = Cluster(5, partitions)
        cluster.form()
        cluster.pass_time(10.0)
        costs.append(cluster.measure(3.0).messages)
    assert costs[1] < costs[0] * 1.5 + 2
