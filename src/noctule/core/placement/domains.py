"""Failure domains: what fails together. Hosts stand in racks, racks in zones, as the labels of nodes tell.

A node without a ``host`` label is a host of its own. A node without ``rack`` or ``zone`` is in the unknown one, which
it shares with all that do not say: whoever labels nothing gets no rules, and whoever labels half is warned by the
planner's moves instead of trusted. Racks are told apart within a zone: "1" in zone a is not "1" in zone b. Host names
are taken to be unique.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NewType, Protocol

Clashes = NewType("Clashes", int)
"""How many pairs of replicas share a host, a rack, a zone, in one number: the smaller, the better, hosts first.
Levels at which the nodes at hand are all alike, or all different, are left out, for they decide nothing."""

NO_CLASHES = Clashes(0)

_LEVELS = (("host", 1 << 40), ("rack", 1 << 20), ("zone", 1))
"""What one pair counts. A group of a thousand replicas would fit under the next level."""


class Site(Protocol):
    """What placement must know of a node; members of the roster and nodes in a picture are such."""

    @property
    def id(self) -> int:
        """The node."""

    @property
    def labels(self) -> Mapping[str, str]:
        """``host``, ``rack`` and ``zone`` are heeded."""

    @property
    def weight(self) -> float:
        """Its share beside the others'; 0 takes none."""


class Domains:
    """The failure domains of some nodes. Of a node it does not know it is assumed that it shares nothing."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._pairs: dict[int, dict[int, int]] = {site.id: {} for site in sites}
        """For each node those that share a domain with it, and what such a pair counts."""
        self._neighbourhoods: dict[int, tuple[str, ...]] = {site.id: () for site in sites}
        for name, unit in _LEVELS:
            domains: dict[tuple[str, ...], list[int]] = {}
            for site in sites:
                domains.setdefault(_domain(site, name), []).append(site.id)
            if not 1 < len(domains) < len(sites):
                continue
            for domain, nodes in domains.items():
                for node in nodes:
                    pairs = self._pairs[node]
                    for other in nodes:
                        pairs[other] = pairs.get(other, 0) + unit
                    if name != "host":
                        self._neighbourhoods[node] += domain

    def clashes(self, nodes: Sequence[int]) -> Clashes:
        """Of all pairs among these nodes."""
        clashes = 0
        for place, node in enumerate(nodes):
            pairs = self._pairs.get(node)
            if pairs:
                for other in nodes[:place]:
                    clashes += pairs.get(other, 0)
        return Clashes(clashes)

    def added(self, nodes: Iterable[int], node: int) -> Clashes:
        """Of the pairs that `node` would make with `nodes`, which it is not among."""
        pairs = self._pairs.get(node)
        if not pairs:
            return NO_CLASHES
        clashes = 0
        for other in nodes:
            clashes += pairs.get(other, 0)
        return Clashes(clashes)

    def least_added(self, nodes: Iterable[int], count: int) -> list[Clashes]:
        """What the first, second, … of `count` nodes must add at least when they are chosen from `nodes`.

        Domains lie within each other, so the choice that is best at each step is also the best as a whole.
        """
        left, chosen, least = list(nodes), list[int](), list[Clashes]()
        for _ in range(min(count, len(left))):
            added, node = min((self.added(chosen, node), node) for node in left)
            left.remove(node)
            chosen.append(node)
            least.append(added)
        return least

    def neighbourhood(self, node: int) -> tuple[str, ...]:
        """Equal for nodes between which only the host makes a difference."""
        return self._neighbourhoods.get(node, ())

    def shared(self, nodes: Sequence[int]) -> str:
        """The first level at which two of the nodes meet: ``host``, ``rack`` or ``zone``; empty when none do."""
        clashes = self.clashes(nodes)
        return next((name for name, unit in _LEVELS if clashes >= unit), "")


def _domain(site: Site, name: str) -> tuple[str, ...]:
    labels = site.labels
    if name == "host":
        return (name, labels["host"]) if labels.get("host") else ("node", str(site.id))
    zone = labels.get("zone", "")
    return (zone,) if name == "zone" else (zone, labels.get("rack", ""))
