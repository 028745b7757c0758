"""Requests through both sides' protocols without sockets: what a client is told when its instance dies answering."""

import asyncio
import random
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.adapters.system_clock import SystemClock
from noctule.gateway import attempt
from noctule.gateway.attempt import HELD_BYTES_MAX
from noctule.gateway.downstream import ClientConnection
from noctule.gateway.h2 import Http2Connection
from noctule.gateway.instances import Instance
from noctule.gateway.model import ActiveCheck, Compression, GatewayModel, Route, Service, Share
from noctule.gateway.orders import Orders
from noctule.gateway.pictures import InstancePicture
from noctule.gateway.plane import DataPlane
from noctule.gateway.traffic import Plan, Traffic
from noctule.gateway.upstream import InstanceConnection, Upstream

GET = b"GET /page HTTP/1.1\r\nHost: shop.example\r\nAccept-Encoding: gzip\r\n\r\n"
POST = b"POST /page HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 4\r\n\r\ndata"
PUT = POST.replace(b"POST", b"PUT")
BODY = b"all work and no play"


def answer(body: bytes = BODY, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\nContent-Type: text/plain\r\n\r\n%b" % (status, len(body), body)


class Wire(asyncio.Transport):
    """Keeps what is written, each write by itself."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.writes: list[bytes] = []
        self.is_aborted = False
        self.is_reading = True

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_aborted
        self.writes.append(bytes(data))

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(parts))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


class Instances(Upstream):
    """Whoever is connected to answers by hand; `asked` is each connection with a request, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[InstanceConnection] = []

    def take(self, instance: Instance) -> InstanceConnection | None:
        connection = super().take(instance)
        if connection is not None:
            self.asked.append(connection)
        return connection

    async def open(self, instance: Instance, timeout_s: float) -> InstanceConnection:
        connection = InstanceConnection(self, instance)
        connection.connection_made(Wire())
        self.asked.append(connection)
        return connection


@dataclass
class World:
    """A plane before instances that are played by the test, and one client."""

    plane: DataPlane
    instances: Instances
    client: ClientConnection
    wire: Wire

    async def ask(self, request: bytes = GET) -> InstanceConnection:
        """Who has the request."""
        before = len(self.instances.asked)
        self.client.data_received(request)
        return await self.asked(before + 1)

    async def asked(self, count: int = 2) -> InstanceConnection:
        """Who has it after so many were asked; nobody else is after that."""
        await turns()
        assert len(self.instances.asked) == count
        return self.instances.asked[-1]

    def picture(self, connection: InstanceConnection) -> InstancePicture:
        (service,) = self.plane.traffic.picture().services
        (found,) = (each for each in service.instances if each.id == connection.instance.id)
        return found


def begin(*, compression: bool = False) -> World:
    """Two instances, both well."""
    service = Service(name="app", instances=("127.0.0.1:9001", "127.0.0.1:9002"), check=ActiveCheck(enabled=False))
    model = GatewayModel(
        services=(service,),
        routes=(Route(name="app", shares=(Share("app"),)),),
        compression=Compression(enabled=compression, bytes_min=1),
    )
    plane = DataPlane(Traffic(Orders(model), SystemClock(), random.Random(0)))
    plane.upstream = instances = Instances()
    client, wire = ClientConnection(plane), Wire()
    client.connection_made(wire)
    return World(plane, instances, client, wire)


@pytest.fixture
async def world() -> World:
    return begin()


async def turns() -> None:
    """Let the loop do all it has to do at once."""
    for _ in range(5):
        await asyncio.sleep(0)


def told(wire: Wire) -> tuple[int, bytes, bytes]:
    """Status, attempts and body of the one answer, which is whole."""
    head, _, body = wire.written.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    tries = re.search(rb"X-Noctule-Gateway: (\d+)", head)
    assert tries is not None
    assert length is None or int(length[1]) == len(body)
    return int(head.split(b" ")[1]), tries[1], body


def die(connection: InstanceConnection) -> None:
    """As a killed process does: its end of the connection is closed."""
    connection.connection_lost(None)


# --- Held ---


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(answer())), st.sampled_from([GET, PUT]))
def test_wherever_an_answer_breaks_off_the_client_has_a_whole_one(cut: int, request_bytes: bytes) -> None:
    async def play() -> None:
        world = begin()
        first = await world.ask(request_bytes)
        first.data_received(answer()[:cut])
        if cut == len(answer()):
            assert told(world.wire) == (200, b"1", BODY)
            return
        assert world.wire.written == b""
        die(first)
        second = await world.asked()
        assert second.instance.id != first.instance.id
        second.data_received(answer(b"another"))
        assert told(world.wire) == (200, b"2", b"another")
        assert not world.wire.is_aborted
        assert (world.picture(first).failures, world.picture(second).failures) == (1, 0)
        await turns()
        assert not world.plane.exchanges
        assert world.plane.traffic.in_flight == 0

    asyncio.run(play())


async def test_an_answer_in_several_reads_is_one_write(world: World) -> None:
    instance = await world.ask()
    head, _, body = answer().partition(b"\r\n\r\n")
    for piece in (head + b"\r\n\r\n", body[:5], body[5:]):
        instance.data_received(piece)
    assert told(world.wire) == (200, b"1", BODY)
    assert len(world.wire.writes) == 1


@pytest.mark.parametrize("over", [0, 1])
async def test_an_answer_over_the_bound_passes_at_once(world: World, over: int) -> None:
    instance = await world.ask()
    whole = answer(b"x" * (HELD_BYTES_MAX + over))
    instance.data_received(whole[:-1])
    assert bool(world.wire.written) is bool(over)
    die(instance)
    await turns()
    assert world.wire.is_aborted is bool(over)
    assert len(world.instances.asked) == 2 - over
    assert world.picture(instance).failures == 1


async def test_without_another_instance_a_broken_answer_is_a_502(world: World) -> None:
    for _ in range(2):
        instance = await world.asked(2) if world.instances.asked else await world.ask()
        instance.data_received(answer()[:-1])
        die(instance)
    await turns()
    status, attempts, body = told(world.wire)
    assert (status, attempts) == (502, b"2")
    assert b'"retryable":true' in body
    assert b"before its answer was whole" in body


async def test_without_a_budget_a_broken_answer_is_a_502(world: World) -> None:
    plan = world.plane.traffic.plan("shop.example", "/", lambda _: None, "127.0.0.1")
    assert isinstance(plan, Plan)
    while plan.may_retry():
        pass
    instance = await world.ask()
    instance.data_received(answer()[:-1])
    die(instance)
    await turns()
    assert told(world.wire)[:2] == (502, b"1")
    assert world.plane.traffic.picture().services[0].retries_refused == 2


async def test_an_instance_that_always_breaks_off_is_taken_out(world: World) -> None:
    """Its heads, which do come, are no successes in between."""
    broken = (await world.ask()).instance
    world.instances.asked[0].data_received(answer())
    for _ in range(10):
        connection = await world.ask()
        if connection.instance == broken:
            connection.data_received(answer()[:-1])
            die(connection)
            await turns()
            connection = world.instances.asked[-1]
            assert connection.instance != broken
        connection.data_received(answer())
    assert world.picture(world.instances.asked[-1]).state == "healthy"
    (found,) = (each for each in world.plane.traffic.picture().services[0].instances if each.id == broken.id)
    assert (found.state, found.failures) == ("unhealthy", 3)


async def test_a_kept_connection_that_breaks_within_an_answer_is_the_instances_fault(world: World) -> None:
    """It was not closed before the request came, or nothing would have come back."""
    for _ in range(2):
        (await world.ask()).data_received(answer())
    kept = await world.ask()
    assert kept.was_kept
    kept.data_received(answer()[:-1])
    die(kept)
    other = await world.asked(4)
    assert other.instance.id != kept.instance.id
    assert world.picture(kept).failures == 1
    assert world.plane.traffic.picture().services[0].retries == 1


async def test_a_client_that_leaves_while_its_answer_is_held_ends_it(world: World) -> None:
    instance = await world.ask()
    instance.data_received(answer()[:-1])
    wire = instance.transport
    world.client.connection_lost(None)
    assert isinstance(wire, Wire)
    assert wire.is_aborted
    assert not world.plane.exchanges
    assert world.picture(instance).failures == 0


async def test_a_held_answer_is_compressed_as_others_are() -> None:
    world = begin(compression=True)
    first = await world.ask()
    first.data_received(answer()[:-1])
    die(first)
    (await world.asked()).data_received(answer(b"x" * 1000))
    head, _, body = world.wire.written.partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    packed = b""
    while size := int(body.partition(b"\r\n")[0], 16):
        body = body.partition(b"\r\n")[2]
        packed, body = packed + body[:size], body[size + 2 :]
    assert zlib.decompress(packed, 31) == b"x" * 1000


# --- Not held ---


async def test_an_answer_to_a_post_passes_at_once_and_is_not_tried_again(world: World) -> None:
    instance = await world.ask(POST)
    instance.data_received(answer()[:-1])
    assert world.wire.written.endswith(BODY[:-1])
    die(instance)
    await turns()
    assert world.wire.is_aborted
    assert len(world.instances.asked) == 1


async def test_a_stream_passes_piece_by_piece(world: World) -> None:
    instance = await world.ask()
    instance.data_received(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert world.wire.written.startswith(b"HTTP/1.1 200 OK\r\n")
    instance.data_received(b"9\r\ndata: 1\n\n\r\n")
    assert world.wire.written.endswith(b"9\r\ndata: 1\n\n\r\n")
    die(instance)
    await turns()
    assert world.wire.is_aborted
    assert len(world.instances.asked) == 1


async def test_an_answer_that_ends_with_its_connection_passes_piece_by_piece(world: World) -> None:
    instance = await world.ask()
    instance.data_received(b"HTTP/1.1 200 OK\r\n\r\nbegin")
    assert world.wire.written.endswith(b"5\r\nbegin\r\n")
    die(instance)
    assert world.wire.written.endswith(b"0\r\n\r\n")


async def test_a_body_that_pauses_is_held_for_its_time_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "HELD_S_MAX", 0.03)
    instance = await world.ask()
    instance.data_received(answer()[:-4])
    await turns()
    assert world.wire.written == b""
    async with asyncio.timeout(5):
        while not world.wire.written:
            await asyncio.sleep(0.005)
            # More of it does not prolong the time.
    assert world.wire.written.endswith(BODY[:-4])
    instance.data_received(BODY[-4:-2])
    assert world.wire.written.endswith(BODY[:-2])
    instance.data_received(BODY[-2:])
    assert told(world.wire) == (200, b"1", BODY)
    assert world.picture(instance).failures == 0


async def test_a_body_that_drips_is_held_no_longer_than_one_that_pauses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "HELD_S_MAX", 0.2)
    instance = await world.ask()
    dripping = answer(b"x" * 10_000)
    instance.data_received(dripping[:100])
    position = 100
    async with asyncio.timeout(5):
        while not world.wire.written:
            instance.data_received(dripping[position : position + 1])
            position += 1
            await asyncio.sleep(0.001)
    assert position < len(dripping)
    die(instance)
    await turns()
    assert world.wire.is_aborted, "the client has a part already"


async def test_an_instance_that_takes_the_request_late_does_not_prolong_the_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "HELD_S_MAX", 0.03)
    instance = await world.ask(PUT)
    instance.pause_writing()
    instance.data_received(answer()[:-1])
    instance.resume_writing()
    async with asyncio.timeout(5):
        while not world.wire.written:
            await asyncio.sleep(0.005)
    assert world.wire.written.endswith(BODY[:-1])


@pytest.mark.parametrize(
    ("request_bytes", "status", "length"),
    [(GET.replace(b"GET", b"HEAD"), b"200 OK", 9), (GET, b"204 No Content", None), (GET, b"304 Not Modified", 9)],
)
async def test_an_answer_without_a_body_does_not_wait_for_one(
    world: World, request_bytes: bytes, status: bytes, length: int | None
) -> None:
    instance = await world.ask(request_bytes)
    said = b"" if length is None else b"Content-Length: %d\r\n" % length
    instance.data_received(b"HTTP/1.1 %b\r\n%b\r\n" % (status, said))
    assert world.wire.written.startswith(b"HTTP/1.1 " + status)
    assert not world.plane.exchanges


async def test_early_hints_pass_before_an_answer_that_is_held(world: World) -> None:
    first = await world.ask()
    first.data_received(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" + answer()[:-1])
    assert world.wire.written.count(b"\r\n\r\n") == 1
    die(first)
    (await world.asked()).data_received(answer(b"another"))
    assert world.wire.written.startswith(b"HTTP/1.1 103")
    assert world.wire.written.endswith(b"another")


@pytest.mark.parametrize("length", [HELD_BYTES_MAX, 2 * HELD_BYTES_MAX])
async def test_a_connection_is_kept_reading_though_its_last_client_does_not(length: int) -> None:
    class Full(Wire):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            super().write(data)
            client.pause_writing()

    world = begin()
    client = ClientConnection(world.plane)
    client.connection_made(Full())
    client.data_received(GET)
    instance = await world.asked(1)
    instance.data_received(answer(b"x" * length))
    assert not world.plane.exchanges
    assert isinstance(instance.transport, Wire)
    assert instance.transport.is_reading


# --- HTTP/2 ---


async def test_http2_has_a_whole_answer_too(world: World) -> None:
    gateway, wire = Http2Connection(world.plane), Wire()
    gateway.connection_made(wire)
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    client.initiate_connection()
    pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", "shop.example"), (":path", "/")]
    for stream_id in (1, 3):
        client.send_headers(stream_id, pseudo, end_stream=True)
    gateway.data_received(client.data_to_send())
    await turns()
    first, second = world.instances.asked
    first.data_received(answer()[:-1])
    die(first)
    third = await world.asked(3)
    assert third.instance.id == second.instance.id
    third.data_received(answer(b"another"))
    second.data_received(answer()[:-1])
    die(second)
    fourth = await world.asked(4)
    fourth.data_received(answer()[:-1])
    die(fourth)
    found: dict[int, tuple[str, bytes]] = {}
    for event in client.receive_data(wire.written):
        match event:
            case h2.events.ResponseReceived():
                found[event.stream_id or 0] = (dict(event.headers or [])[":status"], b"")  # type: ignore[index]
            case h2.events.DataReceived():
                status, body = found[event.stream_id or 0]
                found[event.stream_id or 0] = (status, body + (event.data or b""))
            case h2.events.StreamReset():
                pytest.fail("a stream was cut")
    assert found[1] == ("200", b"another")
    assert found[3][0] == "502"
