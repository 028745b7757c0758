"""Lists of changes: all of them or none, one index for each, and bounds."""

import pytest

from noctule.base.errors import RequestError, TooLargeError
from noctule.core.registry import catalog, registry
from noctule.core.registry.changes import (
    AcquireKey,
    Change,
    CheckIndex,
    CheckSession,
    DeleteKey,
    PutNode,
    PutService,
    ReleaseKey,
    RemoveNode,
    RenewSession,
    SetKey,
    change_refused,
)
from noctule.core.registry.objects import RegistryNode, ServiceInstance
from noctule.core.registry.registry import Registry
from tests.unit.core.registry.small import do, with_node, with_session


def test_a_list_moves_the_index_once_and_only_if_it_changes_something() -> None:
    state = Registry()
    assert state.index == 1
    assert do(state, SetKey("a", b"1"), SetKey("b", b"1"), PutNode(RegistryNode("n", ""))) == [True, True, 2]
    assert {entry.modify_index for entry in state.keys("")} == {2}
    assert do(state, SetKey("a", b"1")) == [True]
    assert do(state, SetKey("a", b"2", cas=7)) == [False]
    assert state.index == 2


def test_a_transaction_sees_what_it_has_done_itself() -> None:
    state = Registry()
    assert do(state, SetKey("a", b"1", cas=0), CheckIndex("a", 2), DeleteKey("a", 2), CheckIndex("a", 0)) == [
        True,
        2,
        True,
        2,
    ]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (SetKey("k", b"", cas=9), "key 'k' has not the modify index 9"),
        (DeleteKey("k", 9), "key 'k' has not the modify index 9"),
        (AcquireKey("k", b"", "t"), "key 'k' is held by another session"),
        (ReleaseKey("k", b"", "t"), "key 'k' is not held by session 't'"),
        (RenewSession("none"), "there is no session 'none'"),
        (RemoveNode("a", 99), "has not the modify index 99"),
    ],
)
def test_what_is_not_done_refuses_the_list_when_all_is_to_be_done(change: Change, why: str) -> None:
    state = with_session("s", "t")
    do(state, AcquireKey("k", b"", "s"))
    contents = state.contents()
    assert do(state, change) == [False]
    with pytest.raises(RequestError, match=why):
        state.apply([SetKey("other", b""), change], 5, all_done=True)
    assert state.contents() == contents


@pytest.mark.parametrize("refused", [CheckIndex("k", 3), CheckSession("k", "s"), CheckSession("none", "")])
def test_a_condition_that_does_not_hold_refuses_the_list(refused: Change) -> None:
    state = with_session("s")
    do(state, SetKey("k", b""))
    with pytest.raises(RequestError) as error:
        do(state, SetKey("k", b"2"), refused)
    assert change_refused(str(error.value))[0] == 1
    entry = state.key("k")
    assert entry is not None
    assert entry.value == b""


def test_which_change_was_refused_can_be_told_from_the_sentence() -> None:
    assert change_refused("change 12: a\nb") == (12, "a\nb")
    assert change_refused("the list of changes is empty") == (0, "the list of changes is empty")


def test_lists_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    state = Registry()
    with pytest.raises(RequestError, match="the list of changes is empty"):
        do(state)
    with pytest.raises(TooLargeError, match="number of changes: 1,001, and 1,000 are the most"):
        do(state, *[SetKey("k", b"")] * 1_001)
    monkeypatch.setattr(catalog, "NODES_MAX", 1)
    monkeypatch.setattr(catalog, "INSTANCES_MAX", 1)
    monkeypatch.setattr(catalog, "CHECKS_MAX", 0)
    do(state, PutNode(RegistryNode("a", "")), PutService(ServiceInstance("a", "1", "web")))
    with pytest.raises(TooLargeError, match="number of nodes"):
        do(state, PutNode(RegistryNode("b", "")))
    with pytest.raises(TooLargeError, match="number of instances"):
        do(state, PutService(ServiceInstance("a", "2", "web")))


def test_what_is_due_is_handed_out_in_pieces() -> None:
    state = with_session(*(f"s{number}" for number in range(5)), ttl_ms=10)
    assert len(state.due(1 << 60, 3)) == 3
    assert registry.CHANGES_MAX == 1_000


def test_a_registry_that_forgot_tells_an_index_that_is_not_below_the_true_one() -> None:
    """A replica that loaded a snapshot knows of nothing that was deleted before; a client that comes from another one
    with that one's index would else be told of an older one."""
    state = with_node()
    do(state, SetKey("k", b""))
    do(state, DeleteKey("k"))
    do(state, SetKey("l", b""))
    loaded = Registry(state.contents())
    for topic in ("key:k", "prefix:", "prefix:k", "service:web", "nodes", "node:a"):
        assert state.index_of(topic) <= loaded.index_of(topic) <= state.index
    assert loaded.changed_since(state.index - 1) is None
    assert list(loaded.changed_since(state.index) or ()) == []
