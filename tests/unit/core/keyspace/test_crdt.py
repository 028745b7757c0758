"""The laws of values that join, over copies that really changed: sites act, gossip in any order, and agree."""

import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.keyspace.crdt import (
    EMPTY,
    NUMBER_MAX,
    Crdt,
    CrdtKind,
    LwwRegister,
    ObservedSet,
    PnCounter,
    decode_crdt,
    encode_crdt,
    join,
    kind_of,
    load_crdt,
)

SITES = (b"a", b"b", b"c")
KINDS = tuple(CrdtKind)

Step = tuple[str, int, int, int]
"""What is done, at which site, with which other site, and with which of a few values."""
STEPS = st.lists(
    st.tuples(st.sampled_from(("more", "less", "join")), st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)),
    max_size=30,
)


def change(value: Crdt, site: bytes, what: str, number: int, now_ms: int) -> Crdt:
    """One change of any kind."""
    match value:
        case LwwRegister():
            return value.change(site, b"%d" % number if what == "more" else None, now_ms)
        case PnCounter():
            return value.change(site, number if what == "more" else -number)
        case ObservedSet():
            member = b"%d" % number
            return value.add(site, [member]) if what == "more" else value.remove([member])


def run(kind: CrdtKind, steps: list[Step]) -> list[Crdt]:
    """Each site's copy in the end. Clocks stand still: nothing may rest on them."""
    copies = [EMPTY[kind]] * len(SITES)
    for what, here, there, number in steps:
        if what == "join":
            copies[here] = join(copies[here], copies[there])
        else:
            copies[here] = change(copies[here], SITES[here], what, number, 7)
    return copies


@pytest.mark.parametrize("kind", KINDS)
@given(steps=STEPS)
def test_join_is_commutative_associative_and_idempotent(kind: CrdtKind, steps: list[Step]) -> None:
    a, b, c = run(kind, steps)
    assert join(a, b) == join(b, a)
    assert join(a, join(b, c)) == join(join(a, b), c)
    assert join(a, a) == a
    assert join(join(a, b), b) == join(a, b)
    assert join(a, EMPTY[kind]) == a


@pytest.mark.parametrize("kind", KINDS)
@given(steps=STEPS, order=st.randoms(use_true_random=False))
def test_copies_agree_to_the_byte_however_their_states_went_around(
    kind: CrdtKind, steps: list[Step], order: random.Random
) -> None:
    copies = run(kind, steps)
    ends = []
    for copy in copies:
        others = copies * 2
        order.shuffle(others)
        for other in others:
            copy = join(copy, load_crdt(encode_crdt(other).data))
        ends.append(encode_crdt(copy))
    assert ends == [ends[0]] * 3


@given(steps=STEPS)
def test_a_counter_is_the_sum_of_what_was_counted_anywhere(steps: list[Step]) -> None:
    copies = run(CrdtKind.COUNTER, steps)
    whole = join(copies[0], join(copies[1], copies[2]))
    assert isinstance(whole, PnCounter)
    assert whole.value == sum({"more": n, "less": -n, "join": 0}[what] for what, _, _, n in steps)


@given(steps=STEPS)
def test_a_member_is_in_the_set_if_an_addition_was_not_seen_by_a_removal(steps: list[Step]) -> None:
    """A model with one tombstone for every addition ever removed, which is what the numbers of `seen` stand for."""
    additions: list[set[tuple[bytes, int]]] = [set(), set(), set()]
    removed: list[set[tuple[bytes, int]]] = [set(), set(), set()]
    for turn, (what, here, there, number) in enumerate(steps):
        member = b"%d" % number
        if what == "join":
            additions[here] |= additions[there]
            removed[here] |= removed[there]
        elif what == "more":
            removed[here] |= {each for each in additions[here] if each[0] == member}
            additions[here] = additions[here] | {(member, turn)}
        else:
            removed[here] |= {each for each in additions[here] if each[0] == member}
    expected = [{member for member, _ in added - gone} for added, gone in zip(additions, removed, strict=True)]
    assert [set(copy.members) for copy in run(CrdtKind.ORSET, steps) if isinstance(copy, ObservedSet)] == expected


def test_adding_wins_over_a_removal_that_did_not_know_of_it() -> None:
    both = ObservedSet({}, {}).add(b"a", [b"bat"])
    removed, added_anew = both.remove([b"bat"]), both.add(b"b", [b"bat"])
    assert set(removed.join(added_anew).members) == {b"bat"}
    assert set(removed.join(both).members) == set()


@given(now_ms=st.integers(0, 3), clock_ms=st.integers(0, 3))
def test_what_a_copy_has_seen_never_wins_over_what_it_does_next(now_ms: int, clock_ms: int) -> None:
    """Whatever the clocks of the two places say."""
    seen = LwwRegister(0, b"", None).change(b"z", b"theirs", now_ms)
    mine = seen.change(b"a", b"mine", clock_ms)
    assert seen.join(mine) == mine == mine.join(seen)


def test_a_tie_goes_to_the_greater_site() -> None:
    empty = LwwRegister(0, b"", None)
    low, high = empty.change(b"a", b"zzz", 5), empty.change(b"b", b"aaa", 5)
    assert low.stamp_ms == high.stamp_ms
    assert low.join(high) is high
    assert high.join(low) is high


def test_a_counter_refuses_what_64_bits_do_not_hold() -> None:
    counter = PnCounter({}, {}).change(b"a", 2**63 - 1)
    with pytest.raises(OverflowError):
        counter.change(b"b", 1)
    assert counter.change(b"b", -1).value == 2**63 - 2


@pytest.mark.parametrize("kind", KINDS)
@given(steps=STEPS)
def test_a_value_comes_back_from_its_bytes(kind: CrdtKind, steps: list[Step]) -> None:
    for copy in run(kind, steps):
        encoded = encode_crdt(copy)
        assert decode_crdt(encoded.data) == load_crdt(encoded.data) == copy
        assert (encoded.kind, kind_of(copy)) == (kind, kind)


@pytest.mark.parametrize(
    "state",
    [
        PnCounter({b"b": 1, b"a": 1}, {}),
        PnCounter({b"a": 0}, {}),
        PnCounter({b"a": -1}, {}),
        PnCounter({b"a" * 65: 1}, {}),
        PnCounter({b"": 1}, {}),
        LwwRegister(-1, b"a", b""),
        LwwRegister(NUMBER_MAX + 1, b"a", b""),
        ObservedSet({b"a": 1}, {b"m": {b"a": 2}}),
        ObservedSet({}, {b"m": {b"a": 1}}),
        ObservedSet({b"a": 1}, {b"m": {}}),
        ObservedSet({b"a": 2}, {b"n": {b"a": 1}, b"m": {b"a": 2}}),
    ],
)
def test_a_state_that_no_changes_lead_to_is_not_taken(state: Crdt) -> None:
    with pytest.raises(ValueError, match="no changes"):
        load_crdt(encode_crdt(state).data)


@given(data=st.binary(max_size=40))
def test_bytes_that_are_no_state_are_not_taken(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"it cannot be read|no changes"):
        load_crdt(data + b"\xc1")


def test_a_second_form_of_a_value_is_not_taken() -> None:
    long_zero = msgspec.msgpack.encode(["lww", 0, b"", None]).replace(b"\x00", b"\xcc\x00", 1)
    with pytest.raises(ValueError, match="no changes"):
        load_crdt(long_zero)


def test_kinds_do_not_mix() -> None:
    joins: list[Callable[[], Crdt]] = [
        lambda: join(EMPTY[CrdtKind.LWW], EMPTY[CrdtKind.COUNTER]),
        lambda: join(EMPTY[CrdtKind.ORSET], EMPTY[CrdtKind.LWW]),
    ]
    for each in joins:
        with pytest.raises(TypeError, match="cannot be joined"):
            each()
