"""Chance that replicas have in common: the numbers are fixed for ever, and fair."""

from collections import Counter

from noctule.core.keyspace.chance import Chance


def test_the_numbers_are_those_of_splitmix64() -> None:
    """Nodes of different versions must draw the same. The numbers are from Vigna's splitmix64.c with this seed."""
    chance = Chance(0, b"", 1_234_567)
    drawn = [chance.below(2**64) for _ in range(3)]
    assert drawn == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_time_key_and_count_each_make_a_difference() -> None:
    drawn = {Chance(*seed).below(2**64) for seed in ((1, b"a", 2), (2, b"a", 2), (1, b"b", 2), (1, b"a", 3))}
    assert len(drawn) == 4


def test_every_choice_of_some_is_as_likely() -> None:
    found = Counter(tuple(sorted(Chance(now_ms, b"k", 5).some_of(5, 3))) for now_ms in range(10_000))
    assert len(found) == 10
    assert all(850 < times < 1_150 for times in found.values())
