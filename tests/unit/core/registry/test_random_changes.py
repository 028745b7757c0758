"""The laws of the registry under lists of changes of any kind in any order, beside a naive one."""

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from noctule.base.errors import RequestError
from noctule.core.registry.changes import Change
from noctule.core.registry.objects import Check
from noctule.core.registry.registry import Registry
from tests.unit.core.registry.naive import Naive, RefusedError
from tests.unit.core.registry.strategies import ACQUIRE, ANY, BASICS, CHECK, NODE, SESSION, SET


def what_is_read(registry: Registry) -> dict[str, object]:
    """By topic, what a blocking query about it would answer."""

    def told(check: Check) -> Check:
        return msgspec.structs.replace(check, expires_ms=0, critical_since_ms=0)

    checks = [told(check) for _, check in sorted(registry.checks.items())]
    read: dict[str, object] = {
        "nodes": sorted(registry.nodes.items()),
        "services": sorted((each.name, each.tags) for each in registry.instances.values()),
        "checks": checks,
        "sessions": sorted(registry.sessions),
    }
    for node in "ab":
        here = [each for each in checks if each.node == node]
        read[f"node:{node}"] = registry.nodes.get(node), registry.instances_on(node), here
    for name in ("web", "db"):
        read[f"service:{name}"] = [
            (each, registry.nodes[each.node], [told(check) for check in registry.checks_of(each.node, each.id)])
            for each in registry.instances_of(name)
        ]
    for session in "st":
        read[f"session:{session}"] = session in registry.sessions
    for key in ("k", "k/1", "k/2", "l"):
        read[f"key:{key}"] = registry.key(key)
    for prefix in ("", "k", "k/", "x"):
        read[f"prefix:{prefix}"] = registry.keys(prefix)
    read["catalog"] = [read[topic] for topic in ("nodes", "checks", "node:a", "node:b")]
    return read


class Both(RuleBasedStateMachine):
    """The registry under test, the naive one, and a replica that restarted from a snapshot now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.registry, self.naive, self.other = Registry(), Naive(), Registry()
        self.now_ms = 0
        self.apply(BASICS)

    def apply(self, changes: list[Change]) -> None:
        registry = self.registry
        contents, index, read = registry.contents(), registry.index, what_is_read(registry)
        indexes = {topic: registry.index_of(topic) for topic in read}
        try:
            answers = registry.apply(changes, self.now_ms)
        except RequestError:
            assert registry.contents() == contents, "all or nothing"
            assert {topic: registry.index_of(topic) for topic in read} == indexes
            assert self.is_refused(changes)
            return
        assert self.naive.apply(changes, self.now_ms) == answers
        assert self.other.apply(changes, self.now_ms) == answers
        assert registry.index in (index, index + 1)
        changed = registry.changed_since(index)
        assert changed is not None
        told = set(changed)
        for topic, what in what_is_read(registry).items():
            now = registry.index_of(topic)
            assert indexes[topic] <= now <= registry.index, "an index never falls"
            assert now <= self.other.index_of(topic) <= registry.index, "one that forgot tells more, never less"
            if what != read[topic]:
                assert now == registry.index, f"who waits for {topic} is woken"
                assert topic in told or topic.startswith("prefix:")

    def is_refused(self, changes: list[Change]) -> bool:
        try:
            self.naive.apply(changes, self.now_ms)
        except RefusedError:
            return True
        return False

    @rule(changes=st.lists(ANY, min_size=1, max_size=3), passes_ms=st.integers(0, 8))
    def anything(self, changes: list[Change], passes_ms: int) -> None:
        self.now_ms += passes_ms
        self.apply(changes)

    @rule(changes=st.lists(NODE | CHECK | SESSION | ACQUIRE | SET, min_size=1, max_size=2))
    def something_that_fits(self, changes: list[Change]) -> None:
        self.apply([*BASICS, *changes])

    @rule(passes_ms=st.integers(0, 30))
    def time_passes(self, passes_ms: int) -> None:
        """Whatever is due is done, and then nothing is."""
        self.now_ms += passes_ms
        first_ms = self.registry.next_due_ms()
        due = self.registry.due(self.now_ms)
        assert bool(due) == (first_ms is not None and first_ms <= self.now_ms)
        for change in due:
            self.apply([change])
        assert not self.registry.due(self.now_ms)

    @rule()
    def restart_from_a_snapshot(self) -> None:
        self.other = Registry(self.registry.contents())

    @invariant()
    def it_holds_what_the_naive_one_holds(self) -> None:
        registry, naive = self.registry, self.naive
        registry.check()
        contents = registry.contents()
        assert self.other.contents() == contents
        assert registry.index == naive.index
        held = {
            "node": contents.nodes,
            "service": contents.instances,
            "check": contents.checks,
            "session": contents.sessions,
            "key": contents.entries,
        }
        for kind, rows in held.items():
            assert [msgspec.structs.asdict(row) for row in rows] == naive.rows(kind)
        assert {each.key: each.until_ms for each in contents.delays} == naive.delays


TestBoth = Both.TestCase
TestBoth.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
