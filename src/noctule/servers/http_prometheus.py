"""What Prometheus is to scrape, in the format of its `http_sd`: the nodes themselves, and what the registry names.

From this node's own replica, so it is answered without a quorum too. Source: Prometheus documentation, "HTTP SD".
"""

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from noctule.base.addresses import join_address
from noctule.base.errors import TooLargeError
from noctule.core.meta.state import MetaState
from noctule.core.registry.objects import CheckStatus, RegistryNode, ServiceInstance
from noctule.core.registry.registry import Registry
from noctule.core.roster.members import PRESENT, Member
from noctule.servers.http_parameters import SCRAPED_SERVICE, SCRAPED_TAG
from noctule.servers.http_route import Answer, Call, json_answer

TARGETS_MAX = 10_000
"""Of one answer: the loop is not to stand still for more."""

NODES_SERVICE = "noctule"
"""Under which name the nodes themselves are asked for."""

TAG_DEFAULT = "metrics"
"""Of the instances to be scraped, where neither a service nor a tag is named."""

_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9_]")
_LABELS_BY_META = {"metrics_path": "__metrics_path__", "metrics_scheme": "__scheme__"}


class TargetGroup(Struct, frozen=True):
    """One target, as Prometheus reads it."""

    targets: tuple[str, ...]
    """host:port; one, as each has labels of its own."""
    labels: dict[str, str]
    """Those that begin with ``__`` are for relabelling, and are dropped afterwards."""


async def list_targets(call: Call) -> Answer:
    """The nodes that belong to the cluster, dead or not, and the instances with the tag that are not critical."""
    service, tag, meta = call.get(SCRAPED_SERVICE), call.get(SCRAPED_TAG), call.meta
    groups = list(node_targets(meta)) if service in ("", NODES_SERVICE) else []
    if not service and not tag:
        tag = TAG_DEFAULT
    for group in instance_targets(call.node.registry.view, service, tag):
        if len(groups) >= TARGETS_MAX:
            raise TooLargeError(f"there are more than {TARGETS_MAX} targets: ask for one service, or for another tag")
        groups.append(group)
    return json_answer(groups)


def node_targets(meta: MetaState) -> Iterator[TargetGroup]:
    """Each member with the address of its HTTP API, as it last said. One that is dead stays: `up` says that it is."""
    for member in sorted(meta.roster.values(), key=lambda each: each.id):
        if member.state in PRESENT and member.http:
            yield TargetGroup((member.http,), _node_labels(member))


def _node_labels(member: Member) -> dict[str, str]:
    own = {"service": NODES_SERVICE, "node": f"node-{member.id}"}
    return own | _prefixed("__meta_noctule_node_meta_", member.labels)


def instance_targets(registry: Registry, service: str, tag: str) -> Iterator[TargetGroup]:
    """Each instance that has a port and no critical check, in order; empty words ask for any service, any tag."""
    for name in [service] if service else sorted(registry.by_name):
        for instance in registry.instances_of(name):
            if instance.port and (not tag or tag in instance.tags):
                node = registry.nodes[instance.node]
                statuses = {check.status for check in registry.checks_of(instance.node, instance.id)}
                if CheckStatus.CRITICAL not in statuses:
                    yield TargetGroup((_address(node, instance),), _instance_labels(node, instance, statuses))


def _instance_labels(node: RegistryNode, instance: ServiceInstance, statuses: set[CheckStatus]) -> dict[str, str]:
    health = CheckStatus.WARNING if CheckStatus.WARNING in statuses else CheckStatus.PASSING
    labels = {
        "service": instance.name,
        "node": instance.node,
        "__meta_noctule_service_id": instance.id,
        "__meta_noctule_health": str(health),
        # With a comma at both ends, so that a relabelling rule matches a whole tag anywhere.
        "__meta_noctule_tags": f",{','.join(instance.tags)},",
    }
    labels |= {label: instance.meta[key] for key, label in _LABELS_BY_META.items() if key in instance.meta}
    labels |= _prefixed("__meta_noctule_service_meta_", instance.meta)
    return labels | _prefixed("__meta_noctule_node_meta_", node.meta)


def _prefixed(prefix: str, pairs: Mapping[str, str]) -> dict[str, str]:
    return {prefix + _NOT_IN_LABELS.sub("_", key): value for key, value in sorted(pairs.items())}


def _address(node: RegistryNode, instance: ServiceInstance) -> str:
    return join_address(instance.address or node.address, instance.port)
