"""Each group that changes has its turn about once in an interval, and none of them holds anything up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.replica import sampling
from noctule.core.replica.sampling import SampleTable, is_small_enough, is_worth_a_sample
from noctule.core.roster.loads import Compared

INTERVAL_S = 60.0


@given(st.integers(1, 50))
def test_each_group_has_its_turn_once_in_an_interval(count: int) -> None:
    groups = [GroupId(number) for number in range(1, count + 1)]
    table = SampleTable()
    turns: dict[GroupId, list[float]] = {group: [] for group in groups}
    for second in range(round(3 * INTERVAL_S)):
        for group in table.due(groups, INTERVAL_S, Instant(1_000.0 + second)):
            table.looked_at(group, Instant(1_000.0 + second))
            turns[group].append(second)
    for seconds in turns.values():
        assert seconds[0] <= INTERVAL_S
        assert len(seconds) in (2, 3)


def test_after_an_election_the_turns_are_spread() -> None:
    """All at once would be a second of CPU time for each million keys, on every node."""
    groups = [GroupId(number) for number in range(1, 101)]
    table = SampleTable()
    assert len(table.due(groups, INTERVAL_S, Instant(0.0))) == 0
    assert 35 < len(table.due(groups, INTERVAL_S, Instant(INTERVAL_S / 2))) < 65


def test_who_has_waited_longest_comes_first() -> None:
    table = SampleTable()
    groups = [GroupId(1), GroupId(2), GroupId(3)]
    table.due(groups, INTERVAL_S, Instant(0.0))
    for group, at in ((2, 5.0), (3, 1.0), (1, 3.0)):
        table.looked_at(GroupId(group), Instant(at))
    assert table.due(groups, INTERVAL_S, Instant(200.0)) == [3, 1, 2]


def test_who_comes_back_waits_as_if_new() -> None:
    table = SampleTable()
    table.due([GroupId(1)], INTERVAL_S, Instant(0.0))
    table.looked_at(GroupId(1), Instant(0.0))
    assert table.due([], INTERVAL_S, Instant(500.0)) == []
    assert table.due([GroupId(1)], INTERVAL_S, Instant(501.0)) == []


@pytest.mark.parametrize(
    ("last", "applied", "is_worth"),
    [
        (None, 1, True),
        (Compared(b"", 7, equal=(1, 2, 3)), 7, False),
        (Compared(b"", 7, equal=(1, 2, 3)), 8, True),
        (Compared(b"", 7, equal=(1, 2), silent=(3,)), 7, True),
        (Compared(b"", 7, equal=(1, 2), different=(3,)), 7, False),
    ],
)
def test_what_has_not_changed_is_not_compared_again(last: Compared | None, applied: int, *, is_worth: bool) -> None:
    assert is_worth_a_sample(last, applied) is is_worth


@pytest.mark.interpreted
def test_a_partition_or_slot_that_is_too_large_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    keyspace = Keyspace()
    for number in range(10):
        keyspace.execute([b"SET", b"{a}%d" % number, b"value"], 1)
    assert is_small_enough(keyspace)
    monkeypatch.setattr(sampling, "SAMPLED_SLOT_KEYS_MAX", 9)
    assert not is_small_enough(keyspace)
    monkeypatch.undo()
    monkeypatch.setattr(sampling, "SAMPLED_BYTES_MAX", 100)
    assert not is_small_enough(keyspace)
