"""Values that are sealed: by any key of the ring, for one place, and not to be changed."""

import base64

import pytest

from noctule.base.errors import ConfigError, StorageError
from noctule.kits.session_seal import KeyRing

OLD, NEW = b"o" * 32, b"n" * 32


def test_what_was_sealed_is_opened_in_its_place() -> None:
    ring = KeyRing({"a": OLD}, "a")
    sealed = ring.seal(b"secret", "here")
    assert b"secret" not in sealed
    assert sealed != ring.seal(b"secret", "here")
    assert ring.unseal(sealed, "here") == b"secret"
    with pytest.raises(StorageError, match="changed or moved"):
        ring.unseal(sealed, "there")


def test_every_changed_byte_is_noticed() -> None:
    ring = KeyRing({"a": OLD, "b": NEW}, "a")
    sealed = ring.seal(b"secret", "here")
    for at in range(len(sealed)):
        for bit in (1, 128):
            with pytest.raises(StorageError):
                ring.unseal(sealed[:at] + bytes([sealed[at] ^ bit]) + sealed[at + 1 :], "here")
    for end in range(len(sealed)):
        with pytest.raises(StorageError):
            ring.unseal(sealed[:end], "here")


def test_keys_rotate() -> None:
    before, both, after = KeyRing({"a": OLD}, "a"), KeyRing({"a": OLD, "b": NEW}, "b"), KeyRing({"b": NEW}, "b")
    assert both.unseal(before.seal(b"1", "x"), "x") == b"1"
    assert after.unseal(both.seal(b"2", "x"), "x") == b"2"
    with pytest.raises(StorageError, match="not in the ring"):
        after.unseal(before.seal(b"1", "x"), "x")
    assert both.names == ["b", "a"]


def test_plain_values_are_read_only_where_one_says_so() -> None:
    assert KeyRing({"a": OLD}, "a", accept_plain=True).unseal(b'"plain"', "x") == b'"plain"'
    with pytest.raises(StorageError, match="not sealed"):
        KeyRing({"a": OLD}, "a").unseal(b'"plain"', "x")


def test_a_ring_is_told_by_a_text_and_shows_no_key() -> None:
    text = f"b:{base64.b64encode(NEW).decode()}, a:{base64.urlsafe_b64encode(OLD).decode()}"
    ring = KeyRing.parse(text)
    assert repr(ring) == "<KeyRing b, a>"
    assert ring.unseal(KeyRing({"a": OLD}, "a").seal(b"1", "x"), "x") == b"1"


@pytest.mark.parametrize("text", ["", "a", "a:zz", "a:!!!!", "a b:" + "A" * 43 + "=", ":" + "A" * 43 + "="])
def test_what_is_no_ring_is_refused_without_quoting_a_key(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        KeyRing.parse(text)
    assert "AAAA" not in str(error.value)
