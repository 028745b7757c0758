"""Registries as they may be, for the tests of the DNS door.

PYTEST_DONT_REWRITE, as it holds no tests.
"""

import random
from collections.abc import Sequence

import dns.name

from noctule.core.registry.objects import Check, CheckStatus, RegistryNode, ServiceInstance, Weights
from noctule.core.registry.registry import Registry
from noctule.servers.dns.zone import Zone, ZoneSettings

DOMAIN = dns.name.from_text("consul.")


class FakeRegistry(Registry):
    """Filled by hand; each change moves every index."""

    def checks_of(self, node: str, service_id: str = "") -> list[Check]:
        found = [each for each in self.checks.values() if each.node == node and each.service_id in ("", service_id)]
        return sorted(found, key=lambda each: each.id)

    def index_of(self, topic: str) -> int:
        return self.index

    def add_node(self, name: str, address: str, **meta: str) -> None:
        self.nodes[name] = RegistryNode(name, address, meta=meta)
        self.index += 1

    def add(
        self,
        node: str,
        instance_id: str,
        name: str,
        *,
        port: int = 80,
        tags: Sequence[str] = (),
        address: str = "",
        status: CheckStatus = CheckStatus.PASSING,
        weights: Weights | None = None,
    ) -> None:
        instance = ServiceInstance(node, instance_id, name, tuple(tags), address, port, weights=weights or Weights())
        self.instances[node, instance_id] = self.by_name.setdefault(name, {})[node, instance_id] = instance
        check = Check(node, f"check-{instance_id}", "", status, service_id=instance_id, service_name=name)
        self.checks[node, check.id] = check
        self.index += 1

    def remove(self, node: str, instance_id: str) -> None:
        del self.by_name[self.instances.pop((node, instance_id)).name][node, instance_id]
        self.index += 1


def zone_of(
    registry: Registry, *, seed: int = 1, node: str = "n1", servers: Sequence[str] = ("n1",), **more: object
) -> Zone:
    settings = ZoneSettings(domain=DOMAIN, datacenter="dc1", node=node, **more)  # type: ignore[arg-type]
    return Zone(settings, lambda: registry, lambda: servers, random.Random(seed))
