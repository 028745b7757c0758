"""A registry with one healthy node, for tests to go on from."""

from noctule.core.registry.changes import Change, CreateSession, PutCheck, PutNode
from noctule.core.registry.objects import NODE_CHECK, Check, CheckStatus, RegistryNode, Session, SessionBehavior
from noctule.core.registry.registry import Answered, Registry

NOW_MS = 1_000_000


def do(registry: Registry, *changes: Change, now_ms: int = NOW_MS) -> list[Answered]:
    """Apply them as one list."""
    return registry.apply(changes, now_ms)


def with_node(*names: str) -> Registry:
    """These nodes, or one named a, each with its check passing."""
    registry = Registry()
    for name in names or ("a",):
        do(registry, PutNode(RegistryNode(name, "10.0.0.1")))
        do(registry, PutCheck(Check(name, NODE_CHECK, "alive", CheckStatus.PASSING)))
    return registry


def with_session(
    *ids: str, behavior: SessionBehavior = SessionBehavior.RELEASE, lock_delay_ms: int = 15_000, ttl_ms: int = 0
) -> Registry:
    """Sessions of node a."""
    registry = with_node()
    for each in ids:
        session = Session(each, "a", behavior=behavior, lock_delay_ms=lock_delay_ms, ttl_ms=ttl_ms)
        do(registry, CreateSession(session))
    return registry
