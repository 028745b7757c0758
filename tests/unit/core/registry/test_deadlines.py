"""Deadlines come in order, the newest word on each key holds, and renewals leave nothing behind."""

from hypothesis import given
from hypothesis import strategies as st

from noctule.core.registry.deadlines import Deadlines


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 50)))), st.integers(0, 60))
def test_what_is_due_is_what_was_said_last(words: list[tuple[int, int | None]], now: int) -> None:
    deadlines: Deadlines[int] = Deadlines()
    last: dict[int, int] = {}
    for key, at in words:
        if at is None:
            deadlines.remove(key)
            last.pop(key, None)
        else:
            deadlines.set(key, at)
            last[key] = at
        deadlines.check()
        assert deadlines.next_at() == min(last.values(), default=None)
    due = list(deadlines.pop_due(now))
    assert sorted(due) == sorted(key for key, at in last.items() if at <= now)
    assert [last[key] for key in due] == sorted(last[key] for key in due)
    assert len(deadlines) == len(last) - len(due)


def test_a_thousand_renewals_of_one_key_are_not_kept() -> None:
    """The heap of a node with ten thousand checks grew with every renewal of every one."""
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("rare", 1e9)
    for at in range(1_000):
        deadlines.set("busy", at)
    assert len(deadlines._heap) < 100
