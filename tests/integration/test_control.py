"""Control calls over real sockets, on both event loops: answers, errors as they were raised, deadlines, bounds."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from scenarios import Run

from noctule.adapters import control_client, control_server, grpc_methods
from noctule.adapters.control import (
    CancelMigrationRequest,
    ClusterInfo,
    ClusterInfoRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    JoinAnswer,
    JoinRequest,
    LeaveAnswer,
    LeaveRequest,
    MemberFacts,
    MigrationProgress,
    NodeInfo,
    NodeInfoRequest,
    StartMigrationRequest,
    WatchMigrationRequest,
)
from noctule.adapters.control_client import ControlClient
from noctule.adapters.control_server import ControlServer
from noctule.base.errors import (
    ConfigError,
    InternalError,
    NoctuleError,
    OutcomeUnknownError,
    ProtocolError,
    RequestError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from noctule.core.migration.stages import Migration, Stage
from noctule.core.placement.partition_map import Partition, Promise
from noctule.core.roster.members import Member, MemberState

pytestmark = pytest.mark.integration

HOST = "127.0.0.1"
WAIT_S = 5.0
MOVE = Migration(7, 3, 1, 2, Stage.PREPARE)


@dataclass
class Desk:
    """A handler that notes what it is asked, raises what it is told to, and waits while it is told to."""

    asked: list[Any] = field(default_factory=list)
    error: Exception | None = None
    gate: asyncio.Event | None = None
    cancelled: int = 0
    cluster_info: ClusterInfo = field(default_factory=lambda: ClusterInfo("bats", "id", 0, 1, 0))

    async def _take(self, request: Any) -> None:
        self.asked.append(request)
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.error is not None:
            raise self.error

    async def join(self, request: JoinRequest) -> JoinAnswer:
        await self._take(request)
        facts = request.facts
        member = Member(4, facts.peer, labels=facts.labels, state=MemberState.ACTIVE, features=facts.features)
        return JoinAnswer("", 4, "id", "bats", (Member(1, "h:1", weight=0.5), member), {"partitions": "16"})

    async def leave(self, request: LeaveRequest) -> LeaveAnswer:
        await self._take(request)
        return LeaveAnswer(state="draining")

    async def get_cluster_info(self, request: ClusterInfoRequest) -> ClusterInfo:
        await self._take(request)
        return self.cluster_info

    async def get_node_info(self, request: NodeInfoRequest) -> NodeInfo:
        await self._take(request)
        return NodeInfo(1, "bats", "0", 2, 99, 0.5, "data", "", draining=False)

    async def heartbeat(self, request: HeartbeatRequest) -> HeartbeatAnswer:
        await self._take(request)
        return HeartbeatAnswer(1, 77, request.number)

    async def start_migration(self, request: StartMigrationRequest) -> MigrationProgress:
        await self._take(request)
        return MigrationProgress(Migration(7, request.partition, request.source, request.target, Stage.PREPARE))

    async def watch_migration(self, request: WatchMigrationRequest) -> AsyncIterator[MigrationProgress]:
        for sent in (0, 10, 20):
            yield MigrationProgress(MOVE, sent, 20)
        await self._take(request)
        yield MigrationProgress(Migration(7, 3, 1, 2, Stage.DONE), 20, 20)

    async def cancel_migration(self, request: CancelMigrationRequest) -> MigrationProgress:
        await self._take(request)
        return MigrationProgress(Migration(7, 3, 1, 2, Stage.ROLLBACK))


@asynccontextmanager
async def served(desk: Desk) -> AsyncIterator[tuple[ControlClient, str, ControlServer]]:
    """A client, the address of a server that serves the desk, and the server."""
    server, client = ControlServer(desk), ControlClient()
    try:
        port = await server.start(HOST, 0)
        yield client, f"{HOST}:{port}", server
    finally:
        await client.close()
        await server.stop(grace_s=0)


async def wait_until(condition: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.002)  # Between two looks.


# Answers --------------------------------------------------------------------------------------------------------------


def test_every_question_is_answered_in_plain_values(run: Run) -> None:
    async def scenario() -> None:
        desk = Desk()
        desk.cluster_info = ClusterInfo(
            "bats",
            "id",
            9,
            1,
            2,
            (Member(1, "h:1"),),
            (Partition(1, 0, 16_383, (1, 2), former=(Promise(4, 5, 6, 7, 8),)), Partition(2, 0, -1, ())),
        )
        async with served(desk) as (client, address, _):
            facts = MemberFacts("h:4", "c:4", "w:4", "r:4", {"zone": "a"}, 2.0, "1.0", ("split",))
            request = JoinRequest("token", "nonce", facts, "bats")
            joined = await client.join(address, request)
            assert (joined.node_id, joined.cluster_id, joined.settings) == (4, "id", {"partitions": "16"})
            assert joined.members[0] == Member(1, "h:1", weight=0.5)
            assert joined.members[1].labels == {"zone": "a"}
            assert joined.members[1].features == ("split",)
            assert await client.leave(address, LeaveRequest(4)) == LeaveAnswer(state="draining")
            assert await client.get_cluster_info(address) == desk.cluster_info
            assert (await client.get_node_info(address)).pid == 99
            assert await client.heartbeat(address, HeartbeatRequest(2, 5, "id", 41)) == HeartbeatAnswer(1, 77, 41)
            started = await client.start_migration(address, StartMigrationRequest(3, 1, 2, "by hand"))
            assert started.migration == MOVE
            progress = [each async for each in client.watch_migration(address, WatchMigrationRequest(7), WAIT_S)]
            assert [(each.migration.stage, each.bytes_sent) for each in progress] == [
                (Stage.PREPARE, 0),
                (Stage.PREPARE, 10),
                (Stage.PREPARE, 20),
                (Stage.DONE, 20),
            ]
            stopped = await client.cancel_migration(address, CancelMigrationRequest(7))
            assert stopped.migration.stage == Stage.ROLLBACK
            assert desk.asked[0] == request

    run(scenario())


def test_whoever_asks_for_health_is_told(run: Run) -> None:
    async def scenario() -> None:
        async with served(Desk()) as (_, address, server), grpc.aio.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            states = health_pb2.HealthCheckResponse
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == states.SERVING
            await server.set_serving(False)
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == states.NOT_SERVING

    run(scenario())


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("labels are wrong"),
        ProtocolError("that is no nonce"),
        UnavailableError("there is no leader"),
        RequestError("there is only forward"),
        TooLargeError("too many labels: 65"),
        OutcomeUnknownError("it was proposed, and the leader went"),
        StorageError("the disk is full"),
        InternalError("an invariant does not hold"),
    ],
    ids=lambda error: error.code,
)
def test_an_error_arrives_as_it_was_raised(run: Run, error: NoctuleError) -> None:
    """Whether to try again must not be guessed from a sentence."""

    async def scenario() -> None:
        async with served(Desk(error=error)) as (client, address, _):
            with pytest.raises(type(error)) as caught:
                await client.leave(address, LeaveRequest(1))
            assert type(caught.value) is type(error)
            assert str(caught.value) == str(error)
            with pytest.raises(type(error)):
                async for _ in client.watch_migration(address, WatchMigrationRequest(1), WAIT_S):
                    pass

    run(scenario())


def test_an_error_nobody_foresaw_is_logged_here_and_not_told_there(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A stack trace tells a stranger what we run."""

    async def scenario() -> None:
        desk = Desk(error=ZeroDivisionError("secret"))
        async with served(desk) as (client, address, _):
            with pytest.raises(InternalError) as caught:
                await client.leave(address, LeaveRequest(1))
            assert "secret" not in str(caught.value)
            assert "ZeroDivision" not in str(caught.value)
            (record,) = [each for each in caplog.records if each.msg == "control_call_failed"]
            assert record.exc_info
            desk.error = None
            assert await client.leave(address, LeaveRequest(1)) == LeaveAnswer(state="draining")

    run(scenario())


def test_where_nothing_listens_nothing_happened(run: Run) -> None:
    """Waiting for a node that is down would hold up whoever asks the next one."""

    async def scenario() -> None:
        with socket.create_server((HOST, 0)) as other:
            address = f"{HOST}:{other.getsockname()[1]}"
        client = ControlClient()
        with pytest.raises(UnavailableError, match=f"cannot reach the control service at {address}"):
            await client.leave(address, LeaveRequest(1), timeout_s=WAIT_S)
        await client.close()

    run(scenario())


def test_without_an_answer_the_fate_of_a_change_is_unknown(run: Run) -> None:
    async def scenario() -> None:
        desk = Desk(gate=asyncio.Event())
        async with served(desk) as (client, address, _):
            with pytest.raises(OutcomeUnknownError):
                await client.leave(address, LeaveRequest(1), timeout_s=0.2)
            with pytest.raises(UnavailableError):
                await client.get_node_info(address, timeout_s=0.2)
            # Nobody waits any more, so the handler is told to stop.
            await wait_until(lambda: desk.cancelled == 2)

    run(scenario())


def test_a_server_that_is_no_control_service_is_told_apart(run: Run) -> None:
    async def scenario() -> None:
        server = grpc.aio.server()
        port = server.add_insecure_port(f"{HOST}:0")
        await server.start()
        client = ControlClient()
        with pytest.raises(RequestError, match="does not offer this"):
            await client.get_node_info(f"{HOST}:{port}")
        await client.close()
        await server.stop(0)

    run(scenario())


# Bounds ---------------------------------------------------------------------------------------------------------------


def test_a_message_over_the_limit_is_refused_by_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_client, "CONTROL_MESSAGE_BYTES_MAX", 10_000)

    async def scenario() -> None:
        desk = Desk()
        desk.cluster_info = ClusterInfo("x" * 20_000, "id", 0, 1, 0)
        async with served(desk) as (client, address, _):
            with pytest.raises(TooLargeError, match="over the limit"):
                await client.get_cluster_info(address)
            assert (await client.get_node_info(address)).pid == 99

    run(scenario())


def test_one_call_too_many_is_told_to_try_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a bound, the first storm of joins decides how much memory a node has."""
    monkeypatch.setattr(control_server, "CONTROL_CALLS_MAX", 2)

    async def scenario() -> None:
        desk = Desk(gate=asyncio.Event())
        async with served(desk) as (client, address, _):
            calls = [asyncio.create_task(client.leave(address, LeaveRequest(1))) for _ in range(2)]
            await wait_until(lambda: len(desk.asked) == 2)
            with pytest.raises(UnavailableError):
                await client.leave(address, LeaveRequest(2))
            assert desk.gate is not None
            desk.gate.set()
            await asyncio.gather(*calls)
            assert len(desk.asked) == 2

    run(scenario())


def test_garbage_is_refused_and_harms_nobody(run: Run) -> None:
    async def scenario() -> None:
        async with served(Desk()) as (client, address, _):
            async with grpc.aio.insecure_channel(address) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(grpc_methods.JOIN.path)(b"\xff\xff\xff")
                assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            reader, writer = await asyncio.open_connection(HOST, int(address.rpartition(":")[2]))
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            while await reader.read(65_536):
                pass
            writer.close()
            assert (await client.get_node_info(address)).pid == 99

    run(scenario())


def test_channels_are_few(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_client, "CHANNELS_MAX", 2)

    async def scenario() -> None:
        channels = control_client.Channels(None, ())
        first = channels.get("a:1")
        channels.get("b:1")
        assert channels.get("a:1") is first
        channels.get("c:1")
        assert channels.get("a:1") is first  # It was b that had been unused for the longest.
        await channels.close()

    run(scenario())


# Ending ---------------------------------------------------------------------------------------------------------------


def test_a_stop_lets_calls_end_and_takes_no_more(run: Run) -> None:
    async def scenario() -> None:
        desk = Desk(gate=asyncio.Event())
        async with served(desk) as (client, address, server):
            call = asyncio.create_task(client.leave(address, LeaveRequest(1)))
            await wait_until(lambda: desk.asked)
            stopping = asyncio.create_task(server.stop(grace_s=WAIT_S))
            await asyncio.sleep(0.05)  # The stop has begun; the call must not notice.
            with pytest.raises(NoctuleError):
                await client.leave(address, LeaveRequest(2), timeout_s=1.0)
            assert desk.gate is not None
            desk.gate.set()
            assert await call == LeaveAnswer(state="draining")
            await stopping

    run(scenario())


def test_whoever_no_longer_watches_ends_the_watching(run: Run) -> None:
    async def scenario() -> None:
        desk = Desk(gate=asyncio.Event())
        async with (
            served(desk) as (client, address, _),
            aclosing(client.watch_migration(address, WatchMigrationRequest(7), WAIT_S)) as progress,
        ):
            async for each in progress:
                if each.bytes_sent == 20:
                    break
            await wait_until(lambda: desk.asked)
            await progress.aclose()
            await wait_until(lambda: desk.cancelled == 1)

    run(scenario())


def test_a_port_in_use_is_a_matter_of_settings(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with served(Desk()) as (_, address, _):
            another = ControlServer(Desk())
            with pytest.raises(ConfigError, match="choose another --control-port"):
                await another.start(HOST, int(address.rpartition(":")[2]))
            await another.stop(0)

    with caplog.at_level(logging.CRITICAL, logger="grpc"):
        run(scenario())
