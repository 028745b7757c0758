"""Which node is named as the master to clients of Redis Sentinel. Pure.

Any would do, since all nodes take writes; so it is one on which those that are asked agree, and that seldom changes:
the leader of *meta*. While none is known it stays who it was, or becomes the lowest node that is alive.
"""

from collections.abc import Iterable


class ServiceMaster:
    """As one node knows it."""

    def __init__(self) -> None:
        self.node = 0
        """The last answer of `choose`; 0 before the first."""

    def choose(self, meta_leader: int, alive: Iterable[int]) -> int:
        """The master by what is known now: who leads *meta*, 0 for nobody, and the nodes that are alive.

        They are not empty, for this very node is among them.
        """
        living = set(alive)
        if meta_leader in living:
            self.node = meta_leader
        elif self.node not in living:
            self.node = min(living)
        return self.node
