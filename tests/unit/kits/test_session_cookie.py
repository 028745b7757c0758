"""How the session's cookie is read and set."""

from typing import Any

import pytest

from noctule.base.errors import ConfigError
from noctule.kits.session_cookie import (
    SessionCookie,
    new_session_id,
    read_session_id,
    session_digest,
    session_handle,
)

ID = "A" * 40 + "-_" + "z" * 23


def cookies(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"cookie", line.encode("latin-1")) for line in lines]


def test_new_ids_are_well_formed_and_differ() -> None:
    ids = {new_session_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(read_session_id(cookies(f"session={i}"), "session") == i for i in ids)


@pytest.mark.parametrize(
    "lines",
    [
        [f"session={ID}"],
        [f"a=b; session={ID}; c"],
        ["a=b", f"session={ID}"],
        [f"session=; session={ID}"],
        [f"session=short;session={ID}"],
    ],
)
def test_the_id_is_found_among_other_cookies(lines: list[str]) -> None:
    assert read_session_id(cookies(*lines), "session") == ID


@pytest.mark.parametrize(
    "line",
    ["", "session", "session=", f"Session={ID}", f"session={ID}x", f"session={ID[:-1]}", f'session="{ID}"'],
)
def test_what_is_not_well_formed_is_no_id(line: str) -> None:
    assert read_session_id(cookies(line), "session") is None


def test_another_id_of_a_session_keeps_its_handle_and_nothing_else() -> None:
    other = new_session_id(ID)
    assert other[:22] == ID[:22]
    assert other[22:] != ID[22:]
    assert session_handle(other) == session_handle(ID)
    assert session_digest(other) != session_digest(ID)
    assert session_handle(new_session_id()) != session_handle(ID)


def test_the_id_is_not_to_be_found_in_what_is_stored() -> None:
    digest = session_digest(ID)
    assert len(digest) == 64
    assert ID not in digest


def test_all_attributes_are_rendered() -> None:
    cookie = SessionCookie("sid", 60, secure=True, same_site="strict", path="/app", domain="example.org")
    assert cookie.render(ID).decode() == (
        f"sid={ID}; Max-Age=60; Path=/app; HttpOnly; SameSite=Strict; Domain=example.org; Secure"
    )


def test_the_defaults_and_the_removal() -> None:
    assert SessionCookie().render(ID).decode() == (
        f"__Host-session={ID}; Max-Age=1209600; Path=/; HttpOnly; SameSite=Lax; Secure"
    )
    assert SessionCookie().render(ID, 60).decode().startswith(f"__Host-session={ID}; Max-Age=60;")
    assert SessionCookie().render_removal() == b"__Host-session=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax; Secure"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "a b"}, "cookie_name"),
        ({"max_age_s": 0}, "idle_s"),
        ({"name": "s", "secure": False, "same_site": "none"}, "needs secure"),
        ({"same_site": "maybe"}, "lax, strict or none"),
        ({"path": "app"}, "path"),
        ({"path": "/;Domain=evil"}, "path"),
        ({"domain": "a;b"}, "domain"),
        ({"name": "__Host-session", "secure": False}, "__Host-"),
        ({"name": "__Secure-session", "secure": False}, "__Secure-"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        SessionCookie(**options).validate()


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"cookie_name.*idle_s.*path"):
        SessionCookie(name="", max_age_s=0, path="").validate()
