"""Whatever a registry says of a node, the repairs make it say what the node knows, and touch nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from noctule.core.registry.changes import Change, PutCheck, PutNode, PutService, TellCheck
from noctule.core.registry.objects import NODE_CHECK, Check, CheckStatus, RegistryNode, ServiceInstance
from noctule.core.registry.registry import Registry
from noctule.core.registry.repair import known_ids, repairs

NODE, OTHER = "node-1", "node-2"
IDS = st.sampled_from(["a", "b", "c"])
instances = st.builds(
    lambda id_, name, port, tags, override: ServiceInstance(
        NODE, id_, name, tags=tags, port=port, enable_tag_override=override
    ),
    IDS,
    st.sampled_from(["web", "db"]),
    st.integers(0, 2),
    st.sampled_from([(), ("blue",)]),
    st.booleans(),
)
checks = st.builds(
    lambda id_, status, output, owner, notes: Check(
        NODE, f"check-{id_}", "c", status, service_id=owner, output=output, notes=notes
    ),
    IDS,
    st.sampled_from(CheckStatus),
    st.sampled_from(["", "x"]),
    st.sampled_from(["", "a", "b"]),
    st.sampled_from(["", "n"]),
)
Said = tuple[dict[str, ServiceInstance], dict[str, Check]]


@st.composite
def said(draw: st.DrawFn) -> Said:
    """What somebody says of a node: services and checks that fit together."""
    services = {each.id: each for each in draw(st.lists(instances, max_size=4))}
    found = {each.id: each for each in draw(st.lists(checks, max_size=4))}
    return services, {id_: each for id_, each in found.items() if not each.service_id or each.service_id in services}


def registry_of(known: Said) -> Registry:
    """A registry that says this, and has a neighbour and the keeper's check."""
    registry = Registry()
    changes: list[Change] = [PutNode(RegistryNode(NODE, "h")), PutNode(RegistryNode(OTHER, "h"))]
    changes += [PutService(ServiceInstance(OTHER, "a", "web")), PutCheck(Check(OTHER, "check-a", "c"))]
    changes += [PutCheck(Check(NODE, NODE_CHECK, "serf", CheckStatus.PASSING))]
    changes += [PutService(each) for each in known[0].values()] + [PutCheck(each) for each in known[1].values()]
    registry.apply(changes, 1_000)
    return registry


def all_repairs(registry: Registry, wanted: Said) -> list[Change]:
    services, checks_ = known_ids(registry, NODE)
    return repairs(
        registry,
        NODE,
        wanted[0],
        wanted[1],
        of_services=services | wanted[0].keys(),
        of_checks=checks_ | wanted[1].keys(),
    )


@given(said(), said())
def test_after_the_repairs_the_registry_says_what_the_node_knows(known: Said, wanted: Said) -> None:
    registry = registry_of(known)
    changes = all_repairs(registry, wanted)
    if changes:
        registry.apply(changes, 2_000)
    registry.check()
    assert {id_ for node, id_ in registry.instances if node == NODE} == wanted[0].keys()
    assert {id_ for node, id_ in registry.checks if node == NODE} == {*wanted[1], NODE_CHECK}
    for id_, service in wanted[0].items():
        found = registry.instances[NODE, id_]
        assert (found.name, found.port) == (service.name, service.port)
        assert service.enable_tag_override or found.tags == service.tags
    for id_, check in wanted[1].items():
        result = registry.checks[NODE, id_]
        assert (result.status, result.output, result.service_id) == (check.status, check.output, check.service_id)
    assert (OTHER, "a") in registry.instances
    assert (OTHER, "check-a") in registry.checks
    assert all_repairs(registry, wanted) == [], "nothing is left to be done"


def test_a_status_is_told_and_words_may_wait() -> None:
    known = {"check-a": Check(NODE, "check-a", "c", CheckStatus.PASSING, output="one")}
    registry = registry_of(({}, known))
    wanted = {"check-a": Check(NODE, "check-a", "c", CheckStatus.PASSING, output="two")}

    def changes(is_deferred: bool) -> list[Change]:
        return repairs(
            registry, NODE, {}, wanted, of_services=(), of_checks=["check-a"], is_deferred=lambda _: is_deferred
        )

    assert changes(True) == []
    assert changes(False) == [TellCheck(NODE, "check-a", CheckStatus.PASSING, "two")]
    wanted["check-a"] = Check(NODE, "check-a", "c", CheckStatus.CRITICAL, output="two")
    assert changes(True) == [TellCheck(NODE, "check-a", CheckStatus.CRITICAL, "two")]
