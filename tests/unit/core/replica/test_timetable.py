"""A tick costs what is due."""

from hypothesis import given
from hypothesis import strategies as st

from noctule.base.ids import END_OF_TIME, GroupId, Instant
from noctule.core.replica.timetable import Timetable


def test_the_longest_waiting_come_first_and_no_more_than_asked_for() -> None:
    timetable = Timetable()
    for group, deadline in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 9.0)):
        timetable.note(GroupId(group), Instant(deadline))
    assert timetable.next_deadline() == 1.0
    assert timetable.take_due(Instant(5.0), 2) == [2, 3]
    assert timetable.take_due(Instant(5.0), 2) == [1]
    assert timetable.take_due(Instant(5.0), 2) == []


def test_a_later_deadline_adds_nothing_to_the_heap() -> None:
    """A busy follower's election deadline moves with every message: a heap entry for each would be the whole cost."""
    timetable = Timetable()
    for at in range(1, 1_000):
        timetable.note(GroupId(1), Instant(at))
    assert len(timetable._heap) == 1
    assert timetable.take_due(Instant(1.0), 9) == [1]


def test_who_sleeps_is_nowhere() -> None:
    timetable = Timetable()
    timetable.note(GroupId(1), END_OF_TIME)
    assert timetable.next_deadline() == END_OF_TIME
    assert timetable.take_due(Instant(1e9), 9) == []


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 50)), max_size=60))
def test_nobody_is_looked_at_too_late_or_twice(notes: list[tuple[int, int]]) -> None:
    """Whatever deadlines were noted in whatever order, each group comes once, no later than its earliest."""
    timetable = Timetable()
    earliest: dict[int, int] = {}
    for group, deadline in notes:
        timetable.note(GroupId(group), Instant(deadline))
        earliest[group] = min(deadline, earliest.get(group, deadline))
    seen: list[int] = []
    for now in range(51):
        due = timetable.take_due(Instant(now), 100)
        assert sorted(due) == sorted(group for group, deadline in earliest.items() if deadline == now)
        seen += due
    assert sorted(seen) == sorted(earliest)
