"""Keys: the index of what is gone, lock-delays, and bounds."""

import pytest

from noctule.base.errors import RequestError, TooLargeError
from noctule.core.registry import kv as module
from noctule.core.registry.bounds import KEY_BYTES_MAX, VALUE_BYTES_MAX
from noctule.core.registry.changes import (
    AcquireKey,
    DeleteKey,
    DeleteTree,
    EndSession,
    PutNode,
    ReleaseKey,
    RenewSession,
    SetKey,
    TellCheck,
)
from noctule.core.registry.objects import CheckStatus, KvEntry, RegistryNode, SessionBehavior
from noctule.core.registry.registry import Registry
from tests.unit.core.registry.small import NOW_MS, do, with_session


def test_the_index_of_a_prefix_rises_when_a_key_of_it_is_deleted_and_never_falls() -> None:
    """Without a memory of what was deleted it would fall to that of the keys that are left."""
    registry = Registry()
    do(registry, SetKey("a/1", b""))
    do(registry, SetKey("a/2", b""))
    do(registry, DeleteKey("a/2"))
    do(registry, SetKey("b", b""))
    assert [registry.index_of(f"prefix:{prefix}") for prefix in ("a/", "b", "c", "")] == [4, 5, 1, 5]
    assert (registry.index_of("key:a/2"), registry.index_of("key:a/1")) == (4, 2)


def test_deleted_keys_that_are_forgotten_raise_the_index_of_every_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOMBSTONES_MAX", 1)
    registry = Registry()
    for key in ("a", "b", "c"):
        do(registry, SetKey(key, b""))
        do(registry, DeleteKey(key))
    assert [registry.index_of(f"key:{key}") for key in ("a", "b", "c", "d")] == [5, 5, 7, 5]
    assert [registry.index_of(f"prefix:{prefix}") for prefix in ("a", "c", "")] == [5, 7, 7]


def test_a_tree_is_deleted_and_nothing_beside_it() -> None:
    registry = Registry()
    do(registry, *(SetKey(key, b"") for key in ("a", "a/1", "a/2", "a0", "b")))
    do(registry, DeleteTree("a/"))
    assert [entry.key for entry in registry.keys("")] == ["a", "a0", "b"]
    index = registry.index
    do(registry, DeleteTree("none"))
    assert registry.index == index


def test_a_key_is_held_by_one_session_until_that_releases_it() -> None:
    registry = with_session("s", "t")
    assert do(registry, AcquireKey("k", b"1", "s")) == [True]
    assert do(registry, AcquireKey("k", b"2", "t")) == [False]
    assert do(registry, AcquireKey("k", b"3", "s")) == [True]
    assert do(registry, ReleaseKey("k", b"4", "t")) == [False]
    assert do(registry, SetKey("k", b"5")) == [True]
    entry = registry.key("k")
    assert entry is not None
    assert (entry.value, entry.session, entry.lock_index) == (b"5", "s", 1)
    assert do(registry, ReleaseKey("k", b"6", "s")) == [True]
    assert do(registry, AcquireKey("k", b"7", "t")) == [True], "a release by hand has no lock-delay"
    entry = registry.key("k")
    assert entry == KvEntry("k", b"7", 0, 2, "t", entry.create_index if entry else 0, registry.index)


@pytest.mark.parametrize("behavior", list(SessionBehavior))
def test_a_key_that_was_lost_cannot_be_acquired_before_its_lock_delay(behavior: SessionBehavior) -> None:
    """Who held it may not know yet, and still act on it: also when the key is gone with its session."""
    registry = with_session("s", "t", behavior=behavior, lock_delay_ms=500)
    do(registry, AcquireKey("k", b"1", "s"))
    do(registry, EndSession("s"))
    entry = registry.key("k")
    assert (entry is None) == (behavior is SessionBehavior.DELETE)
    assert registry.lock_delay_ms("k", NOW_MS + 100) == 400
    assert registry.apply([AcquireKey("k", b"2", "t")], NOW_MS + 499) == [False]
    assert registry.apply([SetKey("k", b"3")], NOW_MS + 499) == [True]
    assert registry.apply([AcquireKey("k", b"2", "t")], NOW_MS + 500) == [True]
    assert not registry.contents().delays, "what has passed is forgotten"


def test_a_check_that_turns_critical_takes_the_lock() -> None:
    registry = with_session("s", "t")
    do(registry, AcquireKey("k", b"1", "s"))
    do(registry, TellCheck("a", "serfHealth", CheckStatus.WARNING))
    assert set(registry.sessions) == {"s", "t"}
    do(registry, TellCheck("a", "serfHealth", CheckStatus.CRITICAL))
    assert not registry.sessions
    assert [entry.session for entry in registry.keys("")] == [""]
    assert do(registry, RenewSession("s")) == [False]
    with pytest.raises(RequestError, match=r"^change 0: invalid session 's'$"):
        do(registry, AcquireKey("k", b"1", "s"))


@pytest.mark.parametrize(
    "change",
    [
        SetKey("", b""),
        SetKey("k" * (KEY_BYTES_MAX + 1), b""),
        SetKey("k", bytes(VALUE_BYTES_MAX + 1)),
        SetKey("k", b"", -1),
        SetKey("k", b"", 1 << 64),
    ],
)
def test_what_is_no_key_is_refused(change: SetKey) -> None:
    registry = Registry()
    with pytest.raises(RequestError, match=r"^change 1: "):
        do(registry, PutNode(RegistryNode("a", "")), change)
    assert registry.contents() == Registry().contents()


def test_all_keys_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KV_BYTES_MAX", 10)
    registry = Registry()
    do(registry, SetKey("k", bytes(9)))
    with pytest.raises(TooLargeError, match="bytes of all keys and values: 12, and 10 are the most"):
        do(registry, SetKey("l", b"1"))
    do(registry, SetKey("k", bytes(7)), SetKey("l", b"1"))
    registry.check()
    monkeypatch.setattr(module, "KEYS_MAX", 2)
    with pytest.raises(TooLargeError, match="number of keys"):
        do(registry, SetKey("m", b""))
