"""Directed graphs with labelled edges: is there a cycle, and which is the shortest with the plainest edges."""

from collections import deque
from collections.abc import Sequence
from enum import IntEnum


class Edge(IntEnum):
    """Why one transaction must come before another; the plainer the lower."""

    WRITE_WRITE = 1
    """It appended before the other did."""
    WRITE_READ = 2
    """The other read what it appended."""
    READ_WRITE = 3
    """It did not see what the other appended."""
    REAL_TIME = 4
    """It had been answered before the other began."""


Graph = list[dict[int, Edge]]
"""For each node its successors, each with the plainest reason."""


def add_edge(graph: Graph, before: int, after: int, edge: Edge) -> None:
    """Add an edge unless a plainer one is there; an edge to oneself says nothing."""
    if before != after:
        known = graph[before].get(after)
        if known is None or edge < known:
            graph[before][after] = edge


def shortest_cycle(graph: Graph) -> list[int]:
    """The nodes of a cycle in order, empty when there is none.

    One with plain edges goes before a shorter one that needs others.
    """
    tangles = _tangles(graph, range(len(graph)), Edge.REAL_TIME)
    if not tangles:
        return []
    for plainest in Edge:
        cycles = [
            _shortest_within(graph, set(smaller), plainest)
            for tangle in tangles
            for smaller in _tangles(graph, tangle, plainest)
        ]
        if cycles:
            return min(cycles, key=len)
    raise AssertionError("a tangle has a cycle")


def _tangles(graph: Graph, nodes: Sequence[int], worst: Edge) -> list[list[int]]:
    """The strongly connected components of more than one node (Tarjan, 1972), without recursion."""
    allowed = set(nodes)
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    on_path: set[int] = set()
    path: list[int] = []
    found = []
    for root in nodes:
        if root in order:
            continue
        order[root] = low[root] = len(order)
        path.append(root)
        on_path.add(root)
        work = [(root, iter(graph[root].items()))]
        while work:
            node, successors = work[-1]
            for successor, edge in successors:
                if edge > worst or successor not in allowed:
                    continue
                if successor not in order:
                    order[successor] = low[successor] = len(order)
                    path.append(successor)
                    on_path.add(successor)
                    work.append((successor, iter(graph[successor].items())))
                    break
                if successor in on_path:
                    low[node] = min(low[node], order[successor])
            else:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == order[node]:
                    component = _cut(path, on_path, node)
                    if len(component) > 1:
                        found.append(component)
    return found


def _cut(path: list[int], on_path: set[int], node: int) -> list[int]:
    at = len(path) - 1
    while path[at] != node:
        at -= 1
    component = path[at:]
    del path[at:]
    on_path.difference_update(component)
    return component


def _shortest_within(graph: Graph, tangle: set[int], worst: Edge) -> list[int]:
    """A shortest cycle of a strongly connected component, by breadth-first search from each of a few nodes."""
    best: list[int] = []
    for start in sorted(tangle)[:100]:
        came_from = {start: start}
        queue = deque([start])
        while queue:
            node = queue.popleft()
            for successor, edge in graph[node].items():
                if edge > worst or successor not in tangle:
                    continue
                if successor == start:
                    cycle = [node]
                    while cycle[-1] != start:
                        cycle.append(came_from[cycle[-1]])
                    if not best or len(cycle) < len(best):
                        best = cycle[::-1]
                    queue.clear()
                    break
                if successor not in came_from:
                    came_from[successor] = node
                    queue.append(successor)
    return best
