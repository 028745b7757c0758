"""Who differs is decided by what most hold, of one entry, once all have told or it is too late for more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.ids import Instant
from noctule.core.replica.comparison import BYTES_PER_S_MIN, INDEXES_MAX, PATIENCE_S, Comparison, odd_ones
from noctule.core.roster.loads import Compared

NOW = Instant(100.0)
LATE = Instant(NOW + PATIENCE_S + 1.0)


def comparison(*members: int, state_bytes: int = 0) -> Comparison:
    return Comparison(b"n", members, state_bytes, NOW)


@pytest.mark.parametrize(
    ("told", "odd"),
    [
        ({}, ()),
        ({1: b"a"}, ()),
        ({1: b"a", 2: b"a", 3: b"a"}, ()),
        ({1: b"a", 2: b"b", 3: b"a"}, (2,)),
        ({1: b"b", 2: b"a", 3: b"a"}, (1,)),  # The leader's own may be the odd one.
        ({1: b"a", 2: b"b"}, (1, 2)),
        ({1: b"a", 2: b"b", 3: b"c"}, (1, 2, 3)),
        ({1: b"a", 2: b"a", 3: b"b", 4: b"b"}, (1, 2, 3, 4)),
    ],
)
def test_the_odd_ones_are_those_that_most_are_not_like(told: dict[int, bytes], odd: tuple[int, ...]) -> None:
    assert odd_ones(told) == odd


@given(st.dictionaries(st.integers(1, 9), st.sampled_from([b"a", b"b", b"c"])))
def test_there_are_odd_ones_exactly_when_something_differs(told: dict[int, bytes]) -> None:
    odd = odd_ones(told)
    assert bool(odd) == (len(set(told.values())) > 1)
    rest = [told[node] for node in told if node not in odd]
    assert len(set(rest)) <= 1
    assert not rest or 2 * len(rest) > len(told)


def test_it_ends_when_all_have_told_of_one_entry() -> None:
    running = comparison(1, 2, 3)
    for node in (1, 2):
        running.tell(node, 7, b"a")
        assert running.result(NOW) is None
    running.tell(3, 7, b"a")
    assert running.result(NOW) == Compared(b"n", 7, equal=(1, 2, 3))


def test_a_replica_that_differs_is_named() -> None:
    running = comparison(1, 2, 3)
    for node, digest in ((1, b"a"), (2, b"b"), (3, b"a")):
        running.tell(node, 7, digest)
    assert running.result(NOW) == Compared(b"n", 7, equal=(1, 3), different=(2,))
    assert running.told_at(7) == {1: b"a", 2: b"b", 3: b"a"}


def test_who_is_silent_is_not_waited_for_forever() -> None:
    running = comparison(1, 2, 3)
    running.tell(1, 7, b"a")
    running.tell(3, 7, b"b")
    assert running.result(LATE) == Compared(b"n", 7, different=(1, 3), silent=(2,))
    assert comparison(1, 2).result(LATE) == Compared(b"n", silent=(1, 2))


def test_a_large_state_is_given_longer() -> None:
    running = comparison(1, 2, state_bytes=60 * BYTES_PER_S_MIN)
    assert running.result(LATE) is None
    assert running.result(Instant(LATE + 60)) is not None


def test_digests_of_different_entries_are_not_compared() -> None:
    """An order that was sent again is logged twice, and what changed between the two is no fault of anybody's."""
    running = comparison(1, 2)
    running.tell(1, 7, b"a")
    running.tell(2, 9, b"b")
    assert running.result(NOW) is None
    running.tell(1, 9, b"b")
    assert running.result(NOW) == Compared(b"n", 9, equal=(1, 2))


def test_what_others_say_is_not_heeded_and_what_is_kept_is_bounded() -> None:
    running = comparison(1, 2)
    running.tell(5, 7, b"x")
    assert running.told_at(7) == {}
    for index in range(1, INDEXES_MAX + 2):
        running.tell(1, index, b"a")
    assert [bool(running.told_at(index)) for index in range(1, INDEXES_MAX + 2)] == [True] * INDEXES_MAX + [False]
