"""What questions need of the registry, kept between them: names in lower case, and the healthy instances of services.

Nothing is told from here that the registry does not say now: each thing is made anew once the registry's index of it
has moved on. A service may have thousands of instances, so what did not change is used again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from noctule.core.registry.objects import CheckStatus, RegistryNode, ServiceInstance
from noctule.core.registry.registry import Registry
from noctule.servers.dns.names import host_name, parse_ip

SERVICES_KEPT_MAX = 1_024
"""Services whose healthy instances are kept; those of one more are looked up again when it is asked for."""

_parse_ip = lru_cache(maxsize=16_384)(parse_ip)


@dataclass(frozen=True, slots=True)
class Healthy:
    """An instance without a critical check, as far as answers need it."""

    instance: ServiceInstance
    node: RegistryNode
    is_warned: bool
    """Whether a check is in warning."""
    tags: tuple[str, ...]
    """In lower case."""
    ip: IPv4Address | IPv6Address | None
    """None where it is known by a host name only."""

    @property
    def host(self) -> str:
        """Where it serves, as it was registered."""
        return self.instance.address or self.node.address

    @property
    def weight(self) -> int:
        """Of its SRV record."""
        return self.instance.weights.warning if self.is_warned else self.instance.weights.passing


class HealthyInstances:
    """Of every service that is asked for."""

    def __init__(self, registry: Callable[[], Registry], *, only_passing: bool) -> None:
        self._registry = registry
        self._only_passing = only_passing
        self._kept: dict[str, tuple[int, dict[str, dict[str, Healthy]]]] = {}
        """By the service's name: the index, and what is so at it by node and id."""

    def of(self, service: str) -> list[Healthy]:
        """Those that are to be answered, in the registry's order."""
        registry = self._registry()
        index = registry.index_of(f"service:{service}")
        known_index, known = self._kept.get(service, (0, {}))
        if known_index != index:
            known = self._look(registry, service, known)
            self._kept.pop(service, None)
            if len(self._kept) >= SERVICES_KEPT_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[service] = index, known
        return [each for by_id in known.values() for each in by_id.values()]

    def _look(
        self, registry: Registry, service: str, known: dict[str, dict[str, Healthy]]
    ) -> dict[str, dict[str, Healthy]]:
        found: dict[str, dict[str, Healthy]] = {}
        for instance in registry.instances_of(service):
            statuses = {check.status for check in registry.checks_of(instance.node, instance.id)}
            is_warned = CheckStatus.WARNING in statuses
            if CheckStatus.CRITICAL in statuses or (is_warned and self._only_passing):
                continue
            node = registry.nodes[instance.node]
            healthy = known.get(instance.node, {}).get(instance.id)
            if (
                healthy is None
                or healthy.instance is not instance
                or healthy.node is not node
                or healthy.is_warned != is_warned
            ):
                ip = _parse_ip(instance.address or node.address)
                tags = tuple(tag.lower() for tag in instance.tags)
                healthy = Healthy(instance, node, is_warned, tags, ip)
            if healthy.ip is not None or host_name(healthy.host) is not None:
                found.setdefault(instance.node, {})[instance.id] = healthy
        return found


class FoldedNames:
    """Names of the registry by their lower case."""

    def __init__(self, topic: str, names: Callable[[Registry], Iterable[str]]) -> None:
        """`topic` is the registry's for changes of these names."""
        self._topic = topic
        self._names = names
        self._index = 0
        self._by_folded: dict[str, str] = {}
        self._between: set[str] = set()

    def find(self, registry: Registry, folded: str) -> str | None:
        """The name as it was registered; of several that differ in case only, the first in order."""
        index = registry.index_of(self._topic)
        if index != self._index:
            self._index = index
            self._by_folded = {name.lower(): name for name in sorted(self._names(registry), reverse=True)}
            dotted = [name.split(".") for name in self._by_folded if "." in name]
            self._between = {".".join(words[start:]) for words in dotted for start in range(1, len(words))}
        return self._by_folded.get(folded)

    def is_between(self, folded: str) -> bool:
        """Whether there is a name with more labels that ends so; as of the last `find`."""
        return folded in self._between
