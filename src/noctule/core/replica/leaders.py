"""Who leads which group, as known on this node, the other way round: asked when a node is lost or comes back."""

from noctule.base.ids import GroupId


class Leaders:
    """Every group stands under one node: its leader, or 0 while none is known."""

    __slots__ = ("_groups", "_leaders")

    def __init__(self) -> None:
        self._leaders: dict[GroupId, int] = {}
        self._groups: dict[int, dict[GroupId, None]] = {}

    def change(self, group: GroupId, leader: int) -> None:
        """The group has this leader from now on."""
        before = self._leaders.get(group)
        if before == leader:
            return
        if before is not None:
            del self._groups[before][group]
        self._leaders[group] = leader
        self._groups.setdefault(leader, {})[group] = None

    def forget(self, group: GroupId) -> None:
        """The group is not here any more."""
        leader = self._leaders.pop(group, None)
        if leader is not None:
            del self._groups[leader][group]

    def led_by(self, node: int) -> list[GroupId]:
        """The groups that this node leads, in ascending order; for 0 those without a known leader."""
        return sorted(self._groups.get(node, ()))

    def count(self, node: int) -> int:
        """How many groups this node leads."""
        return len(self._groups.get(node, ()))

    def any_led_by(self, node: int) -> GroupId | None:
        """One of those groups, the one that has been so for the longest; None when there is none."""
        return next(iter(self._groups.get(node, ())), None)

    def nodes(self) -> list[int]:
        """Those that lead at least one group, in ascending order; without 0."""
        return sorted(node for node, groups in self._groups.items() if node and groups)
