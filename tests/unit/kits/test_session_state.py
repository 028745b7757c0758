"""What a request leaves to be written, by what it did to its session."""

import hashlib
import hmac
from typing import Any

import pytest

from noctule.base.errors import RequestError, StorageError, TooLargeError
from noctule.kits.session_cookie import session_digest
from noctule.kits.session_state import (
    SESSION_BYTES_MAX,
    SESSION_FIELDS_MAX,
    TOUCH_EVERY_S,
    FieldChange,
    SavePlan,
    Session,
    SessionAwayError,
    SessionConflictError,
    StoredSession,
    read_stored,
)

NOW_MS = 1_700_000_000_000


def mark(value: bytes) -> str:
    return hashlib.sha1(value).hexdigest()


def stored(touched_ms: int = NOW_MS, user: str | None = None, **fields: bytes) -> StoredSession:
    return StoredSession("old", fields, touched_ms, {name: mark(value) for name, value in fields.items()}, user)


def new_id(of: str | None = None) -> str:
    return "new of old" if of == "old" else "new"


def loaded(touched_ms: int = NOW_MS, user: str | None = None, **fields: bytes) -> Session:
    return Session(stored(touched_ms, user, **fields), new_id)


def fresh() -> Session:
    return Session(None, new_id)


def change(name: str, value: bytes | None, before: bytes | None = None, *, is_checked: bool = False) -> FieldChange:
    return FieldChange(name, value, "" if before is None else mark(before), is_checked)


def test_a_session_that_nobody_touched_leaves_nothing_to_do() -> None:
    assert fresh().plan(NOW_MS) == SavePlan()
    assert loaded(name=b'"Ada"').plan(NOW_MS) == SavePlan()


def test_reading_writes_nothing() -> None:
    session = loaded(name=b'"Ada"', cart=b"[1,2]")
    assert dict(session) == {"name": "Ada", "cart": [1, 2]}
    assert session.accessed
    assert session.plan(NOW_MS) == SavePlan()


def test_the_first_write_makes_a_session() -> None:
    session = fresh()
    session["visits"] = 1
    plan = session.plan(NOW_MS)
    assert plan == SavePlan("new", is_new=True, changes=(change("visits", b"1"),))
    assert plan.cookie_id == "new"


def test_only_changed_fields_are_written_and_deleted_ones_removed() -> None:
    session = loaded(a=b"1", b=b"2", c=b"3")
    session["a"] = 1
    session["b"] = 20
    del session["c"]
    changes = (change("b", b"20", b"2"), change("c", None, b"3"))
    assert session.plan(NOW_MS) == SavePlan("old", changes=changes)
    assert {each.kind for each in session.plan(NOW_MS, is_checked=True).changes} == {"checked", "checked-drop"}


def test_a_value_changed_in_place_is_noticed() -> None:
    session = loaded(cart=b"[1]")
    session["cart"].append(2)
    assert session.plan(NOW_MS).changes == (change("cart", b"[1,2]", b"[1]"),)


def test_clear_empties_the_session_and_keeps_it() -> None:
    session = loaded(a=b"1", b=b"2")
    session.clear()
    plan = session.plan(NOW_MS)
    assert {(each.name, each.value) for each in plan.changes} == {("a", None), ("b", None)}
    assert (plan.id, plan.ended) == ("old", ())


@pytest.mark.parametrize("clock_error_s", [TOUCH_EVERY_S, -TOUCH_EVERY_S])
def test_the_store_is_asked_once_a_minute_whether_to_renew(clock_error_s: int) -> None:
    """A clock that runs ahead on another instance must not keep a session from being renewed."""
    almost = NOW_MS - TOUCH_EVERY_S * 1000 + 1
    assert loaded(almost).plan(NOW_MS) == SavePlan()
    assert loaded(NOW_MS - clock_error_s * 1000).plan(NOW_MS) == SavePlan("old", is_touch=True)


def test_regenerate_exchanges_the_id_and_moves_nothing() -> None:
    session = loaded(cart=b"[1]")
    session.regenerate()
    session["name"] = "Ada"
    assert session.plan(NOW_MS) == SavePlan("old", new_id="new of old", changes=(change("name", b'"Ada"'),))
    assert session.plan(NOW_MS).cookie_id == "new of old"


def test_signing_in_exchanges_the_id_and_keeps_what_the_visitor_had() -> None:
    session = loaded(cart=b"[1]")
    session.sign_in("ada")
    assert session.user == "ada"
    assert session.plan(NOW_MS) == SavePlan("old", new_id="new of old", sign_in="ada")
    again = loaded(user="ada", cart=b"[1]")
    again.sign_in("ada")
    assert again.plan(NOW_MS) == SavePlan("old", new_id="new of old", sign_in="ada", signed_in="ada")


def test_signing_in_as_somebody_else_leaves_nothing_of_the_first() -> None:
    session = loaded(user="ada", cart=b"[1]")
    session.sign_in("bob")
    assert dict(session) == {}
    assert session.plan(NOW_MS) == SavePlan("new", is_new=True, sign_in="bob", ended=(("old", "ada"),))


@pytest.mark.parametrize("user", ["", "x" * 257])
def test_a_user_has_a_name_of_some_length(user: str) -> None:
    with pytest.raises(RequestError, match="1 to 256 bytes"):
        fresh().sign_in(user)


def test_destroy_ends_and_forgets() -> None:
    session = loaded(name=b'"Ada"', user="ada")
    session.destroy()
    assert dict(session) == {}
    assert (session.fingerprint, session.user) == (None, None)
    assert session.plan(NOW_MS) == SavePlan(ended=(("old", "ada"),))


def test_destroy_after_regenerate_ends_the_session() -> None:
    session = loaded(name=b'"Ada"')
    session.regenerate()
    session.destroy()
    assert session.plan(NOW_MS) == SavePlan(ended=(("old", None),))


def test_a_write_after_destroy_begins_a_new_session() -> None:
    session = loaded(name=b'"Ada"')
    session.destroy()
    session["message"] = "bye"
    assert session.plan(NOW_MS) == SavePlan(
        "new", is_new=True, changes=(change("message", b'"bye"'),), ended=(("old", None),)
    )


def test_what_is_counted_is_checked_and_done_again_over_what_others_counted() -> None:
    session = loaded(visits=b"1", other=b"1")
    assert session.add("visits") == 2
    session.add("visits", 10)
    session["mine"] = True
    assert session.plan(NOW_MS).changes == (
        change("visits", b"12", b"1", is_checked=True),
        change("mine", b"true"),
    )
    session.rebase(stored(visits=b"5", other=b"2"), {"visits"})
    assert dict(session) == {"visits": 16, "other": 2, "mine": True}
    assert session.plan(NOW_MS).changes == (
        change("visits", b"16", b"5", is_checked=True),
        change("mine", b"true"),
    )


def test_what_was_set_cannot_be_done_again() -> None:
    session = loaded(visits=b"1")
    session["visits"] = 5
    session.add("visits")
    assert session.plan(NOW_MS).changes == (change("visits", b"6", b"1"),)
    with pytest.raises(SessionConflictError):
        session.rebase(stored(visits=b"2"), {"visits"})


def test_a_count_that_another_has_removed_begins_anew() -> None:
    session = loaded(visits=b"7")
    session.add("visits")
    session.rebase(stored(), {"visits"})
    assert dict(session) == {"visits": 1}


def test_what_a_session_seals_follows_its_id() -> None:
    session = loaded()
    first = session.seal(b"form")
    assert first == session.seal(b"form") == hmac.digest(b"old", b"noctule session seal\0form", "sha256")
    assert session.seal(b"other") != first
    session.regenerate()
    assert session.seal(b"form") != first


def test_sealing_begins_no_session() -> None:
    session = fresh()
    assert session.is_sealed(b"form", session.seal(b"form"))
    assert session.accessed, "the page depends on the cookie"
    assert session.plan(NOW_MS) == SavePlan()
    assert session.form_cookie()


def test_nothing_is_sealed_by_a_cookie_that_can_no_longer_be_set() -> None:
    session = fresh()
    session.close("it was saved when the response started")
    with pytest.raises(RequestError, match="response started"):
        session.seal(b"form")


def test_a_degraded_session_is_empty_and_cannot_be_written() -> None:
    session = Session(None, new_id, is_degraded=True)
    assert dict(session) == {}
    for write in (
        lambda: session.update(a=1),
        session.destroy,
        lambda: session.sign_in("ada"),
        lambda: session.seal(b""),
    ):
        with pytest.raises(SessionAwayError):
            write()


def test_destroying_what_does_not_exist_does_nothing() -> None:
    session = fresh()
    session.destroy()
    session.regenerate()
    assert session.plan(NOW_MS) == SavePlan()


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
        session.plan(NOW_MS)


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


BORN = {b"__born__": b"1", b"__touched__": b"5", b"__id__": session_digest("id").encode()}


def test_only_a_born_hash_without_tombstone_is_a_session_and_only_for_its_id() -> None:
    raw = {**BORN, b"name": b'"Ada"'}
    assert read_stored("id", raw) == StoredSession("id", {"name": b'"Ada"'}, 5, {"name": mark(b'"Ada"')})
    assert read_stored("another", raw) is None
    assert read_stored("id", {}) is None
    assert read_stored("id", {name: value for name, value in raw.items() if name != b"__born__"}) is None
    assert read_stored("id", {**raw, b"__dead__": b"1"}) is None


def test_who_is_signed_in_is_read_with_the_epoch() -> None:
    found = read_stored("id", {**BORN, b"__user__": b'"ada"', b"__owner__": b"x", b"__epoch__": b"0000000000007"})
    assert found is not None
    assert (found.user, found.epoch, found.fields) == ("ada", 7, {})


def test_what_this_kit_never_wrote_is_called_damaged() -> None:
    for field in ({b"__touched__": b"yesterday"}, {b"\xff": b"1"}, {b"__user__": b"7"}):
        with pytest.raises(StorageError):
            read_stored("id", {**BORN, **field})
    with pytest.raises(StorageError):
        loaded(a=b"{")
