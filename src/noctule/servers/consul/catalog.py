"""What is registered, whatever its health: /v1/catalog/…"""

from collections.abc import Sequence

from noctule.core.registry.changes import Change, PutCheck, PutNode, PutService, RemoveCheck, RemoveNode, RemoveService
from noctule.core.registry.objects import RegistryNode
from noctule.core.registry.registry import Registry
from noctule.servers.consul.bodies import DeregisterBody, RegisterBody
from noctule.servers.consul.call import Call
from noctule.servers.consul.errors import refused
from noctule.servers.consul.loading import load_check, load_instance, load_node
from noctule.servers.consul.renderings import Json, render_catalog_service, render_instance, render_node
from noctule.servers.consul.requests import load_body
from noctule.servers.consul.selections import (
    CATALOG_NAMES,
    NODE_NAMES,
    SERVICE_NAMES,
    find_instances,
    has_meta,
    nodes_in_order,
    wanted_node_meta,
)
from noctule.servers.http_route import Answer

_NO_NODE = "Missing node name"


async def list_datacenters(call: Call) -> Answer:
    """The one datacenter that this cluster is."""
    return call.json([call.datacenter])


async def list_nodes(call: Call) -> Answer:
    """Every node."""
    test = call.filter(NODE_NAMES)

    def render() -> list[Json]:
        rendered = (render_node(node, call.datacenter) for node in nodes_in_order(call, call.state))
        return [each for each in rendered if test(each)]

    return await call.answer("nodes", render)


async def list_services(call: Call) -> Answer:
    """The names of all services, each with the tags that any instance of it has."""
    headers = await call.read("services")
    state, wanted = call.state, wanted_node_meta(call)
    tags_by_name: dict[str, list[str]] = {}
    for name in sorted(state.by_name):
        found = [each for each in state.instances_of(name) if has_meta(state.nodes.get(each.node), wanted)]
        if found:
            tags_by_name[name] = sorted({tag for instance in found for tag in instance.tags})
    return call.json(tags_by_name, headers=headers)


async def get_service(call: Call) -> Answer:
    """The instances of a service with their nodes."""
    name, test = call.require("Missing service name"), call.filter(CATALOG_NAMES)

    def render() -> list[Json]:
        found = find_instances(call, name)
        rendered = (render_catalog_service(node, instance, call.datacenter) for node, instance in found)
        return [each for each in rendered if test(each)]

    return await call.answer(f"service:{name}", render)


async def get_connect_service(call: Call) -> Answer:
    """There is no service mesh here, so nothing speaks for a service in it."""
    name = call.require("Missing service name")
    return call.json([], headers=await call.read(f"service:{name}"))


async def get_node(call: Call) -> Answer:
    """A node with its services by id; null when it is not there."""
    node, services = await _read_node(call)
    if node is None:
        return call.json(None, headers=services.headers)
    by_id = {str(each["ID"]): each for each in services.rendered}
    return call.json({"Node": render_node(node, call.datacenter), "Services": by_id}, headers=services.headers)


async def get_node_services(call: Call) -> Answer:
    """A node with its services in a list."""
    node, services = await _read_node(call)
    if node is None:
        return call.json({"Node": None, "Services": None}, headers=services.headers)
    rendered = {"Node": render_node(node, call.datacenter), "Services": services.rendered}
    return call.json(rendered, headers=services.headers)


async def register(call: Call) -> Answer:
    """Add or replace a node, and with it an instance and checks, all in one."""
    asked = load_body(call.body, RegisterBody)
    call.check_datacenter(asked.datacenter)
    if not asked.node:
        raise refused("Must provide node")
    if not asked.address and not asked.skip_node_update:
        raise refused("Must provide address if SkipNodeUpdate is not set")
    changes: list[Change] = []
    if asked.skip_node_update:
        await call.registry.catch_up()
    if not asked.skip_node_update or asked.node not in call.state.nodes:
        changes.append(
            PutNode(
                load_node(
                    asked.node,
                    asked.address,
                    id=asked.id,
                    datacenter=call.datacenter,
                    tagged_addresses=asked.tagged_addresses,
                    meta=asked.node_meta,
                )
            )
        )
    if asked.service is not None:
        changes.append(PutService(load_instance(asked.node, asked.service)))
    for check in [*([] if asked.check is None else [asked.check]), *asked.checks]:
        if check.node not in ("", asked.node):
            raise refused(f'check node "{check.node}" does not match node "{asked.node}"')
        changes.append(PutCheck(load_check(asked.node, check)))
    if not changes:
        return call.json(True)
    await call.change(*changes, why=lambda view: _missing(view, asked.node, changes))
    return call.json(True)


async def deregister(call: Call) -> Answer:
    """Remove an instance, a check, or a node with all it has; not an error when it is not there."""
    asked = load_body(call.body, DeregisterBody)
    call.check_datacenter(asked.datacenter)
    if not asked.node:
        raise refused("Must provide node")
    change: Change = RemoveNode(asked.node)
    if asked.service_id:
        change = RemoveService(asked.node, asked.service_id)
    elif asked.check_id:
        change = RemoveCheck(asked.node, asked.check_id)
    await call.change(change)
    return call.json(True)


class _Services:
    """What a node has on it, rendered, and what is told beside that."""

    def __init__(self, rendered: list[Json], headers: dict[str, str]) -> None:
        self.rendered = rendered
        self.headers = headers


async def _read_node(call: Call) -> tuple[RegistryNode | None, _Services]:
    name, test = call.require(_NO_NODE), call.filter(SERVICE_NAMES)
    headers = dict(await call.read(f"node:{name}"))
    rendered = (render_instance(instance) for instance in call.state.instances_on(name))
    return call.state.nodes.get(name), _Services([each for each in rendered if test(each)], headers)


def _missing(view: Registry, node: str, changes: Sequence[Change]) -> str:
    """What Consul says of a list of which something lacks what it belongs to; empty when there is nothing to say."""
    coming = {change.service.id for change in changes if isinstance(change, PutService)}
    for change in changes:
        if isinstance(change, PutCheck) and change.check.service_id:
            is_there = change.check.service_id in coming or (node, change.check.service_id) in view.instances
            if not is_there:
                return f'failed inserting check: Missing service registration on node "{node}"'
    return ""
