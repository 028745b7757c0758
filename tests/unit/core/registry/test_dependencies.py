"""The graph of services: who is missing, who is well, and which of them go round in a circle."""

from hypothesis import given
from hypothesis import strategies as st

from noctule.core.registry.changes import PutCheck, PutNode, PutService
from noctule.core.registry.dependencies import cycles_of, dependency_graph
from noctule.core.registry.objects import Check, CheckStatus, RegistryNode, ServiceInstance
from noctule.core.registry.registry import Registry

NAMES = "abcdef"
graphs = st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES))).map(
    lambda found: {name: sorted(found.get(name, ())) for name in NAMES}
)


def reached(calls: dict[str, list[str]], start: str) -> set[str]:
    """Everything that it calls, and what that calls, and so on."""
    found: set[str] = set()
    left = list(calls[start])
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += calls[name]
    return found


@given(graphs)
def test_a_cycle_is_all_who_reach_each_other(calls: dict[str, list[str]]) -> None:
    wanted = {
        tuple(sorted({name} | {other for other in reached(calls, name) if name in reached(calls, other)}))
        for name in calls
        if name in reached(calls, name)
    }
    assert cycles_of(calls) == sorted(wanted)


def test_a_long_chain_is_no_deep_recursion() -> None:
    calls = {f"{number:05}": [f"{number + 1:05}"] for number in range(20_000)} | {"20000": ["00000"]}
    assert [len(cycle) for cycle in cycles_of(calls)] == [20_001]


def test_the_graph_says_who_calls_whom_and_how_they_are() -> None:
    registry = Registry()
    registry.apply(
        [
            PutNode(RegistryNode("n", "h")),
            PutService(ServiceInstance("n", "web-1", "web", depends_on=("db", "mail"))),
            PutService(ServiceInstance("n", "web-2", "web", depends_on=("db", "web"))),
            PutService(ServiceInstance("n", "db-1", "db")),
            PutCheck(Check("n", "c1", "c", CheckStatus.CRITICAL, service_id="web-1")),
            PutCheck(Check("n", "c2", "c", CheckStatus.WARNING, service_id="web-2")),
        ],
        1_000,
    )
    graph = dependency_graph(registry)
    assert [each.name for each in graph.services] == ["db", "mail", "web"]
    db, mail, web = graph.services
    assert (db.status, db.instances, db.passing, db.used_by) == (CheckStatus.PASSING, 1, 1, ("web",))
    assert (mail.status, mail.instances, mail.used_by) == (CheckStatus.CRITICAL, 0, ("web",))
    assert (web.status, web.instances, web.passing) == (CheckStatus.WARNING, 2, 0)
    assert web.depends_on == ("db", "mail", "web")
    assert graph.missing == ("mail",)
    assert graph.cycles == (("web",),)
