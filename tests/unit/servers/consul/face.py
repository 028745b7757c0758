"""Consul's API of one node without Raft, disk or sockets: the real registry, the real rules of an agent."""

import random
from collections.abc import Mapping
from typing import cast

import msgspec

from noctule.base.errors import RequestError
from noctule.base.ids import Instant
from noctule.core.registry.changes import Change, PutCheck, PutNode, PutService, RemoveCheck, RemoveService
from noctule.core.registry.checks import Told
from noctule.core.registry.definitions import CheckDefinition, ServiceDefinition
from noctule.core.registry.objects import NODE_CHECK, Check, CheckStatus, RegistryNode
from noctule.node.agent.local_services import NO_REASON, LocalServices
from noctule.node.api import Node
from noctule.servers.consul.api import ConsulApi
from noctule.servers.consul.waiting import Waiting
from noctule.servers.http_api import HttpApi, split_target
from noctule.servers.http_request import Request
from noctule.servers.http_route import Answer
from tests.unit.node.fake_registry import FakeRegistry
from tests.unit.servers.http_fakes import FakeNode

NODE = "node-1"
NODE_ID = "0a2f8a41-4e1c-5a3a-9d5a-3f0a1c2b3d4e"


class FakeAgent:
    """As `node.api.Agent` says; what is registered is in the registry at once."""

    def __init__(self, registry: FakeRegistry) -> None:
        self.name = NODE
        self._registry = registry
        self._local = LocalServices(NODE, random.Random(7))

    def services(self) -> Mapping[str, ServiceDefinition]:
        return {each: service.definition for each, service in self._local.services.items()}

    def service(self, service_id: str) -> ServiceDefinition | None:
        return self.services().get(service_id)

    def checks(self) -> Mapping[str, Check]:
        return {each: found for each in self._local.check_ids() if (found := self._local.picture(each)) is not None}

    async def register_service(self, definition: ServiceDefinition, replace_existing_checks: bool = False) -> None:
        merged = self._local.merged(definition, replace_checks=replace_existing_checks)
        self._local.put_service(merged, "", Instant(0.0))
        await self._push()

    async def deregister_service(self, service_id: str) -> None:
        self._local.remove_service(service_id)
        await self._push()

    async def register_check(self, definition: CheckDefinition) -> None:
        service = self._local.with_check(definition)
        if service is not None:
            self._local.put_service(service, "", Instant(0.0))
        else:
            self._local.put_check(definition, Instant(0.0))
        await self._push()

    async def deregister_check(self, check_id: str) -> None:
        self._local.remove_check(check_id)
        await self._push()

    async def update_check(self, check_id: str, status: CheckStatus, output: str = "") -> None:
        check = self._local.checks.get(check_id)
        if check is None or check.definition.kind != "ttl" or check.machine is None:
            raise RequestError(f"no check {check_id!r} with a ttl")
        check.machine.handle(Told(status, output), Instant(0.0))
        self._local.change(check, status, output)
        self._local.dirty.checks.add(check_id)
        await self._push()

    async def set_service_maintenance(self, service_id: str, enable: bool, reason: str = "") -> None:
        definition = self._local.services[service_id].definition
        self._local.put_service(definition, (reason or NO_REASON) if enable else "", Instant(0.0))
        await self._push()

    async def set_node_maintenance(self, enable: bool, reason: str = "") -> None:
        self._local.set_maintenance((reason or NO_REASON) if enable else "")
        await self._push()

    async def _push(self) -> None:
        changes: list[Change] = []
        for service_id in sorted(self._local.dirty.services):
            instance = self._local.instance(service_id)
            changes.append(RemoveService(NODE, service_id) if instance is None else PutService(instance))
        for check_id in sorted(self._local.dirty.checks):
            check = self._local.picture(check_id)
            changes.append(RemoveCheck(NODE, check_id) if check is None else PutCheck(check))
        self._local.dirty.services.clear()
        self._local.dirty.checks.clear()
        if changes:
            await self._registry.change(changes)


class Face:
    """A node with its API; `get`, `put`, `delete` ask it."""

    def __init__(self, waiting_max: int | None = None) -> None:
        self.node = FakeNode()
        self.registry = self.node.registry
        self.agent = FakeAgent(self.registry)
        self.node.agent = self.agent  # type: ignore[attr-defined]
        self.registry.view.apply(
            [
                PutNode(RegistryNode(NODE, "127.0.0.1", id=NODE_ID, meta={"zone": "a"})),
                PutCheck(Check(NODE, NODE_CHECK, "Serf Health Status", CheckStatus.PASSING)),
            ],
            self.registry.now_ms,
        )
        self.api = ConsulApi(cast("Node", self.node), random.Random(1))
        if waiting_max is not None:
            self.api.waiting = Waiting(self.registry, self.node.cluster.watch, waiting_max)
        self.is_gone = False

    async def ask(self, method: str, target: str, body: bytes | object = b"") -> Answer:
        """One request; a body that is not bytes is sent as JSON."""
        sent = body if isinstance(body, bytes) else msgspec.json.encode(body)

        async def read_body() -> bytes:
            return sent

        request = Request(method, target, "", "", read_body, lambda: self.is_gone)
        return await self.api.answer(request, *split_target(target))

    async def get(self, target: str) -> object:
        """The JSON of an answer that is 200."""
        answer = await self.ask("GET", target)
        assert answer.status == 200, (answer.status, answer.body)
        return msgspec.json.decode(answer.body)

    async def put(self, target: str, body: bytes | object = b"") -> object:
        """The JSON of an answer that is 200; None where it is empty."""
        answer = await self.ask("PUT", target, body)
        assert answer.status == 200, (answer.status, answer.body)
        return msgspec.json.decode(answer.body) if answer.body else None

    async def sentence(self, method: str, target: str, body: bytes | object = b"") -> tuple[int, str]:
        """Status and text of an answer that is an error."""
        answer = await self.ask(method, target, body)
        assert answer.status != 200, answer.body
        return answer.status, answer.body.decode()


def http_api(face: Face) -> HttpApi:
    """The whole API of the face's node."""
    return HttpApi(face.node.door, random.Random(1))
