"""Sets: how the members lie follows from the members, whatever happened; every one is drawn as often as any other."""

import tracemalloc
from binascii import crc32
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.core.keyspace import set_value
from noctule.core.keyspace.chance import Chance
from noctule.core.keyspace.set_value import SetValue

MEMBERS = st.sampled_from([b"", b"\xff\x00", *(b"%d" % number for number in range(30))])


@pytest.fixture(scope="module", autouse=True)
def small_shelves() -> Iterator[None]:
    """So that sets of a few members have many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(set_value, "SHELF_MEMBERS", 2)
        patch.setattr(set_value, "_DRAWS_FROM", 6)
        yield


@given(st.lists(st.tuples(st.booleans(), MEMBERS), max_size=120))
def test_it_is_a_set(changes: list[tuple[bool, bytes]]) -> None:
    held, model = SetValue(), set[bytes]()
    for adds, member in changes:
        if adds:
            assert held.add(member) == (member not in model)
            model.add(member)
        else:
            assert held.discard(member) == (member in model)
            model.discard(member)
        assert len(held) == len(model)
    assert set(held) == model
    assert len(list(held)) == len(model)
    assert all((member in held) == (member in model) for _, member in changes)
    other = SetValue(sorted(model, reverse=True))
    assert held == other  # As it lies, too.
    assert held.size_bytes == other.size_bytes
    assert list(held.walk(0)) == sorted((crc32(member), member) for member in model)


@given(st.sets(MEMBERS), st.integers(0, 2**32 - 1))
def test_a_walk_goes_on_anywhere(members: set[bytes], position: int) -> None:
    held = SetValue(members)
    expected = sorted((crc32(member), member) for member in members)
    for start in (position, *(place for place, _ in expected)):
        assert list(held.walk(start)) == [each for each in expected if each[0] >= start]


def test_a_copy_is_another_set() -> None:
    held = SetValue([b"a", b"b"])
    copied = held.copy()
    copied.add(b"c")
    held.discard(b"a")
    assert (sorted(held), sorted(copied)) == ([b"b"], [b"a", b"b", b"c"])


@given(st.sets(MEMBERS), st.integers(1, 100))
def test_parts_make_it_anew(members: set[bytes], bytes_target: int) -> None:
    held = SetValue(members)
    parts = list(held.parts(bytes_target))
    assert max(map(len, parts)) <= bytes_target + 8
    loaded = SetValue()
    for part in parts:
        loaded.absorb(part)
    assert loaded == held
    assert loaded.size_bytes == held.size_bytes


def test_a_part_with_a_member_that_is_there_is_refused() -> None:
    held = SetValue([b"a"])
    with pytest.raises(ValueError, match="twice"):
        held.absorb(next(SetValue([b"a"]).parts(100)))


@pytest.mark.parametrize("count", [1, 3, 5, 8, 23])
def test_every_member_is_drawn_as_often(count: int) -> None:
    members = [b"%d" % number for number in range(count)]
    held, times = SetValue(members), 400 * count
    drawn = Counter(held.draw(Chance(now_ms, b"k", count)) for now_ms in range(times))
    assert drawn.keys() == set(members)
    assert all(300 < found < 500 for found in drawn.values())


@given(st.sets(MEMBERS, min_size=1), st.integers(0, 40), st.integers(0, 10**6))
def test_some_are_drawn_and_none_twice(members: set[bytes], count: int, now_ms: int) -> None:
    drawn = SetValue(members).draw_some(Chance(now_ms, b"k", len(members)), count)
    assert len(drawn) == len(set(drawn)) == min(count, len(members))
    assert set(drawn) <= members


def test_members_that_somebody_chose_to_be_in_one_bin_are_drawn_all_the_same() -> None:
    """Of those whose position is next to 0 there are some hundred in a million."""
    close = [member for member in (b"%d" % number for number in range(300_000)) if crc32(member) < 2**32 // 6_000]
    held = SetValue(close)
    assert len(close) > 20
    drawn = {held.draw(Chance(now_ms, b"k", len(close))) for now_ms in range(1_000)}
    assert len(drawn) > len(close) // 2


@pytest.mark.parametrize("count", [1, 4, 30, 1_000, 20_000])
@pytest.mark.parametrize("length", [5, 40])
def test_the_estimate_of_its_size_is_right_within_a_quarter(
    count: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_value, "SHELF_MEMBERS", 64)
    chance, sets = Random(1), max(1, 2_000 // count)
    tracemalloc.start()
    try:
        held = [SetValue(chance.randbytes(length) for _ in range(count)) for _ in range(sets)]
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.75 < sum(each.size_bytes for each in held) / taken < 1.25


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), MEMBERS), max_size=40), st.sets(MEMBERS))
def test_what_is_noted_takes_everything_back(changes: list[tuple[bool, bytes]], members: set[bytes]) -> None:
    held, before = SetValue(members), SetValue(members)
    held.undo = steps = []
    for adds, member in changes:
        (held.add if adds else held.discard)(member)
    held.undo = None
    for step in reversed(steps):
        step()
    assert held == before
    assert held.size_bytes == before.size_bytes
