"""The consistent-hash ring: which nodes a key would have if nothing but the nodes themselves were known.

Each node stands at many points of a circle of 2^64 places, so many as its weight asks for; a key belongs to the node
whose point comes next. A node that comes or goes takes keys from everyone or gives them to everyone, and no key moves
between two others. Source: Karger et al., "Consistent Hashing and Random Trees" (1997). Points follow from node ids
alone, in every process alike. What the ring does not know, failure domains and loads, is put right in replicas.py.
"""

from bisect import bisect_left
from collections.abc import Iterator
from hashlib import blake2b

from noctule.base.errors import RequestError

VIRTUAL_NODES = 256
"""Points of a node of weight 1. A node's share of the circle then strays from its fair one by about 1/√256 = 6%."""

WEIGHT_MAX = 64.0
"""Bounds the points of a node to 16,384."""

_POINT_BYTES = 8
_POINTS_OF_A_DIGEST = 8


class ConsistentHashRing:
    """Nodes on a circle. The order in which they were added does not matter."""

    def __init__(self, virtual_nodes: int = VIRTUAL_NODES) -> None:
        self._virtual_nodes = virtual_nodes
        self._weights: dict[int, float] = {}
        self._points: list[tuple[int, int]] = []
        """Place and node, sorted; two nodes at one place, which is all but impossible, stand in the order of ids."""

    def __iter__(self) -> Iterator[int]:
        """The nodes, by id."""
        return iter(sorted(self._weights))

    def __len__(self) -> int:
        return len(self._weights)

    def __contains__(self, node: int) -> bool:
        return node in self._weights

    def add_node(self, node: int, weight: float = 1.0) -> None:
        """Take in a node, with a share of the keys in proportion to its weight; 0 takes none.

        A node that is there already gets the new weight: only keys that it wins or loses by that move.
        `RequestError` when the weight is below 0 or above `WEIGHT_MAX`.
        """
        if not 0 <= weight <= WEIGHT_MAX:
            raise RequestError(f"node {node} has weight {weight}; it must be between 0 and {WEIGHT_MAX:g}")
        if node in self._weights:
            self.remove_node(node)
        self._weights[node] = weight
        count = max(round(weight * self._virtual_nodes), 1) if weight else 0
        self._points.extend((place, node) for place in _places(node, count))
        self._points.sort()

    def remove_node(self, node: int) -> None:
        """Forget a node. `RequestError` when it is not there."""
        if self._weights.pop(node, None) is None:
            raise RequestError(f"node {node} is not in the ring")
        self._points = [point for point in self._points if point[1] != node]

    def node_for_key(self, key: bytes) -> int:
        """The node that a key belongs to. `RequestError` when no node has a weight."""
        return self.replica_nodes(key, 1)[0]

    def replica_nodes(self, key: bytes, count: int) -> list[int]:
        """The first `count` different nodes from the key on, clockwise; fewer when there are not so many.

        `RequestError` when no node has a weight.
        """
        if not self._points:
            raise RequestError("the ring is empty: add a node with a weight above 0")
        found: list[int] = []
        for node in self.walk(key):
            if len(found) >= count:
                break
            found.append(node)
        return found

    def walk(self, key: bytes) -> Iterator[int]:
        """All nodes with a weight, each once, clockwise from the key on."""
        start = bisect_left(self._points, (_place(key), 0))
        seen: set[int] = set()
        count = sum(weight > 0 for weight in self._weights.values())
        for index in range(start - len(self._points), start):
            if len(seen) == count:
                return
            node = self._points[index][1]
            if node not in seen:
                seen.add(node)
                yield node


def _place(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=_POINT_BYTES).digest(), "big")


def _places(node: int, count: int) -> Iterator[int]:
    """The first `count` places of a node; a larger count keeps those of a smaller one."""
    for number in range(count):
        row, column = divmod(number, _POINTS_OF_A_DIGEST)
        if column == 0:
            digest = blake2b(b"node %d, row %d" % (node, row)).digest()
        yield int.from_bytes(digest[column * _POINT_BYTES :][:_POINT_BYTES], "big")
