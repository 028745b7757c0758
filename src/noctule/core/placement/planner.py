"""What should be moved next: a picture of the cluster in, a short ordered plan out. Pure: no state between calls.

In this order: restore replicas whose nodes are lost, empty nodes that drain, follow the replication factor, part
replicas that share a failure domain, even out loads, even out leaders. A plan is bounded, and the next one is made
from a new picture, in which the moves of this one are running. It ends because each kind of move lowers something
that no later kind raises again: replicas missing, replicas on draining nodes, clashes of domains, unevenness.

A move is planned only when the group has a majority of living replicas before it and after it, and when nothing else
is going on with the partition.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum

from noctule.core.placement.books import Books, Scale, moved
from noctule.core.placement.domains import Clashes
from noctule.core.placement.partition_map import PartitionState
from noctule.core.placement.picture import (
    Blocked,
    ClusterPicture,
    LeaderMove,
    Move,
    PartitionPicture,
    Plan,
    PlannerLimits,
)
from noctule.core.roster.members import PRESENT, MemberState

TRIED_IN_VAIN_MAX = 100
"""How many partitions without a remedy are looked at closely in one call. Each costs up to a millisecond with 100
nodes; only where memory, weights or nodes that are away stand in the way can there be so many."""

UNDER_WAY = 0.5
"""The part of the imbalance that starts moves at which they end."""

ASKED_ONE_BY_ONE_MAX = 10
"""In a larger cluster a node that can take nothing from another speaks for those in its racks."""


class _Need(IntEnum):
    """What is wrong with a partition, the most urgent first."""

    RESTORE = 1
    DRAIN = 2
    FACTOR = 3
    DOMAINS = 4


def plan(picture: ClusterPicture, limits: PlannerLimits) -> Plan:
    """The next moves of replicas and leaders, the most urgent first, and what cannot be done.

    Moves never exceed `moves_max` less the running ones, each partition appears once at most, and an even, healthy
    cluster gets an empty plan. The same picture gives the same plan on every node.
    """
    return _Planner(picture, limits).plan()


class _Planner:
    def __init__(self, picture: ClusterPicture, limits: PlannerLimits) -> None:
        self._books = Books(picture, limits)
        self._limits = limits
        self._running = len(picture.running)
        self._room = max(limits.moves_max - self._running, 0)
        self._moves: list[Move] = []
        self._leader_moves: list[LeaderMove] = []
        self._blocked: dict[str, list[int]] = {}
        self._least: dict[int, Clashes] = {}
        # Reckoned once for each node: what changes in the course of a plan is busy from then on.
        self._may_leave: dict[int, list[tuple[int, list[int], Clashes]]] = {}
        self._may_hand_over: dict[int, dict[int, list[int]]] = {}

    def plan(self) -> Plan:
        in_vain = 0
        for need, _, number in sorted(self._needs()):
            partition = self._books.partitions[number]
            is_done = len(self._moves) >= self._room or in_vain >= TRIED_IN_VAIN_MAX
            if is_done and (need is _Need.DOMAINS or self._may_change(partition)):
                continue
            move = self._answer(need, partition)
            if move is None:
                in_vain += 1
            elif not is_done:
                self._take(move)
        self._leave_draining_nodes()
        if self._limits.is_balancing:
            self._balance()
            self._balance_leaders()
        blocked = tuple(
            Blocked(partitions=tuple(partitions), sentence=f"{_count(len(partitions), 'partition')} {sentence}")
            for sentence, partitions in self._blocked.items()
        )
        return Plan(moves=tuple(self._moves), leader_moves=tuple(self._leader_moves), blocked=blocked)

    def _take(self, move: Move) -> None:
        self._moves.append(move)
        self._books.take(move)

    def _may_change(self, partition: PartitionPicture) -> bool:
        """Whether a closer look could find a move. A cheap question, so that all that is blocked is told."""
        replicas = self._books.replicas[partition.id]
        return self._books.has_majority(replicas) and not self._books.takers.issubset(replicas)

    def _needs(self) -> Iterator[tuple[_Need, int, int]]:
        """Need, redundancy left, and id of each partition that is not as it should be."""
        books = self._books
        troubled = books.lost | books.draining
        for partition in books.partitions.values():
            replicas = books.replicas[partition.id]
            has_trouble = not troubled.isdisjoint(replicas)
            if len(replicas) == books.factor and not has_trouble and not self._clashes_needlessly(replicas):
                continue
            if partition.id in books.busy or partition.state in (PartitionState.MIGRATING, PartitionState.SPLITTING):
                continue
            living = sum(node in books.living for node in replicas)
            redundancy = living - (len(replicas) // 2 + 1)
            if has_trouble and not books.lost.isdisjoint(replicas):
                need = _Need.RESTORE
            elif has_trouble and len(replicas) <= books.factor:
                need = _Need.DRAIN
            elif len(replicas) != books.factor:
                need = _Need.FACTOR
            else:
                need = _Need.DOMAINS
            yield need, redundancy, partition.id

    def _clashes_needlessly(self, replicas: tuple[int, ...]) -> bool:
        clashes = self._books.domains.clashes(replicas)
        if not clashes:
            return False
        count = len(replicas)
        if count not in self._least:
            self._least[count] = Clashes(sum(self._books.domains.least_added(sorted(self._books.takers), count)))
        return clashes > self._least[count]

    def _answer(self, need: _Need, partition: PartitionPicture) -> Move | None:
        """The move that a need asks for; None, and a note in `blocked`, when there is none."""
        books = self._books
        replicas = books.replicas[partition.id]
        if not books.has_majority(replicas):
            missing = ", ".join(str(node) for node in replicas if node not in books.living)
            self._block(partition, f"cannot change: no majority of living replicas until one of {missing} is back")
            return None
        match need:
            case _Need.RESTORE:
                lost = [node for node in replicas if node in books.lost]
                if len(replicas) > books.factor:
                    return self._drop(partition, lost, f"{self._why_lost(lost[0])}; {_count(len(replicas), 'replica')}")
                if self._is_gone(lost[0]) and books.takers.issubset(replicas):
                    # It can never come back and nobody can take its place: the group need not wait for it.
                    return self._drop(partition, lost, f"{self._why_lost(lost[0])}; no other node can take it")
                return self._replace(partition, lost, self._why_lost(lost[0]))
            case _Need.DRAIN:
                draining = [node for node in replicas if node in books.draining]
                return self._replace(partition, draining, f"node {draining[0]} drains")
            case _Need.FACTOR if len(replicas) > books.factor:
                reason = f"{_count(len(replicas), 'replica')}, the factor is {books.factor}"
                return self._drop(partition, replicas, reason)
            case _Need.FACTOR:
                return self._add(partition, f"{_count(len(replicas), 'replica')} of {books.factor}")
            case _Need.DOMAINS:
                return self._part(partition)

    def _replace(self, partition: PartitionPicture, sources: list[int], reason: str) -> Move | None:
        replicas = self._books.replicas[partition.id]
        for source in sources:
            target = self._best_target(partition, [node for node in replicas if node != source])
            if target is None:
                self._block_targets(partition, f"cannot leave node {source}")
                return None
            if self._books.has_majority(moved(replicas, source, target)):
                return Move(partition=partition.id, source=source, target=target, reason=reason)
        self._block(partition, "cannot change: their majority would hang on nodes that are not alive")
        return None

    def _add(self, partition: PartitionPicture, reason: str) -> Move | None:
        replicas = self._books.replicas[partition.id]
        target = self._best_target(partition, replicas)
        if target is None:
            self._block_targets(partition, f"must stay at {_count(len(replicas), 'replica')}")
            return None
        if not self._books.has_majority(moved(replicas, 0, target)):
            self._block(partition, "cannot change: their majority would hang on nodes that are not alive")
            return None
        return Move(partition=partition.id, source=0, target=target, reason=reason)

    def _drop(self, partition: PartitionPicture, sources: Iterable[int], reason: str) -> Move | None:
        """Drop the replica that is missed least: a dead one, a draining one, one near another, one on a full node."""
        books = self._books
        replicas = books.replicas[partition.id]

        def missed(source: int) -> tuple[bool, bool, Clashes, bool, float, int]:
            rest = [node for node in replicas if node != source]
            load = books.holding.load(source) if source in books.takers else 0.0
            is_draining = source in books.draining
            return (
                source in books.living,
                not is_draining,
                books.domains.clashes(rest),
                source == partition.leader,
                -load,
                source,
            )

        for source in sorted(sources, key=missed):
            if books.has_majority(moved(replicas, source, 0)):
                return Move(partition=partition.id, source=source, target=0, reason=reason)
        self._block(partition, "cannot change: their majority would hang on nodes that are not alive")
        return None

    def _part(self, partition: PartitionPicture) -> Move | None:
        """The exchange of one replica that leaves the fewest clashes of domains; None when none leaves fewer."""
        books = self._books
        replicas = books.replicas[partition.id]
        before = books.domains.clashes(replicas)
        best, best_rank = None, (before, 0.0)
        for source in replicas:
            rest = [node for node in replicas if node != source]
            target = self._best_target(partition, rest, besides=source)
            if target is None:
                continue
            after = moved(replicas, source, target)
            rank = (books.domains.clashes(after), books.holding.load(target))
            if rank[0] < before and (best is None or rank < best_rank) and books.has_majority(after):
                reason = f"replicas share a {books.domains.shared(replicas)}"
                best, best_rank = Move(partition=partition.id, source=source, target=target, reason=reason), rank
        return best

    def _best_target(self, partition: PartitionPicture, beside: Iterable[int], besides: int = 0) -> int | None:
        """Of the nodes that can take a replica, the one that shares least with `beside`, then the least loaded."""
        books = self._books
        beside = tuple(beside)
        taken = {*books.replicas[partition.id], besides}
        ranks = (
            (books.domains.added(beside, node), books.holding.load(node), node)
            for node in books.takers
            if node not in taken and books.has_room(node, partition)
        )
        best = min(ranks, default=None)
        return None if best is None else best[2]

    def _leave_draining_nodes(self) -> None:
        """Leadership goes ahead of the replicas: a transfer is quick, and clients follow it at once."""
        for node in sorted(self._books.draining):
            for number in list(self._books.led.get(node, ())):
                heirs = [each for each in self._books.replicas[number] if each in self._books.takers]
                if number in self._books.busy or not heirs:
                    continue
                heir = min(heirs, key=lambda each: (self._books.leading.load(each), each))
                self._move_leader(number, node, heir, f"node {node} drains")

    def _balance(self) -> None:
        books = self._books
        is_under_way = self._running > 0 or len(self._moves) > 0
        kind = _itself if len(books.nodes) <= ASKED_ONE_BY_ONE_MAX else books.domains.neighbourhood
        while len(self._moves) < self._room:
            imbalance = self._limits.imbalance_min * (UNDER_WAY if is_under_way else 1)
            found = books.holding.relieve(imbalance, self._movable, kind)
            if found is None:
                return
            number, source, target = found
            reason = _uneven(books.holding, source, target)
            self._take(Move(partition=number, source=source, target=target, reason=reason))
            is_under_way = True

    def _movable(self, source: int) -> Callable[[int], Iterator[tuple[float, int]]]:
        """What could go from a node to another without a worse spread over domains; what it leads comes last."""
        books = self._books
        if source not in self._may_leave:
            self._may_leave[source] = leaving = []
            for number in sorted(books.held[source], key=books.led[source].__contains__):
                replicas = books.replicas[number]
                is_calm = number not in books.busy and books.partitions[number].state is PartitionState.ACTIVE
                if is_calm and books.living.issuperset(replicas):
                    rest = [node for node in replicas if node != source]
                    leaving.append((number, rest, books.domains.added(rest, source)))

        def offers(target: int) -> Iterator[tuple[float, int]]:
            added = books.domains.added
            for number, rest, clashes in self._may_leave[source]:
                if target in rest or number in books.busy or added(rest, target) > clashes:
                    continue
                partition = books.partitions[number]
                if books.has_room(target, partition) and books.fits(source, target, partition):
                    yield books.costs[number], number

        return offers

    def _balance_leaders(self) -> None:
        books = self._books
        is_under_way = False
        while len(self._leader_moves) < self._limits.leader_moves_max:
            imbalance = self._limits.leader_imbalance_min * (UNDER_WAY if is_under_way else 1)
            found = books.leading.relieve(imbalance, self._transferable, _itself)
            if found is None:
                return
            is_under_way = True
            number, source, target = found
            reason = f"leaders: {_uneven(books.leading, source, target)}"
            self._move_leader(number, source, target, reason)

    def _transferable(self, source: int) -> Callable[[int], Iterator[tuple[float, int]]]:
        books = self._books
        if source not in self._may_hand_over:
            self._may_hand_over[source] = {}
            for number in books.led[source]:
                for node in books.replicas[number]:
                    self._may_hand_over[source].setdefault(node, []).append(number)

        def offers(target: int) -> Iterator[tuple[float, int]]:
            for number in self._may_hand_over[source].get(target, ()):
                if number not in books.busy:
                    yield books.led_costs[number], number

        return offers

    def _move_leader(self, number: int, source: int, target: int, reason: str) -> None:
        if len(self._leader_moves) < self._limits.leader_moves_max:
            self._leader_moves.append(LeaderMove(partition=number, to=target, reason=reason))
            self._books.take_leader(number, source, target)

    def _block(self, partition: PartitionPicture, sentence: str) -> None:
        self._blocked.setdefault(sentence, []).append(partition.id)

    def _block_targets(self, partition: PartitionPicture, what: str) -> None:
        takers, factor = self._books.takers, self._books.factor
        if takers <= set(self._books.replicas[partition.id]):
            self._block(
                partition, f"{what}: {_count(len(takers), 'node')} for factor {factor}; add a node, or lower it"
            )
        else:
            self._block(partition, f"{what}: the other nodes have no memory left; add a node")

    def _is_gone(self, node: int) -> bool:
        picture = self._books.nodes.get(node)
        return picture is None or picture.state not in PRESENT

    def _why_lost(self, node: int) -> str:
        picture = self._books.nodes.get(node)
        if picture is None or picture.state is MemberState.REMOVED:
            return f"node {node} was removed"
        if picture.state is MemberState.LEFT:
            return f"node {node} left"
        return f"node {node} is away for {picture.away_s:.0f} s"


def _itself(node: int) -> tuple[str, ...]:
    """Of a kind of its own."""
    return (str(node),)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _uneven(scale: Scale, source: int, target: int) -> str:
    """How far two nodes are from their fair loads, in words."""
    fair = scale.fair()
    return f"node {source} {_off(scale.load(source), fair)}, node {target} {_off(scale.load(target), fair)}"


def _off(load: float, fair: float) -> str:
    if load == float("inf"):
        return "should have nothing"
    percent = round(100 * (load / fair - 1)) if fair else 0
    return f"has {abs(percent)}% {'more' if percent >= 0 else 'less'} than its share"
