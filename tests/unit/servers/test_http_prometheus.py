"""What Prometheus is told to scrape."""

import pytest
from msgspec import structs

from noctule.core.registry.changes import PutService
from noctule.core.registry.objects import CheckStatus, ServiceInstance
from noctule.core.roster.members import MemberState
from noctule.servers.http_prometheus import TargetGroup, instance_targets, node_targets
from tests.unit.core.meta.formed import formed
from tests.unit.servers.dns.registries import NOW_MS, FilledRegistry


@pytest.fixture
def registry() -> FilledRegistry:
    registry = FilledRegistry()
    registry.add_node("n1", "10.0.0.1", rack="r1")
    registry.add_node("n2", "fd00::2")
    registry.add("n1", "web1", "web", port=8001, tags=["metrics", "blue"])
    registry.add("n2", "web2", "web", port=8002, tags=["metrics"], status=CheckStatus.WARNING)
    registry.add("n1", "db1", "db", port=5432, tags=["prod"], address="10.9.9.9")
    return registry


def targets(registry: FilledRegistry, service: str = "", tag: str = "metrics") -> list[str]:
    return [each.targets[0] for each in instance_targets(registry, service, tag)]


def test_instances_are_chosen_by_service_and_tag(registry: FilledRegistry) -> None:
    assert targets(registry) == ["10.0.0.1:8001", "[fd00::2]:8002"]
    assert targets(registry, tag="") == ["10.9.9.9:5432", "10.0.0.1:8001", "[fd00::2]:8002"]
    assert targets(registry, tag="prod") == targets(registry, "db", "") == ["10.9.9.9:5432"]
    assert targets(registry, "web", "blue") == ["10.0.0.1:8001"]
    assert targets(registry, "nosuch", "") == []


def test_the_dead_and_those_without_a_port_are_not_scraped(registry: FilledRegistry) -> None:
    registry.add("n1", "web1", "web", port=8001, tags=["metrics"], status=CheckStatus.CRITICAL)
    registry.add("n2", "web2", "web", port=0, tags=["metrics"])
    assert targets(registry) == []


def test_labels_say_what_the_registry_says(registry: FilledRegistry) -> None:
    meta = {"metrics_path": "/stats", "metrics_scheme": "https", "team-name": "bats"}
    instance = ServiceInstance("n1", "web1", "web", ("metrics", "blue"), "", 8001, meta)
    registry.apply([PutService(instance)], NOW_MS)
    (group,) = instance_targets(registry, "web", "blue")
    assert group == TargetGroup(
        ("10.0.0.1:8001",),
        {
            "service": "web",
            "node": "n1",
            "__meta_noctule_service_id": "web1",
            "__meta_noctule_health": "passing",
            "__meta_noctule_tags": ",metrics,blue,",
            "__metrics_path__": "/stats",
            "__scheme__": "https",
            "__meta_noctule_service_meta_metrics_path": "/stats",
            "__meta_noctule_service_meta_metrics_scheme": "https",
            "__meta_noctule_service_meta_team_name": "bats",
            "__meta_noctule_node_meta_rack": "r1",
        },
    )


def test_members_are_scraped_until_they_have_left() -> None:
    meta = formed()
    first, second = (meta.roster[each] for each in sorted(meta.roster)[:2])
    meta.roster[first.id] = structs.replace(first, http="10.0.0.1:7501", labels={"zone": "a"})
    meta.roster[second.id] = structs.replace(second, http="10.0.0.2:7501", state=MemberState.LEFT)
    assert list(node_targets(meta)) == [
        TargetGroup(
            ("10.0.0.1:7501",),
            {"service": "noctule", "node": f"node-{first.id}", "__meta_noctule_node_meta_zone": "a"},
        )
    ]
