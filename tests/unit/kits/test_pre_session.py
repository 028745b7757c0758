"""Forms of visitors who have no session: good in one browser until it signs in or out, and kept nowhere."""

from collections.abc import Iterator
from http.cookies import SimpleCookie
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from script_store import ScriptStore, run_alone

from noctule.core.keyspace.keyspace import Keyspace
from noctule.kits import session_store, session_users
from noctule.kits.asgi import Message, Receive, Scope, Send, send_json
from noctule.kits.csrf import csrf_token, is_csrf_token
from noctule.kits.pre_session import PreSession
from noctule.kits.sealed_sessions import SealedSessions
from noctule.kits.session_seal import KeyRing
from noctule.kits.session_state import Session
from noctule.kits.sessions import Sessions

SESSION, FORM = "__Host-session", "__Host-session-form"
V, OTHER = "v" * 43, "w" * 43


async def once(operation: Any, **_: object) -> Any:
    """In place of `retrying_idempotent`, which needs a loop."""
    return await operation()


@pytest.fixture(autouse=True, scope="module")
def without_loop() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_store, "retrying_idempotent", once)
        patch.setattr(session_users, "retrying_idempotent", once)
        yield


class Site:
    """An app with either kind of sessions, on two instances that have nothing in common but the store or the ring."""

    def __init__(self, kind: str) -> None:
        self.store = ScriptStore(Keyspace())
        scripts = ("_END", "_ENROL", "_SEEN", "_RAISE")
        self.store.learn(session_store._SAVE, *(getattr(session_users, name) for name in scripts))
        self.do: Any = None
        ring = KeyRing({"a": b"o" * 32}, "a")
        made: Any = (lambda: SealedSessions(self.page, keys=ring, users=None)) if kind == "sealed" else self.kept
        self.instances = [made(), made()]

    def kept(self) -> Sessions:
        clock = SimpleNamespace(wall_ms=lambda: self.store.now_ms, now=lambda: self.store.now_ms / 1000)
        return Sessions(self.page, store=cast("Any", self.store), clock=cast("Any", clock))

    async def page(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, self.do(scope["session"]))


class Browser:
    """Keeps cookies as they are set."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.cookies: dict[str, str] = {}
        self.set: list[str] = []
        self.visits = 0

    def visit(self, do: Any) -> Any:
        sent: list[Message] = []
        done: list[Any] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError("nothing to receive")

        self.site.do = lambda session: done.append(do(session))
        self.visits += 1
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items()).encode()
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"cookie", cookies)] if cookies else []}
        run_alone(self.site.instances[self.visits % 2](scope, receive, send))
        self.set = [value.decode() for name, value in sent[0]["headers"] if name == b"set-cookie"]
        for line in self.set:
            ((name, morsel),) = SimpleCookie(line).items()
            self.cookies.pop(name, None)
            if morsel["max-age"] != "0":
                self.cookies[name] = morsel.value
        return done[0]


def note(session: Session) -> None:
    session.add("notes")


def token_and_note(session: Session) -> str:
    token = csrf_token(session)
    note(session)
    return token


OPERATIONS: dict[str, Any] = {
    "page": csrf_token,
    "page, then write": token_and_note,
    "write": note,
    "read": lambda session: len(session),
    "sign in": lambda session: session.sign_in("ada"),
    "new id": lambda session: session.regenerate(),
    "sign out": lambda session: session.destroy(),
}
ENDING = ("sign in", "new id", "sign out")


@pytest.mark.parametrize("kind", ["kept", "sealed"])
@given(steps=st.lists(st.tuples(st.integers(0, 1), st.sampled_from(sorted(OPERATIONS))), max_size=12))
def test_a_token_is_good_in_its_browser_until_that_signs_in_or_out(kind: str, steps: list[tuple[int, str]]) -> None:
    site = Site(kind)
    browsers = [Browser(site), Browser(site)]
    eras = [0, 0]
    given_out: list[tuple[int, int, str]] = []
    for which, name in steps:
        token = browsers[which].visit(OPERATIONS[name])
        eras[which] += name in ENDING
        if isinstance(token, str):
            given_out.append((which, eras[which], token))
        for owner, era, each in given_out:
            for tried in (0, 1):
                is_good = browsers[tried].visit(lambda session, each=each: is_csrf_token(session, each))
                assert is_good == (tried == owner and era == eras[owner]), (owner, era, tried, eras)
                assert browsers[tried].set == [], "looking sets nothing"


@pytest.mark.parametrize("kind", ["kept", "sealed"])
def test_a_flood_of_visitors_without_cookies_leaves_nothing_in_the_store(kind: str) -> None:
    site = Site(kind)
    for _ in range(100):
        browser = Browser(site)
        browser.visit(csrf_token)
        assert list(browser.cookies) == [FORM]
        (header,) = browser.set
        assert "; HttpOnly; SameSite=Lax; Secure" in header
        assert "; Path=/; " in header
    assert site.store.do("DBSIZE") == 0


def test_no_token_signs_a_browser_in_that_was_not_given_it() -> None:
    """Login CSRF: the attacker has a cookie and a token that fit, and cannot set cookies of ours elsewhere."""
    site = Site("kept")
    attacker, fresh, visitor = Browser(site), Browser(site), Browser(site)
    token = attacker.visit(csrf_token)
    visitor.visit(csrf_token)
    for victim in (fresh, visitor):
        assert not victim.visit(lambda session: is_csrf_token(session, token))
    # Should the cookie get there after all, it is worth nothing once there is a session.
    visitor.visit(note)
    visitor.cookies[FORM] = attacker.cookies[FORM]
    assert not visitor.visit(lambda session: is_csrf_token(session, token))


def test_a_cookie_of_another_session_or_of_none_seals_nothing() -> None:
    bound = PreSession([V], None)
    value = bound.change("session-1")
    assert value is not None
    assert value.startswith(f"{V}.")
    assert PreSession([value], "session-1").key == V
    assert PreSession([value], "session-1").change("session-1") is None
    for sent, session_id in ((value, "session-2"), (value, None), (V, "session-1"), (value[:-1] + "!", "session-1")):
        assert PreSession([sent], session_id).key is None


@pytest.mark.parametrize("sent", ["", "x", "v" * 42, "v" * 44, "é" * 43, f"{V}.", f"{V}.{V}", f"{V}\n"])
def test_what_is_no_key_is_passed_over(sent: str) -> None:
    assert PreSession([sent]).key is None
    assert PreSession([sent, V, OTHER]).key == V
    new = PreSession([sent])
    assert PreSession([str(new.begin())]).key == new.key == new.change(None), "and a new one is handed out"


def test_signing_in_ends_it_in_the_browser_too() -> None:
    site = Site("sealed")
    browser = Browser(site)
    before = browser.visit(csrf_token)
    browser.visit(lambda session: session.sign_in("ada"))
    assert list(browser.cookies) == [SESSION]
    browser.visit(lambda session: session.destroy())
    after = browser.visit(csrf_token)
    assert not browser.visit(lambda session: is_csrf_token(session, before))
    assert browser.visit(lambda session: is_csrf_token(session, after))
