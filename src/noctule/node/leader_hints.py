"""Who leads the groups that have no replica on this node, as other nodes have told. Pure.

A hint is never more than that: a write is taken by the leader of the term it was sent to, or not at all.
"""

from collections.abc import Callable
from typing import Final

from noctule.base.ids import GroupId, Instant
from noctule.core.placement.partition_map import PartitionMap

ASK_INTERVAL_S: Final = 0.05
"""Between two questions about one group: a lost one costs a few retries of the router, an election some questions."""


class LeaderHints:
    """One node's; at most one for each partition of the map."""

    def __init__(
        self,
        node_id: int,
        partitions: PartitionMap,
        is_trusted: Callable[[int], bool],
        now: Callable[[], Instant],
    ) -> None:
        self._node_id = node_id
        self._partitions = partitions
        self._is_trusted = is_trusted
        self._now = now
        self._hints: dict[GroupId, tuple[int, int]] = {}
        """Leader and term; leader 0 keeps the term, below which nothing is news."""
        self._asked: dict[GroupId, tuple[Instant, int]] = {}
        """When a group was last asked about, and how often."""

    def get(self, group: GroupId) -> tuple[int, int]:
        """Leader and its term; leader 0 when nobody is known that seems alive: one that hangs is connected for long."""
        leader, term = self._hints.get(group, (0, 0))
        return leader if leader and self._is_trusted(leader) else 0, term

    def learn(self, group: GroupId, leader: int, term: int) -> bool:
        """Somebody says that this node leads in this term; whether that is news."""
        known = self._hints.get(group, (0, 0))
        is_news = term >= known[1] and (leader, term) != known
        if not is_news or leader in (0, self._node_id) or not term or group not in self._partitions.partitions:
            return False
        self._hints[group] = leader, term
        self._asked.pop(group, None)
        return True

    def refused(self, group: GroupId, by: int, leader: int, term: int) -> None:
        """A request was refused: a hint to whoever refused it is wrong, unless that says otherwise itself."""
        known = self._hints.get(group, (0, 0))
        if known[0] == by:
            self._hints[group] = 0, known[1]
        self.learn(group, leader, term)

    def peer_lost(self, node: int) -> None:
        """Forget all hints to a node that cannot be reached; whoever took over is asked for."""
        for group, (leader, term) in self._hints.items():
            if leader == node:
                self._hints[group] = 0, term

    def map_changed(self) -> None:
        """Forget groups that are no more."""
        here = self._partitions.partitions
        self._hints = {group: hint for group, hint in self._hints.items() if group in here}
        self._asked = {group: asked for group, asked in self._asked.items() if group in here}

    def whom_to_ask(self, group: GroupId) -> int:
        """A node that seems alive and holds a replica, another one each time; 0: none, or it is too soon to ask."""
        partition = self._partitions.get(group)
        if partition is None:
            return 0
        asked_at, count = self._asked.get(group, (None, 0))
        now = self._now()
        if asked_at is not None and now - asked_at < ASK_INTERVAL_S:
            return 0
        holders = [node for node in partition.replicas if node != self._node_id and self._is_trusted(node)]
        if not holders:
            return 0
        self._asked[group] = now, count + 1
        return holders[count % len(holders)]
