"""Sessions that live in the cookie: opened by any instance, ended by age, taken back by the user's epoch."""

from typing import Any, cast

import pytest

from noctule.base.errors import ConfigError, UnavailableError
from noctule.base.ids import Instant, WallMs
from noctule.kits.asgi import Message, Receive, Scope, Send, send_json
from noctule.kits.sealed_sessions import SealedSessions
from noctule.kits.session_seal import KeyRing
from noctule.kits.session_state import Session
from noctule.kits.session_users import UserSessions

RING = KeyRing({"a": b"o" * 32}, "a")


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000

    def now(self) -> Instant:
        return Instant(float(self.seconds))

    def wall_ms(self) -> WallMs:
        return WallMs(self.seconds * 1000)


class Epochs:
    """In place of the users' store."""

    def __init__(self) -> None:
        self.epoch = 1
        self.is_away = False

    async def enrol(self, user: str, handle: str, about: object) -> int:
        return self.epoch

    async def is_current(self, user: str, epoch: int) -> bool:
        if self.is_away:
            raise UnavailableError("away")
        return epoch >= self.epoch


class Browser:
    """One visitor."""

    def __init__(self, clock: HandClock, users: Epochs | None = None, **options: Any) -> None:
        self.cookie = ""
        self.changes: dict[str, object] = {}
        self.do: Any = lambda session: None
        self.sets_cookie = False
        self.app = SealedSessions(
            self._page, keys=RING, users=cast("UserSessions | None", users), clock=clock, **options
        )

    async def visit(self) -> tuple[int, dict[str, object]]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError("nothing to receive")

        headers = [(b"cookie", b"__Host-session=" + self.cookie.encode())]
        await self.app({"type": "http", "method": "GET", "path": "/", "headers": headers}, receive, send)
        set_cookies = [value.decode() for name, value in sent[0]["headers"] if name == b"set-cookie"]
        self.sets_cookie = bool(set_cookies)
        for line in set_cookies:
            self.cookie = line.partition("=")[2].partition(";")[0]
        return sent[0]["status"], self.seen

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        session: Session = scope["session"]
        self.do(session)
        self.seen = dict(session)
        await send_json(send, 200, self.seen)


async def test_a_session_is_in_its_cookie_and_written_only_when_it_changes() -> None:
    browser = Browser(HandClock())
    assert await browser.visit() == (200, {})
    assert not browser.sets_cookie
    browser.do = lambda session: session.update(name="Ada")
    await browser.visit()
    assert browser.sets_cookie
    assert "Ada" not in browser.cookie
    browser.do = lambda session: None
    assert await browser.visit() == (200, {"name": "Ada"})
    assert not browser.sets_cookie
    browser.do = lambda session: session.destroy()
    await browser.visit()
    assert browser.cookie == ""


async def test_a_session_ends_by_idleness_and_by_age() -> None:
    clock = HandClock()
    browser = Browser(clock, idle_s=600, absolute_s=1500)
    browser.do = lambda session: session.update(name="Ada")
    await browser.visit()
    browser.do = lambda session: None
    for _ in range(2):
        clock.seconds += 599
        assert await browser.visit() == (200, {"name": "Ada"})
        assert browser.sets_cookie
    clock.seconds += 302
    assert await browser.visit() == (200, {}), "1500 s old"
    other = Browser(clock, idle_s=600, absolute_s=1500)
    other.do = lambda session: session.update(name="Ada")
    await other.visit()
    other.do = lambda session: None
    clock.seconds += 600
    assert await other.visit() == (200, {})


async def test_a_changed_cookie_is_no_session() -> None:
    browser = Browser(HandClock())
    browser.do = lambda session: session.update(name="Ada")
    await browser.visit()
    browser.do = lambda session: None
    good = browser.cookie
    for at in range(0, len(good), 7):
        browser.cookie = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
        assert await browser.visit() == (200, {})


def test_keys_that_accept_what_is_not_sealed_are_refused() -> None:
    """With them, a visitor writes a session as they like."""
    lax = KeyRing({"a": b"o" * 32}, "a", accept_plain=True)
    with pytest.raises(ConfigError, match="accept_plain"):
        SealedSessions(send_json, keys=lax, users=None)  # type: ignore[arg-type]


async def test_a_users_epoch_takes_the_session_back() -> None:
    users = Epochs()
    browser = Browser(HandClock(), users)
    browser.do = lambda session: session.sign_in("ada")
    await browser.visit()
    browser.do = lambda session: session.update(user=session.user)
    assert await browser.visit() == (200, {"user": "ada"})
    users.epoch = 2
    assert await browser.visit() == (200, {"user": None})


@pytest.mark.parametrize(("on_epoch_loss", "status"), [("refuse", 503), ("accept", 200)])
async def test_without_the_epoch_one_is_refused_or_believed(on_epoch_loss: str, status: int) -> None:
    users = Epochs()
    browser = Browser(HandClock(), users, on_epoch_loss=on_epoch_loss)
    browser.do = lambda session: session.sign_in("ada")
    await browser.visit()
    users.is_away = True
    browser.do = lambda session: None
    assert (await browser.visit())[0] == status


async def test_too_much_for_a_cookie_is_an_error_of_the_app() -> None:
    browser = Browser(HandClock())
    browser.do = lambda session: session.update(text="x" * 4000)
    assert (await browser.visit())[0] == 500
    assert not browser.sets_cookie
