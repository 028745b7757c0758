"""What a request leaves to be written, by what it did to its session."""

from typing import Any

import pytest

from noctule.base.errors import RequestError, StorageError, TooLargeError
from noctule.kits.session_state import (
    SESSION_BYTES_MAX,
    SESSION_FIELDS_MAX,
    TOUCH_EVERY_S,
    SavePlan,
    Session,
    StoredSession,
    read_stored,
)

NOW_S = 1_700_000_000


def loaded(touched_s: int = NOW_S, **fields: bytes) -> Session:
    return Session(StoredSession("old", fields, touched_s), lambda: "new")


def fresh() -> Session:
    return Session(None, lambda: "new")


def test_a_session_that_nobody_touched_leaves_nothing_to_do() -> None:
    assert fresh().plan(NOW_S) == SavePlan()
    assert loaded(name=b'"Ada"').plan(NOW_S) == SavePlan()


def test_reading_writes_nothing() -> None:
    session = loaded(name=b'"Ada"', cart=b"[1,2]")
    assert dict(session) == {"name": "Ada", "cart": [1, 2]}
    assert session.accessed
    assert session.plan(NOW_S) == SavePlan()


def test_the_first_write_makes_a_session_with_its_birth_mark_and_cookie() -> None:
    session = fresh()
    session["visits"] = 1
    assert session.plan(NOW_S) == SavePlan(
        write_id="new",
        changed={"visits": b"1", "__born__": b"1700000000", "__touched__": b"1700000000"},
        cookie_id="new",
    )


def test_only_changed_fields_are_written_and_deleted_ones_removed() -> None:
    session = loaded(a=b"1", b=b"2", c=b"3")
    session["a"] = 1
    session["b"] = 20
    del session["c"]
    assert session.plan(NOW_S) == SavePlan(write_id="old", changed={"b": b"20"}, removed=("c",))


def test_a_value_changed_in_place_is_noticed() -> None:
    session = loaded(cart=b"[1]")
    session["cart"].append(2)
    assert session.plan(NOW_S).changed == {"cart": b"[1,2]"}


def test_clear_empties_the_session_and_keeps_it() -> None:
    session = loaded(a=b"1", b=b"2")
    session.clear()
    plan = session.plan(NOW_S)
    assert set(plan.removed) == {"a", "b"}
    assert plan.write_id == "old"
    assert plan.dead is None


@pytest.mark.parametrize("clock_error_s", [TOUCH_EVERY_S, -TOUCH_EVERY_S])
def test_the_time_to_live_is_renewed_once_a_minute_with_the_cookie(clock_error_s: int) -> None:
    """A clock that runs ahead on another instance must not keep a session from being renewed."""
    almost = TOUCH_EVERY_S - 1
    assert loaded(touched_s=NOW_S - almost).plan(NOW_S) == SavePlan()
    assert loaded(touched_s=NOW_S - clock_error_s).plan(NOW_S) == SavePlan(
        write_id="old", changed={"__touched__": b"1700000000"}, touch_only=True, cookie_id="old"
    )


def test_regenerate_moves_everything_and_buries_the_old_id() -> None:
    session = loaded(cart=b"[1]")
    session.regenerate()
    session["name"] = "Ada"
    plan = session.plan(NOW_S)
    assert plan.write_id == plan.cookie_id == "new"
    assert set(plan.changed) == {"cart", "name", "__born__", "__touched__"}
    assert plan.dead is not None
    assert plan.dead.id == "old"


def test_regenerate_of_an_empty_session_does_not_leave_the_old_cookie() -> None:
    session = loaded()
    session.regenerate()
    plan = session.plan(NOW_S)
    assert plan.dead is not None
    assert plan.forget_cookie
    assert plan.write_id is None


def test_destroy_buries_and_forgets() -> None:
    session = loaded(name=b'"Ada"')
    session.destroy()
    assert dict(session) == {}
    assert session.fingerprint is None
    plan = session.plan(NOW_S)
    assert plan.forget_cookie
    assert plan.dead is not None
    assert (plan.dead.id, set(plan.dead.fields)) == ("old", {"name"})
    assert (plan.write_id, plan.cookie_id) == (None, None)


def test_destroy_after_regenerate_still_buries_the_old_id() -> None:
    session = loaded(name=b'"Ada"')
    session.regenerate()
    session.destroy()
    plan = session.plan(NOW_S)
    assert plan.dead is not None
    assert plan.dead.id == "old"
    assert plan.write_id is None


def test_a_write_after_destroy_begins_a_new_session() -> None:
    session = loaded(name=b'"Ada"')
    session.destroy()
    session["message"] = "bye"
    plan = session.plan(NOW_S)
    assert plan.write_id == plan.cookie_id == "new"
    assert "name" not in plan.changed
    assert plan.dead is not None
    assert not plan.forget_cookie


def test_destroying_what_does_not_exist_does_nothing() -> None:
    session = fresh()
    session.destroy()
    session.regenerate()
    assert session.plan(NOW_S) == SavePlan()


def test_the_fingerprint_follows_the_id() -> None:
    assert fresh().fingerprint is None
    session = loaded()
    first = session.fingerprint
    assert first is not None
    assert len(first) == 8
    session.regenerate()
    assert session.fingerprint not in (None, first)


@pytest.mark.parametrize("name", ["__dead__", "__anything", 7])
def test_names_of_the_kit_itself_are_refused(name: Any) -> None:
    with pytest.raises(RequestError, match="two underscores"):
        fresh()[name] = 1


@pytest.mark.parametrize("value", [object(), {1, 2, object()}, 1j])
def test_what_json_cannot_hold_is_refused_where_it_is_written(value: object) -> None:
    with pytest.raises(RequestError, match="'a' holds what JSON cannot"):
        fresh()["a"] = value


def test_the_bounds_are_told_with_their_values() -> None:
    session = fresh()
    with pytest.raises(TooLargeError, match=str(SESSION_BYTES_MAX)):
        session["a"] = "x" * SESSION_BYTES_MAX
    for number in range(SESSION_FIELDS_MAX):
        session[f"k{number}"] = number
    session["k0"] = "again"
    with pytest.raises(TooLargeError, match=str(SESSION_FIELDS_MAX)):
        session["one more"] = 1


def test_many_fields_that_are_too_large_together_are_refused_at_the_end() -> None:
    session = fresh()
    session["a"] = "x" * (SESSION_BYTES_MAX // 2)
    session["b"] = "x" * (SESSION_BYTES_MAX // 2)
    with pytest.raises(TooLargeError):
        session.plan(NOW_S)


def test_a_closed_session_refuses_every_change_and_can_be_read() -> None:
    session = loaded(a=b"1")
    session.close("it was saved")
    with pytest.raises(RequestError, match="it was saved"):
        session["a"] = 2
    with pytest.raises(RequestError, match="it was saved"):
        del session["a"]
    with pytest.raises(RequestError, match="it was saved"):
        session.destroy()
    with pytest.raises(RequestError, match="it was saved"):
        session.regenerate()
    assert session["a"] == 1


def test_a_hash_without_birth_mark_or_with_tombstone_is_no_session() -> None:
    born = {b"__born__": b"1", b"__touched__": b"5", b"name": b'"Ada"'}
    assert read_stored("id", born) == StoredSession("id", {"name": b'"Ada"'}, 5)
    assert read_stored("id", {}) is None
    assert read_stored("id", {b"name": b'"Ada"', b"__touched__": b"5"}) is None
    assert read_stored("id", {**born, b"__dead__": b"1"}) is None


def test_what_this_kit_never_wrote_is_called_damaged() -> None:
    with pytest.raises(StorageError):
        read_stored("id", {b"__born__": b"1", b"__touched__": b"yesterday"})
    with pytest.raises(StorageError):
        read_stored("id", {b"__born__": b"1", b"\xff": b"1"})
    with pytest.raises(StorageError):
        loaded(a=b"{")
