"""Sorted sets: sorted by score and member, whatever happened, and ranks that are true."""

import tracemalloc
from collections.abc import Iterator
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.core.keyspace import sorted_set_value
from noctule.core.keyspace.sorted_set_value import SortedSet

MEMBERS = st.sampled_from([b"", b"\xff\x00", *(b"%d" % number for number in range(40))])
SCORES = st.sampled_from([-inf, -1.5, -0.0, 0.0, 5e-324, 1.0, 1.5, 2.0, 1e300, inf])
CHANGES = st.lists(st.tuples(MEMBERS, st.one_of(SCORES, st.none())), max_size=150)


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    """So that sets of a few items have many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_set_value, "BLOCK_ITEMS_MAX", 6)
        patch.setattr(sorted_set_value, "_BLOCK_ITEMS_MIN", 2)
        yield


def in_order(model: dict[bytes, float]) -> list[tuple[bytes, float]]:
    return sorted(model.items(), key=lambda item: (item[1], item[0]))


def changed(held: SortedSet, model: dict[bytes, float], changes: list[tuple[bytes, float | None]]) -> None:
    for step, (member, score) in enumerate(changes):
        if score is None:
            assert held.discard(member) == (member in model)
            model.pop(member, None)
        else:
            assert held.put(member, score) == (member not in model)
            model[member] = score
        if model:
            rank = step * 7 % len(model)  # The sums are kept from the first such look on.
            assert held.items(rank, rank + 1) == in_order(model)[rank : rank + 1]


@given(CHANGES)
def test_it_is_sorted_and_its_ranks_are_true(changes: list[tuple[bytes, float | None]]) -> None:
    held, model = SortedSet(), dict[bytes, float]()
    changed(held, model, changes)
    expected = in_order(model)
    assert held.items(0, 1_000) == expected
    assert held.scores == model
    assert len(held) == len(model)
    assert [held.rank(member) for member, _ in expected] == list(range(len(expected)))
    assert held.rank(b"absent") is None
    assert held.size_bytes == SortedSet(expected).size_bytes
    for score in (-inf, -1.5, 0.0, 1.2, 1.5, inf):
        assert held.rank_below(score) == sum(each < score for each in model.values())
        assert held.rank_through(score) == sum(each <= score for each in model.values())
    for start in range(len(expected)):
        assert held.items(start, start + 5) == expected[start : start + 5]


@given(CHANGES)
def test_blocks_are_neither_large_nor_many(changes: list[tuple[bytes, float | None]]) -> None:
    held = SortedSet()
    changed(held, {}, changes)
    sizes = [len(block) for block in held._scores]
    assert sizes == [len(block) for block in held._members]
    assert all(0 < size <= 6 for size in sizes)
    assert len([size for size in sizes if size < 2]) <= 1
    assert held._ends == [
        (scores[-1], members[-1]) for scores, members in zip(held._scores, held._members, strict=True)
    ]


def test_zero_has_no_sign() -> None:
    held = SortedSet([(b"a", -0.0)])
    assert str(held.scores[b"a"]) == "0.0"


@given(CHANGES, CHANGES)
def test_a_copy_is_another_sorted_set(
    before: list[tuple[bytes, float | None]], after: list[tuple[bytes, float | None]]
) -> None:
    held, model = SortedSet(), dict[bytes, float]()
    changed(held, model, before)
    copied, kept = held.copy(), dict(model)
    changed(held, model, after)
    assert copied.items(0, 1_000) == in_order(kept)
    changed(copied, kept, after[::-1])
    assert held.items(0, 1_000) == in_order(model)
    assert copied.items(0, 1_000) == in_order(kept)


@given(st.dictionaries(MEMBERS, SCORES), st.integers(1, 100))
def test_parts_make_it_anew(model: dict[bytes, float], bytes_target: int) -> None:
    held = SortedSet(model.items())
    parts = list(held.parts(bytes_target))
    assert parts == list(SortedSet(in_order(model)).parts(bytes_target))
    assert max(map(len, parts)) <= bytes_target + 16
    loaded = SortedSet()
    for part in parts:
        loaded.absorb(part)
    assert loaded == held
    assert loaded.size_bytes == held.size_bytes


def test_parts_that_cannot_be_are_refused() -> None:
    held = SortedSet([(b"a", 1.0)])
    for part in (next(SortedSet([(b"a", 2.0)]).parts(100)), b"\x91\x92\xc4\x01b\xcb\x7f\xf8\0\0\0\0\0\0"):
        with pytest.raises(ValueError, match="twice, or its score is no number"):
            held.absorb(part)


@pytest.mark.parametrize("count", [1, 4, 30, 1_000, 20_000])
@pytest.mark.parametrize("length", [5, 40])
def test_the_estimate_of_its_size_is_right_within_a_quarter(
    count: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorted_set_value, "BLOCK_ITEMS_MAX", 1_024)
    monkeypatch.setattr(sorted_set_value, "_BLOCK_ITEMS_MIN", 128)
    chance, sets = Random(1), max(1, 2_000 // count)
    tracemalloc.start()
    try:
        held = [SortedSet((chance.randbytes(length), chance.random()) for _ in range(count)) for _ in range(sets)]
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.75 < sum(each.size_bytes for each in held) / taken < 1.25


@settings(max_examples=50)
@given(CHANGES, st.dictionaries(MEMBERS, SCORES))
def test_what_is_noted_takes_everything_back(
    changes: list[tuple[bytes, float | None]], model: dict[bytes, float]
) -> None:
    held, before = SortedSet(model.items()), SortedSet(model.items())
    held.undo = steps = []
    changed(held, dict(model), changes)
    held.undo = None
    for step in reversed(steps):
        step()
    assert held.items(0, 1_000) == before.items(0, 1_000)
    assert held.size_bytes == before.size_bytes
