"""One secret of an app, and a key of its own for each kit."""

from pathlib import Path

import pytest

from noctule.base.errors import ConfigError, StorageError
from noctule.kits.app_secret import app_secrets, derived_key
from noctule.kits.files import FileStore
from noctule.kits.jwt.app_keys import AppKeys
from noctule.kits.session_seal import KeyRing

OLD, NEW = "o" * 32, "n" * 32


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOCTULE_APP_SECRET", "JWT_SECRET", "NOCTULE_INSTANCES"):
        monkeypatch.delenv(name, raising=False)


def test_several_while_it_is_changed_and_none_that_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    assert app_secrets() == ()
    monkeypatch.setenv("NOCTULE_APP_SECRET", f" {NEW} {OLD}")
    assert app_secrets() == (NEW, OLD)
    monkeypatch.setenv("NOCTULE_APP_SECRET", f"{NEW} geheim")
    with pytest.raises(ConfigError, match="NOCTULE_APP_SECRET: each secret must have at least 32") as caught:
        app_secrets()
    assert "geheim" not in str(caught.value)


def test_keys_differ_by_secret_and_purpose() -> None:
    keys = {derived_key(secret, purpose) for secret in (OLD, NEW) for purpose in ("app key", "file links")}
    assert {len(key) for key in keys} == {32}
    assert len(keys) == 4


def test_app_keys_take_it_unless_there_is_a_secret_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="set JWT_SECRET or NOCTULE_APP_SECRET"):
        AppKeys()
    monkeypatch.setenv("NOCTULE_APP_SECRET", NEW)
    assert AppKeys().newest == AppKeys([NEW]).newest
    monkeypatch.setenv("JWT_SECRET", OLD)
    assert AppKeys().newest == AppKeys([OLD]).newest


def test_sessions_are_sealed_with_it_and_opened_with_those_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="NOCTULE_APP_SECRET is not set"):
        KeyRing.of_app()
    monkeypatch.setenv("NOCTULE_APP_SECRET", OLD)
    before = KeyRing.of_app()
    sealed = before.seal(b"a value", "here")
    monkeypatch.setenv("NOCTULE_APP_SECRET", f"{NEW} {OLD}")
    after = KeyRing.of_app()
    assert after.unseal(sealed, "here") == b"a value"
    assert after.names[0] not in before.names
    assert after.names[1:] == before.names
    with pytest.raises(StorageError):
        before.unseal(after.seal(b"a value", "here"), "here")


def test_links_of_files_are_signed_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, key = f"file://{tmp_path}", "a/2026/01/01/00000000-0000-7000-8000-000000000000"
    with pytest.raises(ConfigError, match="NOCTULE_APP_SECRET"):
        FileStore(url).links.sign(key)
    monkeypatch.setenv("NOCTULE_APP_SECRET", OLD)
    link = FileStore(url).links.sign(key)
    monkeypatch.setenv("NOCTULE_APP_SECRET", f"{NEW} {OLD}")
    FileStore(url).links.signer.check("GET", key, link.partition("?")[2], 0)
    with pytest.raises(ConfigError):
        FileStore(url, link_secrets=()).links.sign(key)
