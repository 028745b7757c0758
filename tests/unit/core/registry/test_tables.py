"""The orders and deadlines that rows are found by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.registry.objects import KvEntry
from noctule.core.registry.tables import HEAP_SLACK, Deadlines, SortedMap, Table, keys_with_prefix

KEYS = st.text("ab/", max_size=3)


@given(st.lists(st.tuples(KEYS, st.booleans())), KEYS)
def test_a_sorted_map_is_a_dict_in_order(steps: list[tuple[str, bool]], prefix: str) -> None:
    rows: SortedMap[str, int] = SortedMap()
    plain: dict[str, int] = {}
    for number, (key, is_removed) in enumerate(steps):
        if is_removed:
            assert rows.pop(key, None) == plain.pop(key, None)
        else:
            rows[key] = plain[key] = number
    assert list(rows.items()) == sorted(plain.items())
    assert rows.in_order() == [plain[key] for key in sorted(plain)]
    assert keys_with_prefix(rows, prefix) == [key for key in sorted(plain) if key.startswith(prefix)]
    assert len(rows) == len(plain)


def test_the_oldest_is_the_one_that_was_put_first() -> None:
    rows: SortedMap[str, int] = SortedMap()
    with pytest.raises(KeyError):
        rows.oldest()
    rows["b"], rows["a"] = 1, 2
    assert rows.oldest() == "b"


def test_a_table_takes_back_what_was_changed_and_tells_of_what_was() -> None:
    table = Table(KvEntry)
    table.put("kept", KvEntry("kept"))
    table.put("gone", KvEntry("gone"))
    table.begin()
    table.put("kept", KvEntry("kept", b"1"))
    table.remove("gone")
    table.put("new", KvEntry("new"))
    table.put("brief", KvEntry("brief"))
    table.remove("brief")
    assert table.written() == [
        (KvEntry, "kept", KvEntry("kept", b"1")),
        (KvEntry, "gone", None),
        (KvEntry, "new", KvEntry("new")),
    ]
    table.roll_back()
    assert table.rows == {"kept": KvEntry("kept"), "gone": KvEntry("gone")}
    assert table.written() == []


def test_what_is_due_stays_until_it_is_set_anew() -> None:
    deadlines: Deadlines[str] = Deadlines()
    assert deadlines.next_ms() is None
    for key, when_ms in (("a", 30), ("b", 10), ("c", 20), ("b", 25), ("d", 5), ("d", 0)):
        deadlines.set(key, when_ms)
    assert deadlines.next_ms() == 20
    assert deadlines.due(19, 9) == []
    assert deadlines.due(25, 9) == deadlines.due(25, 9) == [(20, "c"), (25, "b")]
    assert deadlines.due(99, 1) == [(20, "c")]
    deadlines.set("c", 0)
    assert deadlines.due(99, 9) == [(25, "b"), (30, "a")]


def test_deadlines_that_are_renewed_for_ever_take_no_more_memory() -> None:
    """A replica that does not lead asks for nothing that is due, and every renewal of a TTL comes by it."""
    deadlines: Deadlines[str] = Deadlines()
    for now_ms in range(1_000):
        deadlines.set("a", now_ms + 10)
    assert len(deadlines._heap) <= 2 + HEAP_SLACK + 1
    assert deadlines.due(5_000, 9) == [(1_009, "a")]
