"""Who calls whom, by what instances say of themselves: the graph of services, what is missing in it, and its cycles."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from noctule.core.registry.objects import CheckStatus
from noctule.core.registry.registry import Registry


class ServiceNode(Struct, frozen=True):
    """One service in the graph."""

    name: str
    status: CheckStatus
    """That of its best instance: it is there as long as one passes. Critical without any instance."""
    instances: int
    passing: int
    depends_on: tuple[str, ...]
    """What any instance of it calls, by name. The same the other way round in `used_by`."""
    used_by: tuple[str, ...]


class DependencyGraph(Struct, frozen=True):
    """All services, by name."""

    services: tuple[ServiceNode, ...]
    missing: tuple[str, ...]
    """Services that somebody calls and that have no instance."""
    cycles: tuple[tuple[str, ...], ...]
    """Services each of which needs all the others of its cycle, itself included; by name."""


def dependency_graph(registry: Registry) -> DependencyGraph:
    """The graph as things stand. Costs a look at every instance and its checks."""
    calls: dict[str, set[str]] = {}
    for name in registry.by_name:
        calls[name] = {each for instance in registry.instances_of(name) for each in instance.depends_on}
    for name in sorted({each for called in calls.values() for each in called} - calls.keys()):
        calls[name] = set()
    used_by: dict[str, list[str]] = {name: [] for name in calls}
    for name in sorted(calls):
        for called in calls[name]:
            used_by[called].append(name)
    nodes = []
    for name in sorted(calls):
        statuses = [worst_status(registry, each.node, each.id) for each in registry.instances_of(name)]
        best = next((status for status in CheckStatus if status in statuses), CheckStatus.CRITICAL)
        passing = statuses.count(CheckStatus.PASSING)
        nodes.append(ServiceNode(name, best, len(statuses), passing, tuple(sorted(calls[name])), tuple(used_by[name])))
    return DependencyGraph(
        services=tuple(nodes),
        missing=tuple(node.name for node in nodes if not node.instances),
        cycles=tuple(cycles_of({name: sorted(called) for name, called in calls.items()})),
    )


def worst_status(registry: Registry, node: str, service_id: str = "") -> CheckStatus:
    """Of the checks of an instance and of its node; passing without any."""
    found = {check.status for check in registry.checks_of(node, service_id)}
    return next((status for status in reversed(CheckStatus) if status in found), CheckStatus.PASSING)


def cycles_of(calls: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Of a graph that has every name as a key: what is strongly connected and not alone, each and all in order.

    Tarjan's algorithm ("Depth-first search and linear graph algorithms", 1972), without recursion: a chain of a
    thousand services must not be a stack of a thousand frames.
    """
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    on_path: set[str] = set()
    found: list[tuple[str, ...]] = []
    for start in sorted(calls):
        if start in number:
            continue
        work: list[tuple[str, Iterator[str]]] = []
        _enter(start, number, low, path, on_path, work, calls)
        while work:
            name, left = work[-1]
            called = next(left, None)
            if called is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == number[name]:
                    found += _leave(name, path, on_path, calls)
            elif called not in number:
                _enter(called, number, low, path, on_path, work, calls)
            elif called in on_path:
                low[name] = min(low[name], number[called])
    return sorted(found)


def _enter(
    name: str,
    number: dict[str, int],
    low: dict[str, int],
    path: list[str],
    on_path: set[str],
    work: list[tuple[str, Iterator[str]]],
    calls: Mapping[str, Sequence[str]],
) -> None:
    number[name] = low[name] = len(number)
    path.append(name)
    on_path.add(name)
    work.append((name, iter(calls[name])))


def _leave(name: str, path: list[str], on_path: set[str], calls: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """The component whose first member is `name`, off the path; nothing when it is alone and does not call itself."""
    at = path.index(name)
    members = path[at:]
    del path[at:]
    on_path.difference_update(members)
    return [tuple(sorted(members))] if len(members) > 1 or name in calls[name] else []
