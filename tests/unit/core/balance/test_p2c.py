"""The better of two is chosen, the own zone first, and nobody is forgotten."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import InternalError
from noctule.base.ids import Instant
from noctule.core.balance.p2c import DECAY_S, Candidate, TwoChoices

START = Instant(100.0)


def later(seconds: float) -> Instant:
    return Instant(START + seconds)


def choices_of(*candidates: Candidate, zone: str = "") -> TwoChoices:
    choices = TwoChoices(random.Random(7), zone)
    choices.keep(candidates)
    return choices


def named(ids: str, zone: str = "") -> list[Candidate]:
    return [Candidate(each, zone=zone) for each in ids]


def serve(choices: TwoChoices, instance_id: str, took_s: float, now: Instant, *, is_ok: bool = True) -> None:
    ticket = choices.begin(instance_id, now)
    choices.answered(ticket, is_ok, Instant(now + took_s))
    choices.end(ticket)
    choices.check()


def shares(choices: TwoChoices, now: Instant = START, count: int = 2_000, excluding: str = "") -> Counter[str | None]:
    return Counter(choices.choose(now, set(excluding)) for _ in range(count))


def test_idle_instances_are_drawn_alike_and_by_weight() -> None:
    even = shares(choices_of(*named("abcd")))
    assert all(400 < count < 600 for count in even.values()), even
    weighted = shares(choices_of(Candidate("a", 1), Candidate("b", 3)))
    assert 1_400 < weighted["b"] < 1_600


def test_the_one_with_fewer_in_flight_wins() -> None:
    choices = choices_of(*named("ab"))
    choices.begin("a", START)
    assert shares(choices) == {"b": 2_000}


def test_the_busiest_of_three_is_never_the_better_of_two() -> None:
    choices = choices_of(*named("abc"))
    choices.begin("a", START)
    assert "a" not in shares(choices)


def test_the_faster_wins_until_the_slow_measure_has_faded() -> None:
    choices = choices_of(*named("ab"))
    serve(choices, "a", 1.0, START)
    serve(choices, "b", 0.1, START)
    assert shares(choices, later(1)) == {"b": 2_000}
    for second in range(40):
        serve(choices, "b", 0.1, later(1 + second))
    assert shares(choices, later(41)) == {"a": 2_000}, "nobody asked it for long, so it is tried again"


def test_a_peak_counts_at_once_and_getting_better_takes_time() -> None:
    choices = choices_of(*named("a"))
    serve(choices, "a", 0.1, START)
    serve(choices, "a", 1.0, START)
    (picture,) = choices.describe(later(1))
    assert picture.latency_s == pytest.approx(1.0)
    serve(choices, "a", 0.1, later(1 + DECAY_S))
    (picture,) = choices.describe(later(1.1 + DECAY_S))
    assert 0.3 < (picture.latency_s or 0) < 0.5


def test_failing_fast_does_not_look_fast() -> None:
    choices = choices_of(*named("ab"))
    for instance_id in "ab":
        serve(choices, instance_id, 0.1, START)
    for second in range(20):
        serve(choices, "a", 0.0, later(second), is_ok=False)
    serve(choices, "b", 0.09, later(20))
    assert shares(choices, later(20)) == {"b": 2_000}


def test_the_own_zone_first_while_it_has_enough_usable_ones() -> None:
    choices = choices_of(*named("abc", "here"), *named("xyz", "there"), zone="here")
    assert set(shares(choices)) == {"a", "b", "c"}
    assert set(shares(choices, excluding="a")) == {"b", "c", "x", "y", "z"}, "two of three are less than 70%"


def test_a_zone_of_one_does_not_carry_its_traffic_alone() -> None:
    assert set(shares(choices_of(*named("a", "here"), *named("xy", "there"), zone="here"))) == {"a", "x", "y"}


def test_nobody_left_is_nobody_chosen() -> None:
    assert choices_of().choose(START) is None
    assert choices_of(*named("a")).choose(START, {"a"}) is None


def test_weights_of_nothing_still_serve_when_there_is_no_other() -> None:
    assert set(shares(choices_of(Candidate("a", 0), Candidate("b", 0)))) == {"a", "b"}
    assert shares(choices_of(Candidate("a", 0), Candidate("b", 1)))["b"] > 1_900


def test_a_ticket_outlives_its_instance_and_is_ended_once() -> None:
    choices = choices_of(*named("ab"))
    ticket = choices.begin("a", START)
    choices.keep(named("b"))
    choices.end(ticket)
    with pytest.raises(InternalError, match="ended once"):
        choices.end(ticket)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans(), st.floats(0, 5)), max_size=80), st.data())
def test_whoever_may_be_chosen_is_among_those_given(steps: list[tuple[str, bool, float]], data: st.DataObject) -> None:
    choices = choices_of(*named("abcd", "z"), Candidate("e", 2, "y"), zone="z")
    now = START
    for instance_id, is_ok, gap_s in steps:
        serve(choices, instance_id, gap_s / 3, now, is_ok=is_ok)
        now = Instant(now + gap_s)
        excluded = data.draw(st.sets(st.sampled_from("abcde")))
        chosen = choices.choose(now, excluded)
        assert (chosen is None) == (excluded == set("abcde"))
        assert chosen not in excluded
