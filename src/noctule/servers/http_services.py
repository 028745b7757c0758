"""Services over Noctule's own HTTP API: registering instances, finding them, waiting for what changes, who calls whom.

An instance with a `ttl_s` renews itself, by any node; every other one is kept by the node that was asked, which makes
its checks. Consul's API shows the same registry, and so does DNS.
"""

from collections.abc import AsyncIterator

import msgspec
from msgspec import Struct

from noctule.base.consistency import ConsistencyLevel
from noctule.base.errors import RequestError, TooLargeError
from noctule.core.registry.changes import RemoveService
from noctule.core.registry.definitions import NO_SCRIPTS, CheckDefinition, ServiceDefinition
from noctule.core.registry.dependencies import dependency_graph
from noctule.core.registry.objects import CheckStatus
from noctule.core.registry.views import (
    CATALOG_NODE,
    ServiceList,
    ServiceRegistration,
    ServiceView,
    find_instance,
    find_instances,
    renewal,
    topic_of,
    view_service,
    view_services,
)
from noctule.node.agent.agent import node_name
from noctule.node.api import Node
from noctule.servers.http_errors import NotFoundError
from noctule.servers.http_events import CONTENT_TYPE, event
from noctule.servers.http_parameters import (
    CONSISTENCY,
    INDEX,
    INSTANCE_NODE,
    INSTANCE_TAG,
    ONLY_PASSING,
    SERVICE_ID,
    SERVICE_NAME,
    WAIT,
    WATCHED_SERVICE,
)
from noctule.servers.http_route import Answer, Call, json_answer, shown

SERVICES_SHOWN_MAX = 2_000
"""Instances in one answer; over it a service must be named. To show so many takes 20 ms of the loop."""
HEARTBEAT_S = 5.0
"""A stream of lists says something at least so often, and so notices that its client has gone."""


class ServiceDeleted(Struct, frozen=True):
    """What became of an instance to delete; `deleted` is false when there was none."""

    id: str
    deleted: bool


async def list_services(call: Call) -> Answer:
    """The instances, now or once something has changed."""
    registry, name, index = call.node.registry, call.get(SERVICE_NAME), call.get(INDEX)
    topic = topic_of(name)
    known = registry.view.index_of(topic)
    # What is newer than the client's list is so without asking a quorum. That nothing is, a node that is cut off
    # could say for ever; and an index above what is known here may be one of another life of the registry.
    is_newer = 0 < index < known or (index == known and await registry.wait(topic, index, call.get(WAIT)))
    is_eventual = is_newer or await _catch_up(call)
    stale_ms = registry.last_contact_ms() if is_eventual else 0
    return json_answer(
        _listed(call.node, name, stale_ms, tag=call.get(INSTANCE_TAG), is_passing=call.get(ONLY_PASSING))
    )


async def get_service(call: Call) -> Answer:
    """One instance."""
    await _catch_up(call)
    registry, service_id = call.node.registry.view, call.get(SERVICE_ID)
    instance = find_instance(registry, service_id, call.get(INSTANCE_NODE))
    if instance is None:
        raise NotFoundError(f"there is no instance {shown(service_id)}; GET /api/services lists what there is")
    return json_answer(view_service(registry, instance))


async def put_service(call: Call) -> Answer:
    """Register an instance, or renew it."""
    service_id = call.get(SERVICE_ID)
    asked = load_registration(call.body)
    if asked.id not in ("", service_id):
        raise RequestError(f"body: the id is {shown(asked.id)}, and the path says {shown(service_id)}")
    definition = ServiceDefinition(
        id=service_id,
        name=asked.name,
        tags=asked.tags,
        address=asked.address,
        port=asked.port,
        meta=asked.meta,
        weights=asked.weights,
        depends_on=asked.depends_on,
        # Plain ones: they are compared with what is read from the disk later.
        checks=tuple(CheckDefinition(**msgspec.structs.asdict(check)) for check in asked.checks),
    )
    if asked.ttl_s is None:
        if asked.status is not None:
            raise RequestError("body: a status is told by an instance that renews itself: give a ttl_s, or checks")
        await call.node.agent.register_service(definition, True)
        return json_answer(_seen(call.node, definition, call.node.agent.name))
    if asked.checks:
        raise RequestError(
            "body: an instance with a ttl_s renews itself, and nobody makes checks of it: give one of them"
        )
    if not asked.address:
        raise RequestError("body: an instance that renews itself must say at which address it serves")
    definition.validate()
    registry = call.node.registry
    changes = renewal(
        registry.view,
        definition,
        ttl_ms=round(asked.ttl_s * 1000),
        remove_after_ms=round(asked.remove_after_s * 1000),
        status=asked.status,
        output=asked.output,
    )
    await registry.change(changes)
    return json_answer(_seen(call.node, definition, CATALOG_NODE))


async def delete_service(call: Call) -> Answer:
    """Remove an instance at once; not an error when there is none."""
    node, service_id, keeper = call.node, call.get(SERVICE_ID), call.get(INSTANCE_NODE)
    await node.registry.catch_up()
    is_ours = node.agent.service(service_id) is not None
    if not keeper:
        keepers = {each.node for each in find_instances(node.registry.view, service_id)}
        keepers |= {node.agent.name} if is_ours else set()
        if len(keepers) > 1:  # To guess would take a stranger's instance out of the traffic.
            raise RequestError(
                f"instance {shown(service_id)} is there more than once, kept by {', '.join(sorted(keepers))}: "
                "say which by ?node=, or by --on of the command"
            )
    if is_ours and keeper in ("", node.agent.name):
        await node.agent.deregister_service(service_id)
        return json_answer(ServiceDeleted(service_id, deleted=True))
    instance = find_instance(node.registry.view, service_id, keeper)
    if instance is None:
        return json_answer(ServiceDeleted(service_id, deleted=False))
    others = {node_name(member) for member in node.cluster.meta.roster} - {node.agent.name}
    if instance.node in others:  # Its agent would put it back.
        raise RequestError(f"instance {shown(service_id)} is kept by {instance.node}: ask that node to remove it")
    await node.registry.change([RemoveService(instance.node, instance.id)])
    return json_answer(ServiceDeleted(service_id, deleted=True))


async def watch_service(call: Call) -> Answer:
    """The instances of one service now, and again whenever something of them has changed."""
    return Answer(200, b"", CONTENT_TYPE, stream=stream_lists(call.node, call.get(WATCHED_SERVICE)))


async def stream_lists(node: Node, name: str) -> AsyncIterator[bytes]:
    """A list as an event at once and after each change, until the consumer stops asking.

    One that reads slowly misses what came and went in between, and nothing is kept for it.
    """
    topic, seen = topic_of(name), 0
    while True:
        index = node.registry.view.index_of(topic)
        if index != seen:
            seen = index
            yield event("services", _listed(node, name, node.registry.last_contact_ms()))
        elif not await node.registry.wait(topic, seen, HEARTBEAT_S):
            yield b": still here\n\n"


async def get_dependencies(call: Call) -> Answer:
    """Who calls whom."""
    await _catch_up(call)
    return json_answer(dependency_graph(call.node.registry.view))


def load_registration(body: bytes) -> ServiceRegistration:
    """What a request's body describes; `RequestError` says which field is wrong and why."""
    try:
        return msgspec.json.decode(body, type=ServiceRegistration)
    except msgspec.ValidationError as error:
        hint = f"; {NO_SCRIPTS}" if "`script`" in str(error) or "`args`" in str(error) else ""
        raise RequestError(f"body: {' '.join(str(error).split())}{hint}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"body: not JSON: {' '.join(str(error).split())}") from None


async def _catch_up(call: Call) -> bool:
    """See to it that the view is as fresh as was asked for; whether any will do."""
    if call.get(CONSISTENCY) is ConsistencyLevel.EVENTUAL:
        return True
    await call.node.registry.catch_up()
    return False


def _listed(node: Node, name: str, staleness_ms: int | None, *, tag: str = "", is_passing: bool = False) -> ServiceList:
    registry = node.registry.view
    count = len(registry.instances_of(name)) if name else len(registry.instances)
    if count > SERVICES_SHOWN_MAX:
        raise TooLargeError(f"{count} instances, and {SERVICES_SHOWN_MAX} are the most in one answer: name a service")
    found = view_services(registry, name, tag, is_passing=is_passing)
    return msgspec.structs.replace(found, staleness_ms=staleness_ms)


def _seen(node: Node, definition: ServiceDefinition, at: str) -> ServiceView:
    """As the registry has it; what was asked for, should that be late."""
    registry = node.registry.view
    instance = registry.instances.get((at, definition.id))
    if instance is not None:
        return view_service(registry, instance)
    return ServiceView(
        definition.id,
        definition.name,
        at,
        definition.address,
        definition.port,
        CheckStatus.CRITICAL,
        definition.tags,
        definition.meta,
        definition.weights,
        definition.depends_on,
    )
