"""Which claims are believed, and app keys that open what they sealed."""

from typing import Any

import pytest

from noctule.base.errors import ConfigError
from noctule.kits.jwt.app_keys import AppKeys
from noctule.kits.jwt.claims import is_position, read_claims
from noctule.kits.oauth2.errors import InvalidTokenError

GOOD: dict[str, Any] = {
    "iss": "https://id.example", "sub": "ada", "aud": "https://api.example", "client_id": "app", "iat": 1000,
    "exp": 1600, "jti": "j", "scope": "a b", "fid": "f", "pos": "17-2",
}  # fmt: skip


def read(now_s: float = 1100.0, **changes: Any) -> Any:
    claims = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return read_claims(claims, issuer="https://id.example", now_s=now_s)


def test_good_claims_are_read() -> None:
    token = read()
    assert (token.subject, token.scopes, token.family, token.position) == ("ada", {"a", "b"}, "f", "17-2")
    assert read(aud=["https://other.example", "https://api.example"]).audience[1] == "https://api.example"
    assert read(fid=None, pos=None, scope=None).family == ""
    assert read(extra={"anything": 1})


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"}, {"aud": []}, {"aud": 5}, {"exp": "1600"},
        {"exp": None}, {"sub": None}, {"sub": ""}, {"jti": ""}, {"iat": 2000}, {"pos": "x"}, {"pos": "1"},
        {"pos": "9" * 30 + "-0"}, {"client_id": None}, {"now_s": 1605.0}, {"now_s": 10**12},
    ],
)  # fmt: skip
def test_others_are_not(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidTokenError):
        read(**changes)


def test_clocks_may_differ_a_little() -> None:
    assert read(1604.9)
    assert read(996.0)


def test_positions_are_numbers() -> None:
    assert is_position("0-0")
    assert not any(map(is_position, ("", "-", "1-", "-1", "²-1", "1-1-1", "1.5-0")))


def test_app_keys_open_what_any_of_them_sealed_in_the_same_context(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "o" * 32, "n" * 32
    before, after = AppKeys([old]), AppKeys([new, old])
    sealed = before.seal(b"secret", "here")
    assert after.open(sealed, before.newest, "here") == b"secret"
    assert after.newest != before.newest
    assert b"secret" not in sealed
    for keys, context in ((after, "there"), (AppKeys([new]), "here")):
        with pytest.raises(ConfigError, match="dropped too early"):
            keys.open(sealed, before.newest, context)
    assert old not in repr(before)
    monkeypatch.setenv("JWT_SECRET", f"{new} {old}")
    assert AppKeys().open(sealed, before.newest, "here") == b"secret"
    monkeypatch.delenv("JWT_SECRET")
    with pytest.raises(ConfigError, match="JWT_SECRET"):
        AppKeys()
    for short in ([], ["short"], [old, "short"]):
        with pytest.raises(ConfigError):
            AppKeys(short)
