"""Which instances and nodes a query asks for, and in what order: tag, node-meta, passing, near."""

from collections.abc import Iterable, Mapping, Sequence

from noctule.core.registry.objects import Check, CheckStatus, RegistryNode, ServiceInstance
from noctule.core.registry.registry import Registry
from noctule.servers.consul.call import Call
from noctule.servers.consul.errors import bad_request
from noctule.servers.consul.filters import ANY, Names

NEAR_ME = "_agent"

NODE_NAMES: Names = {
    **dict.fromkeys(("ID", "Node", "Address", "Datacenter")),
    "TaggedAddresses": ANY,
    "Meta": ANY,
}
"""What a filter may name of a node; the same for the others below."""
SERVICE_NAMES: Names = {
    **dict.fromkeys(("ID", "Service", "Tags", "Address", "Port", "EnableTagOverride", "DependsOn")),
    "TaggedAddresses": ANY,
    "Meta": ANY,
    "Weights": {"Passing": None, "Warning": None},
}
CHECK_NAMES: Names = dict.fromkeys(
    ("Node", "CheckID", "Name", "Status", "Notes", "Output", "ServiceID", "ServiceName", "ServiceTags", "Type")
)
HEALTH_NAMES: Names = {"Node": NODE_NAMES, "Service": SERVICE_NAMES, "Checks": CHECK_NAMES}
CATALOG_NAMES: Names = {
    **dict.fromkeys(("ID", "Node", "Address", "Datacenter", "ServiceID", "ServiceName", "ServiceTags")),
    **dict.fromkeys(("ServiceAddress", "ServicePort", "ServiceEnableTagOverride")),
    "TaggedAddresses": ANY,
    "NodeMeta": ANY,
    "ServiceMeta": ANY,
    "ServiceTaggedAddresses": ANY,
    "ServiceWeights": {"Passing": None, "Warning": None},
}


def wanted_node_meta(call: Call) -> dict[str, str]:
    """The metadata that a node must have, as `?node-meta=key:value` says, which may be given more than once."""
    pairs = (each.partition(":") for each in call.query.all("node-meta"))
    return {key: value for key, _, value in pairs}


def has_meta(node: RegistryNode | None, wanted: Mapping[str, str]) -> bool:
    """Whether a node is there and has all of it."""
    return node is not None and all(node.meta.get(key) == value for key, value in wanted.items())


def has_tags(instance: ServiceInstance, wanted: Sequence[str]) -> bool:
    """Whether an instance has every tag, whatever the case, as Consul compares them."""
    if not wanted:
        return True
    tags = {tag.lower() for tag in instance.tags}
    return all(tag.lower() in tags for tag in wanted)


def find_instances(call: Call, name: str) -> list[tuple[RegistryNode, ServiceInstance]]:
    """The instances of a service that the query asks for, each with its node; the near ones first if it says so."""
    state, wanted, tags = call.state, wanted_node_meta(call), [tag for tag in call.query.all("tag") if tag]
    found = [
        (state.nodes[instance.node], instance)
        for instance in state.instances_of(name)
        if has_tags(instance, tags) and has_meta(state.nodes.get(instance.node), wanted)
    ]
    near = near_node(call)
    return sorted(found, key=lambda pair: pair[0].name != near) if near else found


def near_node(call: Call) -> str:
    """The node from which `?near` looks; empty when it does not look from anywhere.

    There are no coordinates of the network here: what is on that node itself is near, everything else equally far.
    """
    near = call.query.get("near")
    return call.agent.name if near == NEAR_ME else near


def only_passing(call: Call) -> bool:
    """Whether only instances are asked for of which every check passes. Raises `ConsulError`."""
    if not call.query.has("passing"):
        return False
    passing = call.query.flag("passing", otherwise=True)
    if passing is None:
        raise bad_request("Invalid value for ?passing")
    return passing


def is_passing(checks: Iterable[Check]) -> bool:
    """Whether all of them pass."""
    return all(check.status is CheckStatus.PASSING for check in checks)


def nodes_in_order(call: Call, registry: Registry) -> list[RegistryNode]:
    """The nodes that the query asks for, by name; the one that it looks from first."""
    wanted, near = wanted_node_meta(call), near_node(call)
    names = sorted(registry.nodes, key=lambda name: (name != near if near else False, name))
    return [registry.nodes[name] for name in names if has_meta(registry.nodes[name], wanted)]
