"""When each group is due: a heap that forgets lazily, so that a tick costs what is due and not how many groups there
are. A group that sleeps stands in no heap at all.
"""

from heapq import heappop, heappush

from noctule.base.ids import END_OF_TIME, GroupId, Instant


class Timetable:
    """For each group the earliest instant at which its deadline must be looked at.

    A deadline that moves later, as a busy group's does all the time, changes nothing here: it is looked at too early,
    once, and noted again.
    """

    __slots__ = ("_earliest", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[Instant, GroupId]] = []
        self._earliest: dict[GroupId, Instant] = {}
        """Of each group's entries in the heap; later ones are out of date."""

    def note(self, group: GroupId, deadline: Instant) -> None:
        """The group's deadline is this now; `END_OF_TIME` is never."""
        if deadline < self._earliest.get(group, END_OF_TIME):
            self._earliest[group] = deadline
            heappush(self._heap, (deadline, group))

    def next_deadline(self) -> Instant:
        """Before this instant nobody is due; `END_OF_TIME` when nobody is noted."""
        return self._heap[0][0] if self._heap else END_OF_TIME

    def take_due(self, now: Instant, count_max: int) -> list[GroupId]:
        """Groups to look at now, the longest waiting first, no more than so many; each must be noted again."""
        due: list[GroupId] = []
        heap, earliest = self._heap, self._earliest
        while heap and heap[0][0] <= now and len(due) < count_max:
            at, group = heappop(heap)
            if earliest.get(group) == at:
                del earliest[group]
                due.append(group)
        return due
