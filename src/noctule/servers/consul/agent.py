"""What this node knows of itself and of the services beside it: /v1/agent/…"""

from hashlib import blake2b

import msgspec

from noctule.base.errors import NoctuleError, RequestError
from noctule.core.registry.definitions import ServiceDefinition
from noctule.core.registry.objects import Check, CheckStatus
from noctule.servers.consul.bodies import CheckBody, CheckUpdateBody, ServiceBody
from noctule.servers.consul.call import JITTER, Call
from noctule.servers.consul.errors import TEXT, ConsulError, bad_request, refused, text_answer
from noctule.servers.consul.loading import load_check_definition, load_service_definition
from noctule.servers.consul.renderings import Json, render_agent_service, render_check
from noctule.servers.consul.requests import load_body
from noctule.servers.consul.selections import CHECK_NAMES, SERVICE_NAMES
from noctule.servers.http_errors import error_kind
from noctule.servers.http_route import Answer

DONE = Answer(200, b"", TEXT)
_HEALTH_STATUS = {"passing": 200, "warning": 429, "critical": 503, "maintenance": 503}
_MAINTENANCE = "maintenance"


async def list_services(call: Call) -> Answer:
    """The services of this node, by id."""
    test = call.filter(SERVICE_NAMES)
    rendered = {key: render_agent_service(each) for key, each in sorted(call.agent.services().items())}
    return call.json({key: each for key, each in rendered.items() if test(each)})


async def get_service(call: Call) -> Answer:
    """One service of this node. With `hash` it waits until it is another than the one that had this hash."""
    known = call.query.get("hash")
    if known and _content_hash(call, call.value) == known:
        wait_s = call.options.wait_s * (1 + call.chance.uniform(0, JITTER))
        await call.waiting.until_other(lambda: _content_hash(call, call.value), known, wait_s, call.is_gone)
    service = call.agent.service(call.value)
    if service is None:
        raise ConsulError(404, f"unknown service ID: {call.value}")
    content_hash = _content_hash(call, call.value)
    rendered = {**render_agent_service(service), "ContentHash": content_hash}
    return call.json(rendered, headers={"X-Consul-ContentHash": content_hash})


async def list_checks(call: Call) -> Answer:
    """The checks of this node and of its services, by id."""
    test = call.filter(CHECK_NAMES)
    rendered = {key: render_check(each) for key, each in sorted(call.agent.checks().items())}
    return call.json({key: each for key, each in rendered.items() if test(each)})


async def register_service(call: Call) -> Answer:
    """Add or replace a service with its checks."""
    definition = load_service_definition(load_body(call.body, ServiceBody))
    replace_all = call.query.flag("replace-existing-checks", otherwise=call.query.has("replace-existing-checks"))
    try:
        await call.agent.register_service(definition, replace_existing_checks=bool(replace_all))
    except RequestError as error:
        raise bad_request(str(error)) from error
    return DONE


async def deregister_service(call: Call) -> Answer:
    """Remove a service with its checks; not an error when it is not here."""
    if not call.value:
        raise refused("ServiceID missing")
    if call.agent.service(call.value) is not None:
        await call.agent.deregister_service(call.value)
    return DONE


async def set_service_maintenance(call: Call) -> Answer:
    """Take a service out of the traffic for as long as somebody works on it, or put it back."""
    service_id, enable = call.require("Missing service ID"), _load_enable(call)
    if call.agent.service(service_id) is None:
        raise ConsulError(404, f'No service registered with ID "{service_id}"')
    await call.agent.set_service_maintenance(service_id, enable, call.query.get("reason"))
    return DONE


async def set_node_maintenance(call: Call) -> Answer:
    """Take this node out of the traffic with all that is on it, or put it back."""
    await call.agent.set_node_maintenance(_load_enable(call), call.query.get("reason"))
    return DONE


async def register_check(call: Call) -> Answer:
    """Add or replace a check of this node or of one of its services."""
    asked = load_body(call.body, CheckBody)
    if not asked.name:
        raise bad_request("Missing check name")
    try:
        check = load_check_definition(asked, asked.check_id or asked.id or asked.name, asked.name, asked.service_id)
    except ConsulError as error:
        if str(error).startswith("Status for checks"):
            raise bad_request("Bad check status") from None
        raise
    if asked.service_id and call.agent.service(asked.service_id) is None:
        raise refused(f'ServiceID "{asked.service_id}" does not exist')
    try:
        await call.agent.register_check(check)
    except RequestError as error:
        raise bad_request(str(error)) from error
    return DONE


async def deregister_check(call: Call) -> Answer:
    """Remove a check; not an error when it is not here."""
    if not call.value:
        raise refused("CheckID missing")
    if call.value in call.agent.checks():
        await call.agent.deregister_check(call.value)
    return DONE


async def pass_check(call: Call) -> Answer:
    """Report that all is well, to a check with a TTL; `note` is kept with it."""
    return await _report(call, CheckStatus.PASSING, call.query.get("note"))


async def warn_check(call: Call) -> Answer:
    """Report that all is not well, and not bad enough to take it out."""
    return await _report(call, CheckStatus.WARNING, call.query.get("note"))


async def fail_check(call: Call) -> Answer:
    """Report that it does not work."""
    return await _report(call, CheckStatus.CRITICAL, call.query.get("note"))


async def update_check(call: Call) -> Answer:
    """Report how a check with a TTL stands, with an output that may be longer than fits a query."""
    asked = load_body(call.body, CheckUpdateBody)
    if asked.status not in tuple(CheckStatus):
        raise bad_request(f"Invalid check status: '{asked.status}'")
    return await _report(call, CheckStatus(asked.status), asked.output)


async def get_health_by_id(call: Call) -> Answer:
    """How one service of this node is, in the status of the answer: 200 passing, 429 warning, 503 critical."""
    if not call.value:
        raise refused("Bad request: Missing serviceID")
    service = call.agent.service(call.value)
    if service is None:
        reason = f"ServiceId {call.value} not found"
        if _wants_text(call):
            return text_answer(404, reason, {"X-Consul-Reason": reason})
        nothing = {"AggregatedStatus": CheckStatus.CRITICAL, "Service": None, "Checks": None}
        return call.json(nothing, 404, {"X-Consul-Reason": reason})
    health = _health(call, service)
    return _health_answer(call, str(health["AggregatedStatus"]), health)


async def get_health_by_name(call: Call) -> Answer:
    """How all services of this node with one name are; the worst of them makes the status."""
    if not call.value:
        raise refused("Bad request: Missing service Name")
    services = [each for _, each in sorted(call.agent.services().items()) if each.name == call.value]
    if not services:
        reason = f"ServiceName {call.value} Not Found"
        headers = {"X-Consul-Reason": reason}
        return text_answer(404, reason, headers) if _wants_text(call) else call.json([], 404, headers)
    found = [_health(call, each) for each in services]
    worst = max((str(each["AggregatedStatus"]) for each in found), key=list(_HEALTH_STATUS).index)
    return _health_answer(call, worst, found)


def _health(call: Call, service: ServiceDefinition) -> Json:
    checks = [check for _, check in sorted(call.agent.checks().items()) if check.service_id in ("", service.id)]
    return {
        "AggregatedStatus": _aggregated(checks),
        "Service": render_agent_service(service),
        "Checks": [render_check(check) for check in checks],
    }


def _aggregated(checks: list[Check]) -> str:
    if any(check.type == _MAINTENANCE for check in checks):
        return _MAINTENANCE
    found = {check.status for check in checks}
    return max(found, key=list(CheckStatus).index, default=CheckStatus.PASSING)


def _health_answer(call: Call, status: str, value: object) -> Answer:
    code, headers = _HEALTH_STATUS[status], {"X-Consul-Reason": status}
    return text_answer(code, status, headers) if _wants_text(call) else call.json(value, code, headers)


def _wants_text(call: Call) -> bool:
    return call.query.get("format") == "text"


def _load_enable(call: Call) -> bool:
    if not call.query.has("enable"):
        raise bad_request("Missing value for enable")
    enable = call.query.flag("enable", otherwise=False)
    if enable is None or not call.query.get("enable"):
        raise bad_request(f'Invalid value for enable: "{call.query.get("enable")}"')
    return enable


async def _report(call: Call, status: CheckStatus, output: str) -> Answer:
    try:
        await call.agent.update_check(call.value, status, output)
    except NoctuleError as error:
        if issubclass(error_kind(error), RequestError):
            raise refused(f'CheckID "{call.value}" does not have associated TTL') from error
        raise
    return DONE


def _content_hash(call: Call, service_id: str) -> str:
    service = call.agent.service(service_id)
    shown = b"" if service is None else msgspec.json.encode(render_agent_service(service))
    return blake2b(shown, digest_size=8).hexdigest()
