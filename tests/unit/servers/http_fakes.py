"""A node for the tests of the HTTP API: the real keyspace behind the real door, without Raft, and with switches."""

import asyncio
from dataclasses import replace
from typing import cast

import msgspec

from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.commands import check_command
from noctule.core.keyspace.keyspace import MUST_LOG, Keyspace
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.meta.operations import Answer as OperationAnswer
from noctule.core.meta.operations import Operation
from noctule.core.meta.views import Reach, middle_slot
from noctule.core.placement.partition_map import Partition
from noctule.core.placement.picture import ClusterPicture, Plan
from noctule.core.placement.picture import NodePicture as PlannedNode
from noctule.core.placement.picture import PartitionPicture as PlannedPartition
from noctule.core.placement.risk import Risk, estimate_risk
from noctule.core.registry.changes import PutService, RemoveService
from noctule.core.registry.definitions import ServiceDefinition
from noctule.core.roster.loads import Compared, LoadBoard
from noctule.node.api import Dialogue, GroupPicture, Node, NodePicture, PeerPicture, ReplySink
from noctule.node.watch import Watch
from noctule.servers.http_api import HttpApi
from noctule.servers.http_errors import ErrorBody, ErrorFacts
from noctule.servers.http_request import Request
from noctule.servers.http_route import Answer
from tests.unit.core.meta.formed import ask as ask_meta
from tests.unit.core.meta.formed import formed
from tests.unit.node.fake_registry import NODE, FakeRegistry


class FakeStore(Dialogue):
    """One keyspace as a `Store`; replies come a turn of the loop later, as they do from a router."""

    def __init__(self) -> None:
        self.keyspace = Keyspace()
        self.now_ms = 1_700_000_000_000
        self.failure: Failure | None = None
        self.crash: Exception | None = None
        self.replies: dict[bytes, list[Reply]] = {}
        """By the name of a command: what it answers next, before the keyspace is asked again."""
        self.is_silent = False
        self.held: list[tuple[list[bytes], ReplySink]] = []
        self.submitted: list[tuple[list[bytes], ConsistencyLevel]] = []

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        if self.crash is not None:
            raise self.crash
        self.submitted.append((args, consistency))
        if self.is_silent:
            self.held.append((args, sink))
            return
        asyncio.get_running_loop().call_soon(sink.deliver, self._reply(args))

    def conversation(self) -> "FakeStore":
        return self

    def release(self) -> None:
        """Answer what was held, and be silent no more."""
        self.is_silent = False
        held, self.held = self.held, []
        for args, sink in held:
            sink.deliver(self._reply(args))

    def run(self, *args: bytes) -> Reply:
        """Run a command at once, as another client would."""
        reply = self.keyspace.read(args, self.now_ms)
        return self.keyspace.execute(args, self.now_ms) if reply is MUST_LOG else reply

    def _reply(self, args: list[bytes]) -> Reply:
        if self.failure is not None:
            return self.failure
        if scripted := self.replies.get(args[0]):
            return scripted.pop(0)
        spec = check_command(args)
        return spec if isinstance(spec, Failure) else self.run(*args)


PICTURE = NodePicture(
    node_id=1,
    cluster="test",
    version="1.2.3",
    protocol_version=1,
    pid=4711,
    uptime_s=12.5,
    data_dir="/data/node-1",
    storage_failure="",
    draining=False,
    nodes=[
        PeerPicture(1, True, "127.0.0.1:7601", "127.0.0.1:7401", "127.0.0.1:7501", 2, None),
        PeerPicture(2, True, "127.0.0.1:7602", "127.0.0.1:7402", "127.0.0.1:7502", 0, 21),
        PeerPicture(3, False, "127.0.0.1:7603", "", "", 0, 9_500),
    ],
    groups=[
        GroupPicture(0, -1, -1, "leader", 1, 3, 40, 40, 41, 0, 2, {2: 0, 3: 17}, {2: 0, 3: 900}, {2: 0, 3: 1.5}, 0),
        GroupPicture(1, 0, 16_383, "follower", None, 2, 7, 6, 7, 5, 1_000),
    ],
    counters={"noctule_commands_total": 12, "noctule_bytes_total": 2**63},
    gauges={"noctule_memory_bytes": 1.5e9},
)
"""Three nodes, the third of which is silent; this one leads *meta* and knows no leader of the one partition."""


class FakeAdministration:
    """An `Administration` over the real state of *meta*, without a group behind it; all nodes but `silent` live."""

    def __init__(self) -> None:
        self.meta = formed()
        self.board = LoadBoard()
        self.watch = Watch()
        self.silent: set[int] = set()
        self.planned = Plan()
        self.failure: Exception | None = None
        self.asked: list[Operation] = []

    def is_alive(self, node: int) -> bool:
        return node not in self.silent

    def plan(self) -> Plan:
        return self.planned

    def risk(self, node: int) -> Risk:
        nodes = tuple(
            PlannedNode(id=member.id, state=member.state, is_alive=self.is_alive(member.id))
            for member in self.meta.roster.values()
        )
        partitions = tuple(
            PlannedPartition(id=each.id, replicas=each.replicas, bytes=1 << 20) for each in self.meta.map
        )
        return estimate_risk(ClusterPicture(nodes, partitions, 3), node)

    def dividing_slot(self, partition: Partition) -> int:
        return middle_slot(partition)

    async def reach(self) -> list[Reach]:
        return [
            Reach(node, self.is_alive(node), self.is_alive(node), 0.5 if self.is_alive(node) else None)
            for node in sorted(self.meta.roster)
            if node != PICTURE.node_id
        ]

    async def compare(self, partition: Partition) -> Compared:
        if self.failure is not None:
            raise self.failure
        return Compared(b"n", 7, equal=partition.replicas[1:], different=partition.replicas[:1], silent=(9,))

    async def operate(self, operation: Operation) -> OperationAnswer:
        if self.failure is not None:
            raise self.failure
        self.asked.append(operation)
        answer = ask_meta(self.meta, operation)
        self.watch.ring()
        return answer


class FakeAgent:
    """What is registered here is in the registry, and nothing is checked."""

    name = NODE

    def __init__(self, registry: FakeRegistry) -> None:
        self.known: dict[str, ServiceDefinition] = {}
        self._registry = registry

    def service(self, service_id: str) -> ServiceDefinition | None:
        return self.known.get(service_id)

    async def register_service(self, definition: ServiceDefinition, replace_existing_checks: bool = False) -> None:
        definition.validate()
        self.known[definition.id] = definition
        self._registry.apply(PutService(definition.instance(NODE)))

    async def deregister_service(self, service_id: str) -> None:
        del self.known[service_id]
        self._registry.apply(RemoveService(NODE, service_id))


class FakeNode:
    """A `Node` over two keyspaces."""

    def __init__(self) -> None:
        self.cluster = FakeAdministration()
        self.store = FakeStore()
        self.meta = FakeStore()
        self.registry = FakeRegistry(NODE)
        self.agent = FakeAgent(self.registry)
        self.shown = PICTURE
        self.unready = ""
        self.stale_ms: dict[bytes, int] = {}

    @property
    def door(self) -> Node:
        """This node as servers see it; only a cast, as a protocol's attributes admit no narrower type."""
        return cast("Node", self)

    def picture(self) -> NodePicture:
        return replace(self.shown)

    def staleness_ms(self, key: bytes) -> int | None:
        return self.stale_ms.get(key)

    def readiness(self) -> str:
        return self.unready


async def ask(
    node: FakeNode, method: str, target: str, body: bytes = b"", *, accept: str = "", content_encoding: str = ""
) -> Answer:
    """One request through the API, without a socket."""

    async def read_body() -> bytes:
        return body

    return await HttpApi(node.door).answer(Request(method, target, accept, content_encoding, read_body))


def error_of(answer: Answer) -> ErrorFacts:
    """The error that an answer carries; fails when it carries none, or more than the contract says."""
    assert msgspec.json.decode(answer.body).keys() == {"error"}
    assert answer.content_type == "application/json"
    facts = msgspec.json.decode(answer.body, type=ErrorBody).error
    assert "Traceback" not in facts.message
    assert "\n" not in facts.message
    assert facts.message
    return facts
