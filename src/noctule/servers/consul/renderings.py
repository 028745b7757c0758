"""Objects of the registry as Consul's JSON: its spelling, its order, null where it has null and a list where a list.

Pure; what is asked for by one endpoint only is rendered where that endpoint stands.
"""

import base64
from collections.abc import Mapping
from typing import TypeAlias

from noctule.core.registry.definitions import ServiceDefinition
from noctule.core.registry.objects import Check, KvEntry, RegistryNode, ServiceInstance, Session, Weights
from noctule.servers.consul.durations import NS_PER_MS, render_duration

Json: TypeAlias = dict[str, object]

_PROXY: Json = {"MeshGateway": {}, "Expose": {}}


def render_node(node: RegistryNode, datacenter: str) -> Json:
    """A node of the catalog."""
    return {
        "ID": node.id,
        "Node": node.name,
        "Address": node.address,
        "Datacenter": datacenter,
        "TaggedAddresses": node.tagged_addresses or None,
        "Meta": node.meta or None,
        "CreateIndex": node.create_index,
        "ModifyIndex": node.modify_index,
    }


def render_instance(instance: ServiceInstance) -> Json:
    """An instance under its node, as health and node-services show it."""
    return {
        "ID": instance.id,
        "Service": instance.name,
        "Tags": instance.tags,
        "Address": instance.address,
        **_tagged(instance.tagged_addresses, "TaggedAddresses"),
        "Meta": instance.meta or None,
        "Port": instance.port,
        "Weights": _weights(instance.weights),
        "EnableTagOverride": instance.enable_tag_override,
        **_depends_on(instance.depends_on),
        "Proxy": _PROXY,
        "Connect": {},
        "CreateIndex": instance.create_index,
        "ModifyIndex": instance.modify_index,
    }


def render_catalog_service(node: RegistryNode, instance: ServiceInstance, datacenter: str) -> Json:
    """An instance with its node in one object."""
    return {
        "ID": node.id,
        "Node": node.name,
        "Address": node.address,
        "Datacenter": datacenter,
        "TaggedAddresses": node.tagged_addresses or None,
        "NodeMeta": node.meta or None,
        "ServiceKind": "",
        "ServiceID": instance.id,
        "ServiceName": instance.name,
        "ServiceTags": instance.tags,
        "ServiceAddress": instance.address,
        **_tagged(instance.tagged_addresses, "ServiceTaggedAddresses"),
        "ServiceWeights": _weights(instance.weights),
        "ServiceMeta": instance.meta,
        "ServicePort": instance.port,
        "ServiceEnableTagOverride": instance.enable_tag_override,
        "ServiceProxy": _PROXY,
        "ServiceConnect": {},
        "CreateIndex": instance.create_index,
        "ModifyIndex": instance.modify_index,
    }


def render_check(check: Check) -> Json:
    """A check of a node or an instance."""
    return {
        "Node": check.node,
        "CheckID": check.id,
        "Name": check.name,
        "Status": check.status,
        "Notes": check.notes,
        "Output": check.output,
        "ServiceID": check.service_id,
        "ServiceName": check.service_name,
        "ServiceTags": check.service_tags,
        "Type": check.type,
        "Definition": {},
        "CreateIndex": check.create_index,
        "ModifyIndex": check.modify_index,
    }


def render_agent_service(definition: ServiceDefinition) -> Json:
    """A service as its own node knows it."""
    return {
        "ID": definition.id,
        "Service": definition.name,
        "Tags": definition.tags,
        "Meta": definition.meta,
        "Port": definition.port,
        "Address": definition.address,
        **_tagged(definition.tagged_addresses, "TaggedAddresses"),
        "Weights": _weights(definition.weights),
        "EnableTagOverride": definition.enable_tag_override,
        **_depends_on(definition.depends_on),
    }


def render_key(entry: KvEntry, *, with_value: bool = True) -> Json:
    """A key; `with_value` False as what was written is answered in a transaction."""
    rendered: Json = {
        "LockIndex": entry.lock_index,
        "Key": entry.key,
        "Flags": entry.flags,
        "Value": base64.b64encode(entry.value).decode() if entry.value and with_value else None,
    }
    if entry.session:
        rendered["Session"] = entry.session
    rendered["CreateIndex"] = entry.create_index
    rendered["ModifyIndex"] = entry.modify_index
    return rendered


def render_session(session: Session) -> Json:
    """A session. Its TTL is spelled as Go prints a duration, however it was given."""
    return {
        "ID": session.id,
        "Name": session.name,
        "Node": session.node,
        "LockDelay": session.lock_delay_ms * NS_PER_MS,
        "Behavior": session.behavior,
        "TTL": render_duration(session.ttl_ms * NS_PER_MS) if session.ttl_ms else "",
        "NodeChecks": session.node_checks,
        "ServiceChecks": [{"ID": check, "Namespace": ""} for check in session.service_checks] or None,
        "CreateIndex": session.create_index,
        "ModifyIndex": session.modify_index,
    }


def _weights(weights: Weights) -> Json:
    return {"Passing": weights.passing, "Warning": weights.warning}


def _tagged(addresses: Mapping[str, tuple[str, int]], name: str) -> Json:
    if not addresses:
        return {}
    return {name: {tag: {"Address": address, "Port": port} for tag, (address, port) in addresses.items()}}


def _depends_on(names: tuple[str, ...]) -> Json:
    return {"DependsOn": names} if names else {}
