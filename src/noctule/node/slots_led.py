"""Which slots this node leads, ready to be looked up once for each command. Pure.

Kept up to date by what changes it, an election, a transfer, another map, so that a command costs one index.
"""

from noctule.base.ids import META_GROUP, GroupId
from noctule.core.placement.partition_map import PartitionMap
from noctule.core.placement.slots import SLOT_COUNT

_NONE = bytes(SLOT_COUNT)


class SlotsLed:
    """One node's."""

    __slots__ = ("_groups", "_is_closed", "_partitions", "flags")

    def __init__(self, partitions: PartitionMap) -> None:
        self.flags = bytearray(_NONE)
        """For each slot 1 if its partition is led here, else 0. Changed in place."""
        self._partitions = partitions
        self._groups: set[GroupId] = set()
        """Those led here."""
        self._is_closed = False

    def change(self, group: GroupId, *, is_led: bool) -> None:
        """The group is, or is not, led here from now on."""
        if is_led == (group in self._groups) or self._is_closed or group == META_GROUP:
            return
        (self._groups.add if is_led else self._groups.discard)(group)
        self._fill(group, b"\x01" if is_led else b"\x00")

    def map_changed(self) -> None:
        """Follow the map, which has changed."""
        self.flags[:] = _NONE
        for group in self._groups:
            self._fill(group, b"\x01")

    def close(self) -> None:
        """Nothing is led here any more, whatever comes."""
        self._is_closed = True
        self._groups.clear()
        self.flags[:] = _NONE

    def runs(self) -> list[tuple[int, int]]:
        """The slots led here as ranges, both ends inclusive, in ascending order and with gaps between them."""
        found = []
        first = self.flags.find(1)
        while first >= 0:
            end = self.flags.find(0, first)
            if end < 0:
                end = SLOT_COUNT
            found.append((first, end - 1))
            first = self.flags.find(1, end)
        return found

    def _fill(self, group: GroupId, flag: bytes) -> None:
        partition = self._partitions.get(group)
        if partition is not None and partition.slot_count:
            self.flags[partition.first_slot : partition.last_slot + 1] = flag * partition.slot_count
