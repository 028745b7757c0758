"""Browsers that are known again: nobody uses up their tries, and they give nobody more than others have."""

import asyncio
from collections import Counter
from http.cookies import SimpleCookie
from types import SimpleNamespace
from typing import Any, cast

import pytest
from counting_limiter import CountingLimiter
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import ConfigError
from noctule.kits.asgi import Message, Receive, Scope, Send, send_json
from noctule.kits.known_devices import Device, KnownDevices
from noctule.kits.passwords import Login, RateLimitedError, Verdict

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
SECRET, OTHER_SECRET = "s" * 32, "t" * 32


class World:
    """Users with passwords in clear, no clock, and each browser's cookie."""

    def __init__(self) -> None:
        self.users = {"ada": ("ada", "right"), "mallory": ("mallory", "known"), "\uff41da": ("\uff41da", "known")}
        self.limiter = CountingLimiter()
        self.looked_at = 0
        passwords: Any = SimpleNamespace(verify=self.verify)
        self.login = Login(passwords, self.find, limiter=self.limiter)

    async def find(self, name: str) -> tuple[str, str] | None:
        return self.users.get(name)

    async def verify(self, password: str, kept: str | None) -> Verdict:
        self.looked_at += 1
        return Verdict(password == kept)

    def sign_in(self, name: str, password: str, address: str, cookie: str = "") -> tuple[str | None, str]:
        """Who is signed in, and the cookie afterwards."""
        device = Device([KEY], [cookie] if cookie else [])
        user = asyncio.run(self.login.check(name, password, subjects=[f"ip:{address}"], device=device))
        return user, device.cookie or cookie


GUESSES = st.tuples(
    st.sampled_from(["user is wrong", "user is right", "attacker", "attacker as \uff41da", "attacker as mallory"]),
    st.integers(0, 8),
)


@given(steps=st.lists(GUESSES, max_size=60))
def test_attackers_use_up_what_is_theirs_and_get_no_more(steps: list[tuple[str, int]]) -> None:
    """They have accounts, one under a name that is counted as the same, addresses, and cookies of their own."""
    world = World()
    _, own = world.sign_in("ada", "right", "198.51.100.1")
    stolen = dict.fromkeys(("ａda", "mallory"), "")
    attempts = 0
    guesses: Counter[str] = Counter()
    for who, number in steps:
        address = f"192.0.2.{number}"
        if who.startswith("user") and attempts < 5:
            right = who == "user is right"
            user, own = world.sign_in("ada", "right" if right else "wrong", address, own)
            assert user == ("ada" if right else None), "whatever others did"
            attempts += 1
        elif not who.startswith("user"):
            account = who.removeprefix("attacker").removeprefix(" as ")
            for _ in range(6):
                try:
                    if account:
                        stolen[account] = world.sign_in(account, "known", address)[1]
                    world.sign_in("ada", "guess", address, stolen.get(account, "x" * 22 + "." + "y" * 43))
                    guesses[address] += 1
                except RateLimitedError:
                    break
    assert sum(guesses.values()) <= 20
    assert max(guesses.values(), default=0) <= 5


def test_a_device_is_held_to_its_own_failures_and_to_nothing_else() -> None:
    world = World()
    _, cookie = world.sign_in("ada", "right", "192.0.2.1")
    _, other = world.sign_in("ada", "right", "192.0.2.1")
    for _ in range(5):
        assert world.sign_in("ada", "wrong", "192.0.2.1", cookie)[0] is None
    looked_at = world.looked_at
    with pytest.raises(RateLimitedError):
        world.sign_in("ada", "right", "192.0.2.1", cookie)
    assert world.looked_at == looked_at
    assert world.sign_in("ada", "right", "192.0.2.1", other)[0] == "ada", "another device of the user"
    assert world.sign_in("ada", "right", "192.0.2.1")[0] == "ada", "and one that is not known"
    assert not any(part in subject for subject in world.limiter.asked for part in (*cookie.split("."), "ada"))


def test_a_cookie_is_good_for_one_user_with_one_password_under_one_key() -> None:
    device = Device([KEY])
    assert not device.has_cookie
    assert device.subject("ada", "hash") is None
    device.trust("ada", "hash")
    cookie = str(device.cookie)
    known = Device([OTHER_KEY, KEY], ["junk", cookie])
    assert known.has_cookie
    subject = known.subject("ada", "hash")
    assert subject is not None
    for user, password_hash in (("bob", "hash"), ("ada", "new hash"), ("adah", "ash"), ("", "adahash")):
        assert known.subject(user, password_hash) is None
    assert Device([OTHER_KEY], [cookie]).subject("ada", "hash") is None
    for at, character in enumerate(cookie):
        changed = cookie[:at] + ("A" if character != "A" else "B") + cookie[at + 1 :]
        assert Device([KEY], [changed]).subject("ada", "hash") != subject


@pytest.mark.parametrize("sent", ["", ".", "x" * 66, "x" * 22 + "." + "é" * 43, "x" * 22 + "." + "y" * 43 + "\n"])
def test_what_is_no_cookie_of_ours_is_not_looked_at(sent: str) -> None:
    assert not Device([KEY], [sent]).has_cookie


def test_a_device_that_signs_in_again_has_no_more_attempts_for_it() -> None:
    """Each costs a hash, also of somebody who has an account; and a hash of another cost changes nothing of it."""
    world = World()
    _, cookie = world.sign_in("ada", "right", "192.0.2.1")
    for _ in range(5):
        _, cookie = world.sign_in("ada", "right", "192.0.2.1", cookie)
    with pytest.raises(RateLimitedError):
        world.sign_in("ada", "right", "192.0.2.1", cookie)
    before, other = Device([KEY], [cookie]), Device([KEY], [cookie])
    counted = before.subject("ada", "right")
    before.trust("ada", "another hash")
    assert Device([KEY], [str(before.cookie)]).subject("ada", "another hash") == counted
    other.subject("ada", "right")
    other.trust("bob", "hash")
    assert Device([KEY], [str(other.cookie)]).subject("bob", "hash") != counted, "but another user is another device"


def test_a_new_password_ends_what_was_collected_under_the_old_one() -> None:
    """Or whoever knew it once would have as many budgets as they signed in times."""
    world = World()
    collected = [world.sign_in("ada", "right", f"198.51.100.{number}")[1] for number in range(10)]
    world.users["ada"] = ("ada", "new")
    guesses = 0
    for cookie in collected:
        for _ in range(5):
            try:
                world.sign_in("ada", "guess", "192.0.2.1", cookie)
                guesses += 1
            except RateLimitedError:
                break
    assert guesses == 5, "as often as anybody from that address"


async def call(app: KnownDevices, cookie: str = "", kind: str = "http") -> list[str]:
    """The Set-Cookie headers of the response."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing to receive")

    headers = [(b"cookie", cookie.encode())] if cookie else []
    await app(cast("Scope", {"type": kind, "method": "GET", "path": "/", "headers": headers}), receive, send)
    return [value.decode() for name, value in sent[0].get("headers", ()) if name == b"set-cookie"]


async def test_the_cookie_goes_out_with_the_sign_in_and_is_known_on_every_instance() -> None:
    known: list[str | None] = []

    async def sign_in(scope: Scope, receive: Receive, send: Send) -> None:
        scope["device"].trust("ada", "hash")
        await send_json(send, 200, {})

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        known.append(scope["device"].subject("ada", "hash") if scope["type"] == "http" else "no device")
        await send_json(send, 200, {})

    (header,) = await call(KnownDevices(sign_in, app_secrets_=[SECRET]))
    assert header.startswith("__Host-device=")
    assert header.endswith("; Path=/; HttpOnly; SameSite=Strict; Secure")
    ((name, morsel),) = SimpleCookie(header).items()
    for secrets in ([SECRET], [OTHER_SECRET, SECRET], [OTHER_SECRET]):
        assert await call(KnownDevices(look, app_secrets_=secrets), f"{name}={morsel.value}") == []
    assert [each is not None for each in known] == [True, True, False]
    assert await call(KnownDevices(look, app_secrets_=[SECRET]), kind="websocket") == []
    (header,) = await call(KnownDevices(sign_in, app_secrets_=[SECRET], plain_http=True))
    assert header.startswith("device=")


def test_without_a_secret_it_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOCTULE_APP_SECRET", raising=False)
    with pytest.raises(ConfigError, match="NOCTULE_APP_SECRET is not set"):
        KnownDevices(send_json)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="known devices: each secret") as caught:
        KnownDevices(send_json, app_secrets_=["short-one"])  # type: ignore[arg-type]
    assert "short-one" not in str(caught.value)
