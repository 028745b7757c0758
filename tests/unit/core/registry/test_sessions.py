"""Sessions: what they rest on, and what ends them."""

import pytest

from noctule.base.errors import RequestError
from noctule.core.registry import sessions as module
from noctule.core.registry.changes import (
    Change,
    CreateSession,
    ExpireSession,
    PutCheck,
    PutService,
    RemoveCheck,
    RemoveNode,
    RemoveService,
    RenewSession,
    TellCheck,
)
from noctule.core.registry.objects import NODE_CHECK, Check, CheckStatus, ServiceInstance, Session
from noctule.core.registry.registry import Registry
from tests.unit.core.registry.small import NOW_MS, do, with_node, with_session


def with_service_session() -> Registry:
    registry = with_node()
    do(registry, PutService(ServiceInstance("a", "1", "web")))
    do(registry, PutCheck(Check("a", "c", "web", CheckStatus.PASSING, service_id="1")))
    do(registry, CreateSession(Session("s", "a", service_checks=("c",))))
    return registry


@pytest.mark.parametrize(
    "change",
    [
        RemoveNode("a"),
        RemoveService("a", "1"),
        RemoveCheck("a", "c"),
        RemoveCheck("a", NODE_CHECK),
        TellCheck("a", "c", CheckStatus.CRITICAL),
        TellCheck("a", NODE_CHECK, CheckStatus.CRITICAL),
        PutCheck(Check("a", "c", "web", CheckStatus.CRITICAL, service_id="1")),
    ],
)
def test_a_session_ends_with_what_it_rests_on(change: Change) -> None:
    registry = with_service_session()
    do(registry, change)
    assert not registry.sessions
    assert registry.index_of("sessions") == registry.index_of("session:s") == registry.index
    registry.check()


def test_a_session_without_checks_ends_with_its_node() -> None:
    registry = with_node()
    do(registry, CreateSession(Session("s", "a", node_checks=())))
    do(registry, RemoveNode("a"))
    assert not registry.sessions


@pytest.mark.parametrize(
    ("session", "why"),
    [
        (Session("s", "a"), "there is a session 's' already"),
        (Session("t", "b"), "there is no node 'b'"),
        (Session("t", "a", node_checks=("x",)), "node 'a' has no check 'x'"),
        (Session("t", "a", service_checks=("bad",)), "check 'bad' of node 'a' is critical"),
        (Session("", "a"), "the id of a session is empty"),
        (Session("t", "a", ttl_ms=-1), "TTL"),
        (Session("t", "a", lock_delay_ms=60_001), "lock-delay"),
    ],
)
def test_a_session_that_rests_on_nothing_is_refused(session: Session, why: str) -> None:
    registry = with_service_session()
    do(registry, PutCheck(Check("a", "bad", "bad")))
    with pytest.raises(RequestError, match=why):
        do(registry, CreateSession(session))


def test_a_session_lives_for_twice_its_ttl_after_it_was_renewed() -> None:
    """As Consul has it: Patroni, which means 30 s, asks for 15."""
    registry = with_session("s", ttl_ms=100)
    assert registry.next_due_ms() == NOW_MS + 200
    index = registry.index
    assert do(registry, RenewSession("s"), now_ms=NOW_MS + 150) == [True]
    assert registry.index == index, "a renewal wakes nobody"
    assert registry.due(NOW_MS + 349) == []
    assert registry.due(NOW_MS + 350) == [ExpireSession("s", NOW_MS + 350)]


def test_a_session_that_was_renewed_meanwhile_does_not_expire() -> None:
    """The leader saw that it was over, and the renewal was logged before what it asked for."""
    registry = with_session("s", ttl_ms=100)
    (expiry,) = registry.due(NOW_MS + 200)
    do(registry, RenewSession("s"), now_ms=NOW_MS + 200)
    do(registry, expiry, now_ms=NOW_MS + 201)
    assert "s" in registry.sessions
    do(registry, expiry, now_ms=NOW_MS + 400)
    assert "s" in registry.sessions, "it was another end that was meant"
    do(registry, ExpireSession("s", NOW_MS + 400), now_ms=NOW_MS + 399)
    assert "s" in registry.sessions, "by the stamp of a leader whose clock is behind it is not over"
    do(registry, ExpireSession("s", NOW_MS + 400), now_ms=NOW_MS + 400)
    assert not registry.sessions


def test_sessions_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SESSIONS_MAX", 1)
    registry = with_session("s")
    with pytest.raises(RequestError, match="number of sessions: 2, and 1 are the most"):
        do(registry, CreateSession(Session("t", "a")))
    assert registry.sessions_of("a") == [registry.sessions["s"]]
