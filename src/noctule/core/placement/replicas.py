"""Where the replicas of new partitions go: the ring proposes, failure domains and counts correct.

Each partition walks the ring clockwise and takes, for each replica, the first node that shares no more with those it
has than it must, and that is not full yet (consistent hashing with bounded loads: Mirrokni, Thorup, Zadimoghaddam
2018). What the ends of the walks left uneven is then evened out along chains of nodes. Domains go before counts: a
rack of one node beside two racks of ten gets a replica of everything. Used once, when partitions are made; from then
on the planner moves as little as it can.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeAlias

from noctule.base.errors import RequestError
from noctule.core.placement.domains import Domains, Site
from noctule.core.placement.ring import ConsistentHashRing

_Step: TypeAlias = tuple[int, int, int]
"""An item, the node it leaves, the node it goes to."""


def place_replicas(partitions: Sequence[int], sites: Sequence[Site], factor: int) -> list[tuple[int, ...]]:
    """For each partition its nodes, the preferred leader first.

    `factor` different nodes of weight above 0, or all of them when there are fewer. No two share a host while another
    host could take the replica instead, nor a rack, nor a zone; of nodes that are equal in weight and domains, none
    has two replicas, or two leaders, more than another. `RequestError` when no node has a weight or the factor is 0.
    """
    takers = sorted((site for site in sites if site.weight > 0), key=lambda site: site.id)
    if not takers or factor < 1:
        raise RequestError(f"{len(takers)} nodes with a weight cannot hold {factor} replicas; both must be 1 or more")
    domains = Domains(takers)
    weights = {site.id: site.weight for site in takers}
    placed = _propose(partitions, takers, domains, min(factor, len(takers)))
    _even_replicas(placed, domains, weights)
    _even_leaders(placed, weights)
    return [tuple(nodes) for nodes in placed]


def _propose(partitions: Sequence[int], takers: Sequence[Site], domains: Domains, factor: int) -> list[list[int]]:
    ring = ConsistentHashRing()
    for site in takers:
        ring.add_node(site.id, site.weight)
    weights = {site.id: site.weight for site in takers}
    share = len(partitions) * factor / sum(weights.values())
    full = {node: int(share * weight) for node, weight in weights.items()}
    areas = {node: domains.neighbourhood(node) for node in weights}
    area_weights = dict.fromkeys(areas.values(), 0.0)
    area_counts = dict.fromkeys(areas.values(), 0)
    for node, weight in weights.items():
        area_weights[areas[node]] += weight
    counts = dict.fromkeys(full, 0)

    def over(node: int) -> float:
        """By how much a node would be over its bound, which rises with its rack where the domains overfill that."""
        mean = area_counts[areas[node]] * weights[node] / area_weights[areas[node]]
        return max(counts[node] + 1 - max(full[node], mean + 1), 0.0)

    placed = []
    least = domains.least_added(full, factor)
    for partition in partitions:
        chosen: list[int] = []
        for must in least:
            best, best_rank = 0, (must, 0.0, 0)
            for position, node in enumerate(ring.walk(b"partition %d" % partition)):
                if node in chosen:
                    continue
                rank = (domains.added(chosen, node), over(node), position)
                if not best or rank < best_rank:
                    best, best_rank = node, rank
                if best_rank[:2] <= (must, 0.0):
                    break
            chosen.append(best)
            counts[best] += 1
            area_counts[areas[best]] += 1
        placed.append(chosen)
    return placed


def _even_replicas(placed: list[list[int]], domains: Domains, weights: Mapping[int, float]) -> None:
    held: dict[int, list[int]] = {node: [] for node in weights}
    for item, nodes in enumerate(placed):
        for node in nodes:
            held[node].append(item)

    def may_move(item: int, source: int, target: int) -> bool:
        if target in placed[item]:
            return False
        others = [node for node in placed[item] if node != source]
        return domains.added(others, target) <= domains.added(others, source)

    def move(item: int, source: int, target: int) -> None:
        placed[item][placed[item].index(source)] = target

    _even_out(held, weights, may_move, move, domains.neighbourhood)


def _even_leaders(placed: list[list[int]], weights: Mapping[int, float]) -> None:
    held: dict[int, list[int]] = {node: [] for node in weights}
    for item, nodes in enumerate(placed):
        held[nodes[0]].append(item)

    def may_move(item: int, source: int, target: int) -> bool:
        return target in placed[item]

    def move(item: int, source: int, target: int) -> None:
        nodes = placed[item]
        there = nodes.index(target)
        nodes[0], nodes[there] = target, source

    _even_out(held, weights, may_move, move, lambda node: node)


def _even_out(
    held: dict[int, list[int]],
    weights: Mapping[int, float],
    may_move: Callable[[int, int, int], bool],
    move: Callable[[int, int, int], None],
    kind: Callable[[int], Hashable],
) -> None:
    """Move items along chains of nodes until no chain leads from a node to one that stays below it all the same.

    Only the ends of a chain change their counts, and each time the sum of squares falls, so it ends. `kind` is equal
    for nodes to which the same may go, so that one that gets nothing from a node speaks for all like it.
    """

    def ratio(node: int) -> float:
        return len(held[node]) / weights[node]

    def chain_from(source: int) -> tuple[list[_Step], Iterable[int]]:
        """The way to a node below, or none, and the nodes that were reached."""
        after = (len(held[source]) - 1) / weights[source]
        ends = {node for node in held if (len(held[node]) + 1) / weights[node] <= after and node != source}
        chains: dict[int, list[_Step]] = {source: []}
        queue = [source] if ends else []
        for node in queue:
            used = {step[0] for step in chains[node]}
            refused: set[Hashable] = set()
            for target in sorted(held.keys() - chains.keys(), key=lambda each: (ratio(each), each)):
                if kind(target) in refused:
                    continue
                item = next((item for item in held[node] if item not in used and may_move(item, node, target)), None)
                if item is None:
                    refused.add(kind(target))
                    continue
                chains[target] = [*chains[node], (item, node, target)]
                if target in ends:
                    return chains[target], chains
                queue.append(target)
        return [], chains

    is_moving = True
    while is_moving:
        is_moving = False
        stuck: set[int] = set()
        for source in sorted(held, key=lambda node: (-ratio(node), node)):
            while source not in stuck:
                chain, reached = chain_from(source)
                if not chain:
                    # What it reached is lower, so it has fewer ends in view and the same ways to them.
                    stuck.update(reached)
                is_moving = is_moving or bool(chain)
                for item, here, there in chain:
                    move(item, here, there)
                    held[here].remove(item)
                    held[there].append(item)
