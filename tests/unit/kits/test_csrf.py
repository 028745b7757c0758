"""Tokens of forms, and requests that other sites' pages make."""

from typing import Any

import pytest

from noctule.base.errors import ConfigError
from noctule.kits.asgi import Message, Receive, Scope, Send
from noctule.kits.csrf import CsrfError, SameOrigin, check_csrf, csrf_token, is_browser, is_csrf_token, is_foreign
from noctule.kits.session_cookie import new_session_id
from noctule.kits.session_state import Session, StoredSession


def session_of(session_id: str) -> Session:
    return Session(StoredSession(session_id, {}, 0), new_session_id)


def scope_of(method: str = "POST", kind: str = "http", **headers: str) -> Scope:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": kind, "method": method, "headers": [(b"host", b"app.example"), *named]}


def test_a_token_is_good_in_its_session_for_its_purpose() -> None:
    session, other = session_of("a" * 65), session_of("b" * 65)
    token = csrf_token(session, "form-1")
    assert len(token) == 64
    assert token != csrf_token(session, "form-1"), "a secret that is repeated can be guessed from compressed pages"
    assert is_csrf_token(session, token, "form-1")
    assert not is_csrf_token(session, token, "form-2")
    assert not is_csrf_token(session, token)
    assert not is_csrf_token(other, token, "form-1")


def test_signing_in_ends_the_tokens_of_before() -> None:
    session = session_of("a" * 65)
    token = csrf_token(session)
    session.sign_in("ada")
    assert not is_csrf_token(session, token)


@pytest.mark.parametrize("token", ["", "x", "é" * 64, "A" * 64, "A" * 63, "A" * 68, "=" * 64])
def test_what_is_no_token_is_refused(token: str) -> None:
    assert not is_csrf_token(session_of("a" * 65), token)


def test_every_changed_character_is_noticed() -> None:
    session = session_of("a" * 65)
    token = csrf_token(session)
    for at, character in enumerate(token):
        assert not is_csrf_token(session, token[:at] + ("A" if character != "A" else "B") + token[at + 1 :])


def test_a_visitor_without_session_has_no_good_token() -> None:
    nobody = Session(None, new_session_id)
    assert not is_csrf_token(nobody, csrf_token(session_of("a" * 65)))
    assert nobody.plan(0).id is None, "looking at a token begins no session"


FOREIGN: list[tuple[dict[str, str], bool]] = [
    ({}, False),
    ({"origin": "https://app.example"}, False),
    ({"origin": "https://APP.example"}, False),
    ({"origin": "https://evil.example"}, True),
    ({"origin": "https://app.example.evil"}, True),
    ({"origin": "https://app.example:444"}, True),
    ({"origin": "null"}, True),
    ({"origin": "https://["}, True),
    ({"origin": "https://www.example"}, False),
    ({"sec_fetch_site": "same-origin"}, False),
    ({"sec_fetch_site": "none"}, False),
    ({"sec_fetch_site": "same-site"}, True),
    ({"sec_fetch_site": "cross-site"}, True),
    ({"sec_fetch_site": "new-word"}, True),
    ({"sec_fetch_site": "cross-site", "origin": "https://app.example"}, True),
    ({"sec_fetch_site": "same-site", "origin": "https://www.example"}, False),
    ({"sec_fetch_site": "same-origin", "origin": "https://gateway.example"}, False),
]


@pytest.mark.parametrize(("headers", "foreign"), FOREIGN)
async def test_browsers_say_where_a_request_comes_from(headers: dict[str, str], foreign: bool) -> None:
    scope = scope_of(**headers)
    assert is_foreign(scope, ["https://www.example"]) is foreign
    assert is_browser(scope) is bool(headers)
    assert await status_of(scope) == (403 if foreign else 200)


async def status_of(scope: Scope) -> Any:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing to receive")

    await SameOrigin(app, trusted_origins=["https://www.example"])(scope, receive, send)
    return sent[0].get("status", sent[0].get("code"))


def test_a_page_in_clear_text_on_our_host_is_another_site() -> None:
    """Whoever is on the network writes such a page; only behind a gateway that ends TLS can it not be told."""
    assert is_foreign({**scope_of(origin="http://app.example"), "scheme": "https"})
    assert is_foreign({**scope_of(kind="websocket", origin="http://app.example"), "scheme": "wss"})
    assert not is_foreign({**scope_of(origin="https://app.example"), "scheme": "http"})


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
async def test_other_sites_may_link_to_us(method: str) -> None:
    assert await status_of(scope_of(method, origin="https://evil.example")) == 200


async def test_a_websocket_of_another_site_is_closed() -> None:
    assert await status_of(scope_of(kind="websocket", origin="https://evil.example")) == 1008


def test_both_are_checked() -> None:
    session = session_of("a" * 65)
    token = csrf_token(session)
    check_csrf(scope_of(origin="https://app.example"), session, token)
    with pytest.raises(CsrfError, match="another site"):
        check_csrf(scope_of(origin="https://evil.example"), session, token)
    with pytest.raises(CsrfError, match="no longer valid"):
        check_csrf(scope_of(origin="https://app.example"), session, "")


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/", "ftp://example.org", "https://"])
def test_an_origin_is_a_scheme_and_a_host(origin: str) -> None:
    with pytest.raises(ConfigError, match="scheme and a host"):
        SameOrigin(lambda *_: None, trusted_origins=[origin])  # type: ignore[arg-type,return-value]
