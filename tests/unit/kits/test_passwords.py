"""Passwords: right, wrong, of nobody, of another cost, too many at once; and limits before all of that."""

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator

import pytest
from counting_limiter import CountingLimiter

from noctule.base.errors import ConfigError, RequestError, UnavailableError
from noctule.core.limits.policy import AUTHENTICATION, Policy
from noctule.kits import passwords as passwords_module
from noctule.kits.passwords import Argon2Cost, Login, Passwords, RateLimitedError, Verdict

CHEAP = Argon2Cost(memory_kib=7 * 1024, passes=1)


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(CHEAP)
    yield made
    made.close()


async def test_right_and_wrong(passwords: Passwords) -> None:
    kept = await passwords.hash("correct horse")
    assert kept.startswith("$argon2id$v=19$m=7168,t=1,p=1$")
    assert await passwords.verify("correct horse", kept) == Verdict(True)
    assert await passwords.verify("Correct horse", kept) == Verdict(False)
    assert await passwords.verify("correct horse", None) == Verdict(False)
    with pytest.raises(RequestError, match="not one of Argon2"):
        await passwords.verify("x", "$2b$12$something")
    with pytest.raises(RequestError, match="1024"):
        await passwords.verify("é" * 600, kept)


async def test_half_a_character_is_no_password_and_nobodys_name(passwords: Passwords) -> None:
    """JSON may hold one, and neither Argon2 nor a database takes it."""
    for given in (passwords.hash("\ud800"), passwords.verify("x\udfff", None)):
        with pytest.raises(RequestError, match="UTF-8"):
            await given

    async def find(name: str) -> None:
        name.encode()

    assert await Login(passwords, find).check("ada\ud800", "secret") is None


async def test_another_cost_gives_a_new_hash_once(passwords: Passwords) -> None:
    dearer = Passwords(Argon2Cost(memory_kib=8 * 1024, passes=1))
    try:
        verdict = await dearer.verify("secret", await passwords.hash("secret"))
        assert verdict.is_right
        assert verdict.new_hash is not None
        assert "m=8192" in verdict.new_hash
        assert await dearer.verify("secret", verdict.new_hash) == Verdict(True)
        assert verdict.new_hash not in repr(verdict)
    finally:
        dearer.close()


async def test_nobody_takes_as_long_as_somebody(passwords: Passwords) -> None:
    """The same hash with the same cost; the medians tell whether it was computed at all, not its noise."""
    kept = await passwords.hash("secret")
    await passwords.verify("x", None)  # Makes the hash of nobody.

    async def took(stored: str | None) -> float:
        begun = time.thread_time()
        passwords._verify("wrong", stored)
        return time.thread_time() - begun

    there = statistics.median([await took(kept) for _ in range(9)])
    gone = statistics.median([await took(None) for _ in range(9)])
    assert 0.5 < gone / there < 2.0


async def test_the_event_loop_goes_on_and_the_crowd_is_bounded(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords_module, "WAITING_MAX", 2)
    gate = threading.Event()
    monkeypatch.setattr(passwords, "_verify", lambda *_: gate.wait(5) and Verdict(True))
    waiting = [asyncio.create_task(passwords.verify("x", None)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError, match="too many"):
        await passwords.verify("x", None)
    gate.set()
    assert all(verdict.is_right for verdict in await asyncio.gather(*waiting))
    assert passwords.memory_kib_max == 2 * 7 * 1024


def test_costs_that_protect_nothing_are_refused() -> None:
    for fields in ({"memory_kib": 1024}, {"passes": 0}, {"lanes": 9}):
        with pytest.raises(ConfigError):
            Argon2Cost(**fields)
    with pytest.raises(ConfigError):
        Passwords(CHEAP, workers=0)


THREE = Policy(name="three", limit=3, window_s=60.0)


async def test_a_login_is_counted_before_it_is_looked_at(passwords: Passwords) -> None:
    users = {"ada": ("id-1", await passwords.hash("secret"))}
    kept: dict[str, str] = {}
    looked: list[str] = []

    async def find(name: str) -> tuple[str, str] | None:
        looked.append(name)
        return users.get(name)

    async def keep(subject: str, new: str) -> None:
        kept[subject] = new

    limiter = CountingLimiter()
    login = Login(passwords, find, keep, limiter=limiter, name_policies=(THREE,))
    assert await login.check("ada", "secret", subjects=["ip:192.0.2.1"]) == "id-1"
    for name in ("ADA ", "\uff41da"):  # The last with letters that a database may take for the same.
        assert await login.check(name, "wrong", subjects=["ip:192.0.2.1"]) is None
    with pytest.raises(RateLimitedError) as refused:
        await login.check("ada", "secret", subjects=["ip:192.0.2.2"])
    assert refused.value.decision.policy is THREE
    for name in ("bob", "eve"):
        assert await login.check(name, "wrong", subjects=["ip:192.0.2.1"]) is None
    with pytest.raises(RateLimitedError) as refused:
        await login.check("ida", "secret", subjects=["ip:192.0.2.1"])
    assert refused.value.decision.policy is AUTHENTICATION, "five were from this address"
    assert looked == ["ada", "ADA ", "\uff41da", "bob", "eve"]
    assert sum(limiter.counts[key] for key in limiter.counts if key[0] == "three") == 5, "nothing for ida"
    assert await login.check("ida", "wrong") is None, "also without an address"
    assert not any("ada" in subject for subject in limiter.asked)
    assert kept == {}
