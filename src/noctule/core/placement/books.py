"""The books of one plan: who holds and leads what once all that runs and is planned is done, and how much that weighs.

One number, the *cost*, stands for a partition on a node: its share of the cluster's replicas, bytes, keys and
requests, added up. A node's load is the sum of what it holds over its weight, and a fair load is the same for all.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping

from noctule.core.placement.domains import Domains
from noctule.core.placement.picture import (
    ClusterPicture,
    Move,
    PartitionPicture,
    PlannerLimits,
    is_living,
    is_lost,
)
from noctule.core.roster.members import MemberState

REPLICA_SHARE, BYTES_SHARE, KEYS_SHARE, REQUESTS_SHARE = 0.5, 0.3, 0.1, 0.1
"""What counts how much in a cost. Numbers of replicas count most, as they do not change by themselves, and requests
least, as they never rest; those are evened out by moving leaders, which costs next to nothing."""

REQUESTS_TIMES_MEAN_MAX = 4.0
"""More than this many times the mean is counted as this, where replicas are weighed: a partition with a peak is not
sent around, and one that is always so hot is to be split, wherever it is."""

BYTES_FLOOR, KEYS_FLOOR, REQUESTS_FLOOR = 1 << 20, 1_000, 10.0
"""Of a partition on average. A cluster with less is as good as empty or idle there, and who has most of next to
nothing is chance: without a floor a few requests would move replicas about."""


class Scale:
    """What some nodes carry, in relation to their weights."""

    def __init__(self, weights: Mapping[int, float]) -> None:
        self._weights = weights
        self._carried = dict.fromkeys(weights, 0.0)
        self._refused: set[tuple[int, Hashable]] = set()

    def add(self, node: int, cost: float) -> None:
        """A node carries so much more, or less; nodes that are not on the scale are not weighed."""
        if node in self._carried:
            self._carried[node] += cost

    def load(self, node: int, more: float = 0.0) -> float:
        """What a node carries, and `more`, over its weight; without weight, anything is too much."""
        carried, weight = self._carried[node] + more, self._weights[node]
        return carried / weight if weight else (float("inf") if carried > 1e-12 else 0.0)

    def fair(self) -> float:
        """The load that all would have if it could be divided freely."""
        weight = sum(self._weights.values())
        return sum(self._carried.values()) / weight if weight else 0.0

    def relieve(
        self,
        imbalance_min: float,
        offers: Callable[[int], Callable[[int], Iterable[tuple[float, int]]]],
        kind: Callable[[int], Hashable],
    ) -> tuple[int, int, int] | None:
        """The next item, source and target that make loads more even; None when all is even enough.

        ``offers(source)(target)`` has cost and id of what may go from one node to another, and `kind` is equal for
        nodes to which the same may go, so that one that takes nothing speaks for all like it, for as long as this
        object lives. Two nodes are left alone when they differ by less than `imbalance_min` of the fair load, and
        what moves leaves its target lower by as much than its source was. So it would take twice that to move it
        back, and the sum of squares falls with each move by more than a given part of what is moved: this is why
        plans end, and do not flap.
        """
        fair = self.fair()
        order = sorted(self._carried, key=lambda node: (self.load(node), node))
        targets = [node for node in order if self._weights[node]]
        for source in reversed(order):
            for target in targets:
                if self.load(source) - self.load(target) <= imbalance_min * fair:
                    break
                if (source, kind(target)) in self._refused:
                    continue
                item = self._best(source, target, imbalance_min, offers(source)(target))
                if item is not None:
                    return item, source, target
                self._refused.add((source, kind(target)))
        return None

    def _best(self, source: int, target: int, imbalance_min: float, items: Iterable[tuple[float, int]]) -> int | None:
        """The largest that brings neither node beyond the fair load; else the smallest that still helps."""
        fair = self.fair()
        high = self.load(source) - imbalance_min * fair
        wanted = (fair - self.load(target)) * self._weights[target]
        is_weightless = not self._weights[source]
        if not is_weightless:
            wanted = min(wanted, (self.load(source) - fair) * self._weights[source])
        best_inside, inside = None, 0.0
        best_beyond, beyond = None, float("inf")
        for cost, item in items:
            if cost <= wanted:
                if best_inside is None or cost > inside:
                    best_inside, inside = item, cost
            elif cost < beyond and self.load(target, cost) <= high:
                best_beyond, beyond = item, cost
        return best_beyond if best_inside is None else best_inside


class Books:
    """Made anew for each plan; `take` notes what the plan decides."""

    def __init__(self, picture: ClusterPicture, limits: PlannerLimits) -> None:
        self.limits = limits
        self.factor = picture.replication_factor
        self.nodes = {node.id: node for node in picture.nodes}
        self.partitions = {partition.id: partition for partition in picture.partitions}
        self.domains = Domains(picture.nodes)
        self.living = {node.id for node in picture.nodes if is_living(node)}
        active = [node for node in picture.nodes if node.id in self.living and node.state is MemberState.ACTIVE]
        self.takers = {node.id for node in active if node.weight > 0}
        """The nodes that replicas may be moved to."""
        self.replicas = {partition.id: partition.replicas for partition in picture.partitions}
        for move in picture.running:
            if move.partition in self.replicas:
                self.replicas[move.partition] = moved(self.replicas[move.partition], move.source, move.target)
        named = {node for replicas in self.replicas.values() for node in replicas}
        self.lost = {
            node for node in named | set(self.nodes) if is_lost(self.nodes.get(node), limits.node_replace_after_s)
        }
        self.draining = {node.id for node in picture.nodes if node.state is MemberState.DRAINING} - self.lost
        self.costs, self.led_costs = _costs(picture)
        weights = {node.id: node.weight for node in active}
        self.holding, self.leading, self.storing = Scale(weights), Scale(weights), Scale(weights)
        """Costs, costs of leading, and bytes."""
        self.held: dict[int, dict[int, None]] = {node: {} for node in self.nodes}
        """By node the partitions it has a replica of; a dict, for its order is the same everywhere."""
        self.led: dict[int, dict[int, None]] = {node: {} for node in self.nodes}
        self._incoming_bytes = dict.fromkeys(self.nodes, 0)
        self.busy = {partition.id for partition in picture.partitions if partition.has_operation}
        self.busy.update(move.partition for move in picture.running)
        for partition in picture.partitions:
            cost = self.costs[partition.id]
            for node in self.replicas[partition.id]:
                self.holding.add(node, cost)
                self.storing.add(node, partition.bytes)
                if node in self.held:
                    self.held[node][partition.id] = None
            if partition.leader in self.living and partition.leader in self.replicas[partition.id]:
                self.leading.add(partition.leader, self.led_costs[partition.id])
                self.led[partition.leader][partition.id] = None

    def take(self, move: Move) -> None:
        """Count a move as done, and its partition as busy."""
        partition = self.partitions[move.partition]
        cost = self.costs[partition.id]
        self.replicas[partition.id] = moved(self.replicas[partition.id], move.source, move.target)
        self.busy.add(partition.id)
        if move.source:
            self.holding.add(move.source, -cost)
            self.storing.add(move.source, -partition.bytes)
            self.held.get(move.source, {}).pop(partition.id, None)
        if move.target:
            self.holding.add(move.target, cost)
            self.storing.add(move.target, partition.bytes)
            self.held[move.target][partition.id] = None
            self._incoming_bytes[move.target] += partition.bytes

    def take_leader(self, partition: int, source: int, target: int) -> None:
        """Count a partition as led by another node, and as busy."""
        cost = self.led_costs[partition]
        self.leading.add(source, -cost)
        self.leading.add(target, cost)
        self.led[source].pop(partition, None)
        self.led[target][partition] = None
        self.busy.add(partition)

    def has_majority(self, replicas: tuple[int, ...]) -> bool:
        """Whether more than half of these replicas are on living nodes."""
        return 2 * sum(node in self.living for node in replicas) > len(replicas)

    def fits(self, source: int, target: int, partition: PartitionPicture) -> bool:
        """Whether a partition is small, or its move makes bytes more even, too: few large ones weigh as much as many
        small ones, and memory is what a node cannot do without."""
        small = self.limits.imbalance_min * self.storing.fair()
        return partition.bytes <= small or self.storing.load(target, partition.bytes) <= self.storing.load(source)

    def has_room(self, node: int, partition: PartitionPicture) -> bool:
        """Whether a node's memory takes a replica of this partition and what is planned for it already."""
        memory = self.nodes[node]
        if not memory.memory_bytes_max:
            return True
        wanted = memory.memory_bytes + self._incoming_bytes[node] + partition.bytes
        return wanted <= self.limits.memory_share_max * memory.memory_bytes_max


def moved(replicas: tuple[int, ...], source: int, target: int) -> tuple[int, ...]:
    """The replicas after a move; the target stands where the source stood, or at the end."""
    after = [target if node == source and target else node for node in replicas if node != source or target]
    if target and target not in after:
        after.append(target)
    return tuple(dict.fromkeys(after))


def _costs(picture: ClusterPicture) -> tuple[dict[int, float], dict[int, float]]:
    """By partition what a replica costs the node that holds it, and what leading it costs."""
    partitions = picture.partitions
    count = len(partitions)
    if not count:
        return {}, {}
    per_byte = BYTES_SHARE / max(sum(each.bytes for each in partitions), count * BYTES_FLOOR)
    per_key = KEYS_SHARE / max(sum(each.keys for each in partitions), count * KEYS_FLOOR)
    requests = max(sum(each.requests_per_s for each in partitions), count * REQUESTS_FLOOR)
    requests_max = REQUESTS_TIMES_MEAN_MAX * requests / count
    per_request = REQUESTS_SHARE / requests
    per_replica = REPLICA_SHARE / count
    costs = {
        each.id: per_replica
        + per_byte * each.bytes
        + per_key * each.keys
        + per_request * min(each.requests_per_s, requests_max)
        for each in partitions
    }
    led = {each.id: 0.5 / count + 0.5 * each.requests_per_s / requests for each in partitions}
    return costs, led
