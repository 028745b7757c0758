"""Which endpoints are in force: what is said, and what was said before the registry may have forgotten it."""

from hypothesis import given
from hypothesis import strategies as st

from noctule.base.ids import Instant
from noctule.client.registry.endpoints import Endpoint, Instance
from noctule.client.registry.held_list import PROTECT_S, HeldList, Source

START = Instant(100.0)


def later(seconds: float) -> Instant:
    return Instant(START + seconds)


def endpoint(name: str) -> Endpoint:
    return Endpoint(name, "127.0.0.1", 80)


def said(usable: str, critical: str = "") -> list[Instance]:
    return [Instance(endpoint(each), True) for each in usable] + [Instance(endpoint(each), False) for each in critical]


def names(held: HeldList) -> str:
    held.check()
    return "".join(each.id for each in held.endpoints)


def test_what_the_registry_says_is_in_force_at_once() -> None:
    held = HeldList()
    assert (held.source, held.next_index) == (Source.NONE, 0)
    assert held.heard(5, said("abc"), START)
    assert (names(held), held.source, held.next_index) == ("abc", Source.LIVE, 5)
    assert held.heard(6, said("ab", critical="c"), START)
    assert names(held) == "ab"
    assert not held.heard(7, said("ab", critical="c"), START)
    assert held.heard(8, [], START)
    assert names(held) == "", "deregistered, by a registry that remembers"


def test_a_registry_that_lost_its_state_empties_nothing_at_once() -> None:
    held = HeldList()
    held.heard(500, said("abc"), START)
    assert not held.heard(3, [], later(1))
    assert (names(held), held.next_index) == ("abc", 3)
    assert held.next_deadline() == later(1 + PROTECT_S)
    held.heard(4, said("b"), later(2))
    assert names(held) == "bac", "those that came back first do not carry everything"
    held.heard(5, said("b"), later(20))
    assert not held.advance(later(PROTECT_S))
    assert held.advance(later(1 + PROTECT_S))
    assert names(held) == "b"
    assert held.next_deadline() is None


def test_a_registry_that_was_away_may_have_lost_its_state_whatever_its_index() -> None:
    held = HeldList()
    held.heard(10, said("ab"), START)
    assert held.lost()
    assert not held.lost()
    assert (names(held), held.source, held.next_index) == ("ab", Source.LAST_GOOD, 0)
    held.heard(900, [], later(5))
    assert (names(held), held.source, held.describe(later(5)).held) == ("ab", Source.LIVE, 2)


def test_critical_is_knowledge_and_leaves_at_once_even_in_doubt() -> None:
    held = HeldList()
    held.heard(10, said("ab"), START)
    held.heard(1, said("", critical="a"), START)
    assert names(held) == "b"


def test_a_registry_that_flaps_does_not_hold_the_dead_for_ever() -> None:
    held = HeldList()
    held.heard(10, said("a"), START)
    for second in range(int(PROTECT_S)):
        held.lost()
        held.heard(1, [], later(second))
    assert names(held) == "a"
    held.lost()
    held.heard(1, [], later(PROTECT_S))
    assert names(held) == ""


def test_a_list_from_disk_is_the_last_good_one_until_the_registry_speaks() -> None:
    held = HeldList()
    held.remember([endpoint("a")], 70, 12.5, START)
    picture = held.describe(later(1))
    assert (picture.source, picture.age_s, names(held), held.next_index) == (Source.LAST_GOOD, 13.5, "a", 0)
    held.heard(2, [], later(2))
    assert names(held) == "a", "an empty registry beside a list from before is doubted"


def test_an_index_that_cannot_be_waited_behind_is_not() -> None:
    held = HeldList()
    held.heard(0, said("a"), START)
    assert (held.next_index, names(held)) == (0, "a")


IDS = st.sets(st.sampled_from("abcde")).map(sorted).map("".join)


@given(
    st.lists(
        st.one_of(
            st.just("lost"),
            st.tuples(st.integers(0, 20), IDS, IDS, st.floats(0, 25)),
        ),
        max_size=60,
    )
)
def test_nobody_is_held_longer_than_promised_and_nobody_critical_at_all(
    steps: list[str | tuple[int, str, str, float]],
) -> None:
    held = HeldList()
    now = START
    last_listed: dict[str, Instant] = {}
    for step in steps:
        if isinstance(step, str):
            before = names(held)
            held.lost()
            assert names(held) == before, "silence changes nothing"
            continue
        index, usable, critical, gap_s = step
        now = Instant(now + gap_s)
        held.advance(now)
        was_certain = held.source is Source.LIVE and index >= held.describe(now).index and not held.describe(now).held
        critical = "".join(each for each in critical if each not in usable)
        held.heard(index, said(usable, critical), now)
        last_listed |= dict.fromkeys(usable, now)
        in_force = set(names(held))
        assert set(usable) <= in_force
        assert not in_force & set(critical)
        assert all(endpoint_id in last_listed for endpoint_id in in_force)
        if was_certain:
            assert in_force == set(usable)
        deadline = held.next_deadline()
        assert deadline is None or deadline <= now + PROTECT_S
    held.advance(Instant(now + PROTECT_S))
    assert not held.describe(now).held
