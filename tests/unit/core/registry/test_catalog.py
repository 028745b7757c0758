"""Nodes, instances and checks: who belongs to whom, what ends by time, and what is refused."""

from collections.abc import Callable

import msgspec
import pytest

from noctule.base.errors import RequestError
from noctule.core.registry.bounds import OUTPUT_BYTES_MAX
from noctule.core.registry.changes import (
    Change,
    ExpireCheck,
    PutCheck,
    PutNode,
    PutService,
    RemoveCritical,
    RemoveNode,
    RemoveService,
    TellCheck,
)
from noctule.core.registry.objects import Check, CheckStatus, RegistryNode, ServiceInstance, Weights
from noctule.core.registry.registry import Registry
from tests.unit.core.registry.small import NOW_MS, do, with_node

PASSING, CRITICAL = CheckStatus.PASSING, CheckStatus.CRITICAL
WEB = ServiceInstance("a", "1", "web", tags=("x",), port=80)
WEB_CHECK = Check("a", "c", "web", PASSING, service_id="1", ttl_ms=100, deregister_after_ms=300)


def with_web() -> Registry:
    registry = with_node("a", "b")
    do(registry, PutService(WEB), PutCheck(WEB_CHECK))
    return registry


def test_a_node_takes_with_it_what_is_on_it() -> None:
    registry = with_web()
    do(registry, RemoveNode("a"))
    assert (set(registry.nodes), set(registry.instances), set(registry.checks)) == (
        {"b"},
        set(),
        {("b", "serfHealth")},
    )
    for topic in ("nodes", "node:a", "services", "service:web", "checks", "catalog"):
        assert registry.index_of(topic) == registry.index
    assert registry.index_of("node:b") < registry.index


def test_the_same_again_changes_nothing() -> None:
    """An agent pushes all it has after a restart, and no watcher is to hear of that."""
    registry = with_web()
    contents = registry.contents()
    node = msgspec.structs.replace(registry.nodes["a"], create_index=0, modify_index=0)
    again = do(registry, PutNode(node), PutService(WEB), PutCheck(WEB_CHECK), TellCheck("a", "c", PASSING))
    assert again == [registry.index] * 4
    assert registry.contents() == contents


def test_a_check_of_the_node_is_news_for_every_service_on_it_and_one_of_an_instance_for_its_own() -> None:
    registry = with_web()
    do(registry, PutService(ServiceInstance("a", "2", "db")))
    do(registry, TellCheck("a", "c", CheckStatus.WARNING))
    assert [registry.index_of(f"service:{name}") for name in ("web", "db")] == [registry.index, registry.index - 1]
    do(registry, TellCheck("a", "serfHealth", CRITICAL))
    assert [registry.index_of(f"service:{name}") for name in ("web", "db")] == [registry.index] * 2
    assert registry.index_of("services") == registry.index - 2, "which names there are has not changed"


def test_checks_are_found_by_who_they_are_of() -> None:
    registry = with_web()
    do(registry, PutCheck(Check("a", "zz", "disk")))
    assert [check.id for check in registry.checks_of("a", "1")] == ["c", "serfHealth", "zz"]
    assert [check.id for check in registry.checks_of("a")] == ["serfHealth", "zz"]
    assert [check.id for check in registry.checks_on("a")] == ["c", "serfHealth", "zz"]
    assert registry.checks["a", "c"].service_name == "web"
    do(registry, PutService(msgspec.structs.replace(WEB, name="site", tags=())))
    check = registry.checks["a", "c"]
    assert (check.service_name, check.service_tags) == ("site", ())
    assert registry.index_of("service:web") == registry.index_of("service:site") == registry.index


def test_a_ttl_that_has_passed_is_critical_and_removed_in_the_end() -> None:
    registry = with_web()
    do(registry, TellCheck("a", "c", PASSING, "fine"), now_ms=NOW_MS + 50)
    assert registry.due(NOW_MS + 149) == []
    (expiry,) = registry.due(NOW_MS + 150)
    assert expiry == ExpireCheck("a", "c", NOW_MS + 150)
    do(registry, expiry, now_ms=NOW_MS + 160)
    check = registry.checks["a", "c"]
    assert (check.status, check.expires_ms, check.critical_since_ms) == (CRITICAL, 0, NOW_MS + 160)
    assert check.output == "TTL expired (last output before timeout follows): fine"
    (removal,) = registry.due(NOW_MS + 460)
    assert removal == RemoveCritical("a", "c", NOW_MS + 160)
    do(registry, removal, now_ms=NOW_MS + 459)
    assert WEB.name in registry.by_name, "by the stamp it is too early"
    do(registry, removal, now_ms=NOW_MS + 460)
    assert (WEB.name in registry.by_name, registry.next_due_ms()) == (False, None)


def test_an_instance_that_was_well_in_between_is_not_removed() -> None:
    registry = with_web()
    do(registry, TellCheck("a", "c", CRITICAL))
    (removal,) = registry.due(NOW_MS + 300)
    do(registry, TellCheck("a", "c", PASSING), now_ms=NOW_MS + 300)
    do(registry, TellCheck("a", "c", CRITICAL), now_ms=NOW_MS + 301)
    do(registry, removal, now_ms=NOW_MS + 602)
    assert "web" in registry.by_name, "it was another time that was meant"


def test_a_check_that_is_told_to_be_critical_again_has_been_so_since_the_first_time() -> None:
    registry = with_web()
    do(registry, TellCheck("a", "c", CRITICAL, "first"))
    do(registry, TellCheck("a", "c", CRITICAL, "second"), now_ms=NOW_MS + 100)
    assert registry.checks["a", "c"].critical_since_ms == NOW_MS


def test_a_check_that_was_renewed_meanwhile_does_not_expire() -> None:
    registry = with_web()
    (expiry,) = registry.due(NOW_MS + 100)
    do(registry, TellCheck("a", "c", PASSING), now_ms=NOW_MS + 100)
    do(registry, expiry, now_ms=NOW_MS + 300)
    assert registry.checks["a", "c"].status is PASSING


def test_a_service_that_an_instance_leaves_for_another_has_changed() -> None:
    registry = with_node()
    do(registry, PutService(WEB))
    do(registry, PutService(msgspec.structs.replace(WEB, name="site")))
    assert registry.index_of("service:web") == registry.index


def test_what_is_to_be_removed_as_it_was_is_not_when_it_has_changed() -> None:
    registry = with_web()
    index = registry.instances["a", "1"].modify_index
    assert do(registry, RemoveService("a", "1", index + 1)) == [False]
    assert do(registry, RemoveService("a", "none", 7)) == [False]
    assert do(registry, RemoveService("a", "none")) == [True]
    assert do(registry, RemoveService("a", "1", index)) == [True]


def test_what_a_check_says_is_cut_between_characters() -> None:
    registry = with_web()
    do(registry, TellCheck("a", "c", PASSING, "x" + "é" * OUTPUT_BYTES_MAX))
    output = registry.checks["a", "c"].output
    assert output == "x" + "é" * ((OUTPUT_BYTES_MAX - 1) // 2)


def _node(**changes: object) -> Callable[[], Change]:
    return lambda: PutNode(msgspec.structs.replace(RegistryNode("a", "10.0.0.1"), **changes))


def _service(**changes: object) -> Callable[[], Change]:
    return lambda: PutService(msgspec.structs.replace(WEB, **changes))


def _check(**changes: object) -> Callable[[], Change]:
    return lambda: PutCheck(msgspec.structs.replace(WEB_CHECK, **changes))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_node(name=""), "the name of a node is empty"),
        (_node(name="a\n"), "cannot be printed"),
        (_node(address="x" * 256), "characters of the address of node 'a': 256, and 255 are the most"),
        (_node(meta={str(each): "" for each in range(65)}), "pairs of meta of node 'a': 65"),
        (_node(meta={"k" * 129: ""}), "characters of a key of the meta"),
        (_node(meta={"k": "v" * 513}), "characters of a value of the meta"),
        (_node(tagged_addresses={"": "x"}), "the tag of an address"),
        (_service(node="none"), "there is no node 'none'"),
        (_service(id=""), "the id of an instance is empty"),
        (_service(name="x\0"), "cannot be printed"),
        (_service(port=65_536), "a port is 0 to 65535: instance '1' has 65536"),
        (_service(tags=("",) * 65), "a tag of instance '1': 65"),
        (_service(weights=Weights(0, 1)), "a weight of instance '1' while passing"),
        (_service(tagged_addresses={"lan": ("x", -1)}), "a port is"),
        (_check(id=""), "the id of a check is empty"),
        (_check(node="none"), "there is no node 'none'"),
        (_check(service_id="none"), "node 'a' has no instance 'none'"),
        (_check(ttl_ms=-1), "the TTL of check 'c'"),
        (_check(notes="x" * 4_097), "bytes of notes"),
        (lambda: TellCheck("a", "none", PASSING), "node 'a' has no check 'none'"),
    ],
)
def test_what_is_not_made_right_is_refused_with_the_reason(change: Callable[[], Change], why: str) -> None:
    registry = with_web()
    contents = registry.contents()
    with pytest.raises(RequestError, match=why) as refused:
        do(registry, PutNode(RegistryNode("c", "")), change())
    assert str(refused.value).startswith("change 1: ")
    assert registry.contents() == contents


@pytest.mark.parametrize(
    ("put", "there"),
    [
        (lambda cas: PutNode(RegistryNode("a", "10.0.0.9"), cas=cas), lambda registry: registry.nodes.get("a")),
        (
            lambda cas: PutService(msgspec.structs.replace(WEB, port=81), cas=cas),
            lambda registry: registry.instances.get(("a", "1")),
        ),
        (
            lambda cas: PutCheck(msgspec.structs.replace(WEB_CHECK, notes="n"), cas=cas),
            lambda registry: registry.checks.get(("a", "c")),
        ),
    ],
)
def test_a_put_may_name_the_index_it_expects(
    put: Callable[[int | None], Change], there: Callable[[Registry], RegistryNode | ServiceInstance | Check | None]
) -> None:
    registry = with_web()
    before = there(registry)
    assert before is not None
    for stale in (0, before.modify_index - 1, before.modify_index + 1):
        contents = registry.contents()
        assert do(registry, put(stale)) == [False]
        assert registry.contents() == contents
        with pytest.raises(RequestError, match="has not the modify index"):
            registry.apply([put(stale)], NOW_MS, all_done=True)
    assert do(registry, put(before.modify_index)) == [True]
    assert there(registry) != before
    assert do(registry, put(None)) == [registry.index], "who expects nothing is answered with the index, as ever"


def test_a_put_may_expect_that_nothing_is_there() -> None:
    registry = with_node("b")
    node = PutNode(RegistryNode("a", "10.0.0.1"), cas=0)
    assert do(registry, node, PutService(WEB, cas=0), PutCheck(WEB_CHECK, cas=0)) == [True] * 3
    assert do(registry, node, PutService(WEB, cas=0), PutCheck(WEB_CHECK, cas=0)) == [False] * 3


def test_what_came_and_went_by_a_list_that_fails_leaves_nothing_behind() -> None:
    """Taking it back once met neither the row before nor the one after, and took the replica with it."""
    registry = with_node("b")
    contents = registry.contents()
    came_and_went = [
        PutNode(RegistryNode("a", "10.0.0.1")),
        PutService(WEB),
        PutCheck(WEB_CHECK),
        RemoveNode("a"),
        TellCheck("a", "c", PASSING),
    ]
    with pytest.raises(RequestError, match="change 4: "):
        do(registry, *came_and_went)
    registry.check()
    assert registry.contents() == contents
