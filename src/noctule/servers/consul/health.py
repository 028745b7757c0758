"""Checks and the instances behind them: /v1/health/…"""

from collections.abc import Mapping

from noctule.core.registry.objects import Check
from noctule.servers.consul.call import Call
from noctule.servers.consul.filters import Test
from noctule.servers.consul.renderings import Json, render_check, render_instance, render_node
from noctule.servers.consul.selections import (
    CHECK_NAMES,
    HEALTH_NAMES,
    find_instances,
    has_meta,
    is_passing,
    only_passing,
    wanted_node_meta,
)
from noctule.servers.http_route import Answer

ANY_STATE = "any"


async def get_service_health(call: Call) -> Answer:
    """The instances of a service with their nodes and checks; with `passing` only those of which all checks pass."""
    name = call.require("Missing service name")
    passing, test = only_passing(call), call.filter(HEALTH_NAMES)

    def render() -> list[Json]:
        entries = []
        for node, instance in find_instances(call, name):
            checks = call.state.checks_of(instance.node, instance.id)
            if passing and not is_passing(checks):
                continue
            entry: Json = {
                "Node": render_node(node, call.datacenter),
                "Service": render_instance(instance),
                "Checks": [render_check(check) for check in checks],
            }
            if test(entry):
                entries.append(entry)
        return entries

    return await call.answer(f"service:{name}", render)


async def get_node_health(call: Call) -> Answer:
    """Every check of a node and of what is on it."""
    node, test = call.require("Missing node name"), call.filter(CHECK_NAMES)
    headers = await call.read(f"node:{node}")
    return _answer(call, call.state.checks_on(node), headers, test)


async def get_service_checks(call: Call) -> Answer:
    """The checks of a service's instances, without those of their nodes."""
    name, test = call.require("Missing service name"), call.filter(CHECK_NAMES)
    headers = await call.read(f"service:{name}")
    checks = [
        check
        for node, instance in find_instances(call, name)
        for check in call.state.checks_of(node.name, instance.id)
        if check.service_id
    ]
    return _answer(call, checks, headers, test)


async def get_state(call: Call) -> Answer:
    """Every check that says this now."""
    status, test = call.require("Missing check state"), call.filter(CHECK_NAMES)
    headers = await call.read("checks")
    state, wanted = call.state, wanted_node_meta(call)
    checks = [
        check
        for _, check in sorted(state.checks.items())
        if status in (ANY_STATE, check.status) and has_meta(state.nodes.get(check.node), wanted)
    ]
    return _answer(call, checks, headers, test)


async def get_connect_health(call: Call) -> Answer:
    """There is no service mesh here, so nothing speaks for a service in it."""
    name = call.require("Missing service name")
    return call.json([], headers=await call.read(f"service:{name}"))


def _answer(call: Call, checks: list[Check], headers: Mapping[str, str], test: Test) -> Answer:
    rendered = (render_check(check) for check in checks)
    return call.json([each for each in rendered if test(each)], headers=headers)
