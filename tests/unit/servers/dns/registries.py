"""Registries as they may be, for the tests of the DNS door.

PYTEST_DONT_REWRITE, as it holds no tests.
"""

import random
from collections.abc import Sequence

import dns.name

from noctule.core.registry.changes import PutCheck, PutNode, PutService, RemoveService
from noctule.core.registry.objects import Check, CheckStatus, RegistryNode, ServiceInstance, Weights
from noctule.core.registry.registry import Registry
from noctule.servers.dns.zone import Zone, ZoneSettings

NOW_MS = 1_700_000_000_000
DOMAIN = dns.name.from_text("consul.")


class FilledRegistry(Registry):
    """Filled in words of one line."""

    def add_node(self, name: str, address: str, **meta: str) -> None:
        self.apply([PutNode(RegistryNode(name, address, meta=meta))], NOW_MS)

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
        weights = weights or Weights()
        instance = ServiceInstance(node, instance_id, name, tuple(tags), address, port, weights=weights)
        check = Check(node, f"check-{instance_id}", "", status, service_id=instance_id)
        self.apply([PutService(instance), PutCheck(check)], NOW_MS)

    def remove(self, node: str, instance_id: str) -> None:
        self.apply([RemoveService(node, instance_id)], NOW_MS)


def zone_of(
    registry: Registry, *, seed: int = 1, node: str = "n1", servers: Sequence[str] = ("n1",), **more: object
) -> Zone:
    settings = ZoneSettings(domain=DOMAIN, datacenter="dc1", node=node, **more)  # type: ignore[arg-type]
    return Zone(settings, lambda: registry, lambda: servers, random.Random(seed))
