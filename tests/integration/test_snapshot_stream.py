"""Pieces of snapshots over real sockets, on both event loops: in order, within the window, from known senders only."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from scenarios import Run
from test_control import Desk

from noctule.adapters import grpc_methods, snapshot_stream
from noctule.adapters.control_server import ControlServer
from noctule.adapters.proto.transfer_pb2 import Piece
from noctule.adapters.snapshot_stream import SnapshotSender, SnapshotService
from noctule.base.bounds import SNAPSHOT_PIECE_BYTES_MAX
from noctule.base.ids import GroupId
from noctule.core.raft.messages import Heartbeat, InstallSnapshot
from noctule.core.wire.frames import PROTOCOL_VERSION, encode_frame, encode_hello
from noctule.core.wire.messages import Hello

pytestmark = pytest.mark.integration

HOST = "127.0.0.1"
WAIT_S = 5.0
GROUP = GroupId(3)
SENDER = Hello(PROTOCOL_VERSION, "bats", "", 1, 7)


@dataclass
class Shelf:
    """A receiver that keeps what it is given."""

    pieces: list[tuple[int, GroupId, InstallSnapshot]] = field(default_factory=list)

    def snapshot_received(self, sender: int, group: GroupId, message: InstallSnapshot) -> None:
        self.pieces.append((sender, group, message))


@asynccontextmanager
async def receiving(shelf: Shelf, refusal: str = "", port: int = 0) -> AsyncIterator[str]:
    """The address of a server that fills the shelf."""
    server = ControlServer(Desk())
    server.add(SnapshotService(shelf, lambda _: refusal).handler())
    bound = await server.start(HOST, port)
    try:
        yield f"{HOST}:{bound}"
    finally:
        await server.stop(grace_s=0)


@asynccontextmanager
async def sending(address: str, *, is_compressed: bool = False) -> AsyncIterator[SnapshotSender]:
    """A sender that knows the address as node 2."""
    sender = SnapshotSender(lambda: SENDER, is_compressed=is_compressed)
    sender.set_peers({2: address})
    try:
        yield sender
    finally:
        await sender.close()


def piece(offset: int, size: int = 100) -> InstallSnapshot:
    return InstallSnapshot(1, 50, 1, offset, 1 << 30, offset.to_bytes(4, "big") * (size // 4))


async def wait_until(condition: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.002)  # Between two looks.


@pytest.mark.parametrize("is_compressed", [False, True], ids=["plain", "gzip"])
def test_pieces_arrive_in_order_and_make_room(run: Run, is_compressed: bool) -> None:
    async def scenario() -> None:
        shelf = Shelf()
        async with receiving(shelf) as address, sending(address, is_compressed=is_compressed) as sender:
            pieces = [piece(offset, size) for offset, size in enumerate([0, 4, 100_000, 8, 2_000_000, 12, 4_096])]
            for each in pieces:
                assert sender.send(2, GROUP, each)
            assert sender.bytes_on_their_way(2) > 2_100_000
            await wait_until(lambda: len(shelf.pieces) == len(pieces))
            assert shelf.pieces == [(1, GROUP, each) for each in pieces]
            await wait_until(lambda: sender.bytes_on_their_way(2) == 0)

    run(scenario())


def test_more_than_the_window_is_dropped_until_there_is_room(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that takes its time must cost a bounded piece of memory."""
    monkeypatch.setattr(snapshot_stream, "SNAPSHOT_WINDOW_BYTES", 1_000_000)

    async def scenario() -> None:
        shelf = Shelf()
        async with receiving(shelf) as address, sending(address) as sender:
            taken = 0
            while sender.send(2, GROUP, piece(taken, 100_000)):
                taken += 1
                assert taken < 100, "a full window takes no more"
            assert taken == 9
            await wait_until(lambda: sender.send(2, GROUP, piece(taken, 100_000)))
            await wait_until(lambda: len(shelf.pieces) == 10)
            await wait_until(lambda: sender.bytes_on_their_way(2) == 0)
            assert sender.send(2, GROUP, piece(99, 1_500_000))  # Larger than the window: alone.
            await wait_until(lambda: len(shelf.pieces) == 11)

    run(scenario())


def test_some_time_after_a_break_the_next_piece_opens_another_stream(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_stream, "BROKEN_S", 0.2)

    async def scenario() -> None:
        shelf = Shelf()
        async with receiving(shelf) as address, sending(address) as sender:
            assert sender.send(2, GROUP, piece(1))
            await wait_until(lambda: shelf.pieces)
            port = int(address.rpartition(":")[2])
        async with sending(address) as sender:
            assert sender.send(2, GROUP, piece(2))  # Nobody is there, and it is lost.
            await wait_until(lambda: sender.bytes_on_their_way(2) == 0)
            assert [each.msg for each in caplog.records].count("snapshot_stream_broken") == 1
            assert not sender.send(2, GROUP, piece(3))  # Whoever sends it has another way.
            async with receiving(shelf, port=port):
                await wait_until(lambda: sender.send(2, GROUP, piece(3)))
                await wait_until(lambda: len(shelf.pieces) == 2)
                assert shelf.pieces[1] == (1, GROUP, piece(3))

    run(scenario())


def test_the_receiver_s_end_is_noticed_and_what_waited_is_dropped(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        shelf = Shelf()
        async with receiving(shelf) as address:
            sender = SnapshotSender(lambda: SENDER)
            sender.set_peers({2: address})
            assert sender.send(2, GROUP, piece(1))
            await wait_until(lambda: shelf.pieces)
        await wait_until(lambda: "snapshot_stream_broken" in [each.msg for each in caplog.records])
        assert sender.bytes_on_their_way(2) == 0
        await sender.close()

    run(scenario())


def test_a_stranger_is_told_why_it_is_refused(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        shelf = Shelf()
        async with receiving(shelf, "node 1 is not a member") as address, sending(address) as sender:
            assert sender.send(2, GROUP, piece(1))
            await wait_until(lambda: sender.bytes_on_their_way(2) == 0)
            assert shelf.pieces == []
            told = [
                each.__dict__["fields"]["reason"] for each in caplog.records if each.msg == "snapshot_stream_broken"
            ]
            assert told == ["node 1 is not a member"]

    run(scenario())


def test_a_node_that_is_not_known_gets_nothing(run: Run) -> None:
    async def scenario() -> None:
        shelf = Shelf()
        async with receiving(shelf) as address, sending(address) as sender:
            assert not sender.send(9, GROUP, piece(1))
            assert sender.send(2, GROUP, piece(1))
            await wait_until(lambda: shelf.pieces)
            sender.set_peers({})
            assert not sender.send(2, GROUP, piece(2))
            await wait_until(lambda: not [t for t in asyncio.all_tasks() if t.get_name().startswith("snapshots")])

    run(scenario())


def test_an_idle_stream_is_closed_and_opened_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_stream, "IDLE_S_MAX", 0.05)

    async def scenario() -> None:
        shelf = Shelf()
        async with receiving(shelf) as address, sending(address) as sender:
            for number in (1, 2):
                assert sender.send(2, GROUP, piece(number))
                await wait_until(lambda: len(shelf.pieces) == number)  # noqa: B023, used at once
                await wait_until(lambda: not [t for t in asyncio.all_tasks() if t.get_name() == "snapshots to 2"])

    run(scenario())


async def ending(call: Any) -> grpc.StatusCode:
    """How the other side ended a stream, after everything that it sent."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass
    code: grpc.StatusCode = await call.code()
    return code


HELLO = Piece(message=encode_hello(SENDER))
BOMB = gzip.compress(encode_frame([(3, InstallSnapshot(1, 50, 1, 0, 1, bytes(SNAPSHOT_PIECE_BYTES_MAX)))]))


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"\xff\xff"], id="no piece"),
        pytest.param([Piece(message=b"x" * 100)], id="no Hello"),
        pytest.param([HELLO, Piece(number=1, message=b"x" * 100)], id="no frame"),
        pytest.param([HELLO, Piece(number=1, message=encode_frame([(1, Heartbeat(1, 2, 3))]))], id="no snapshot"),
        pytest.param([HELLO, Piece(number=1, message=b"x" * 100, gzip=True)], id="no gzip"),
        pytest.param([HELLO, Piece(number=1, message=BOMB, gzip=True)], id="a bomb"),
        pytest.param([HELLO, Piece(number=1, message=BOMB[:-9], gzip=True)], id="half a bomb"),
    ],
)
def test_garbage_ends_its_stream_and_harms_nobody(run: Run, pieces: list[Any]) -> None:
    async def scenario() -> None:
        shelf = Shelf()
        async with receiving(shelf) as address, sending(address) as sender:
            async with grpc.aio.insecure_channel(address) as channel:
                call = channel.stream_stream(grpc_methods.SEND_SNAPSHOTS)()
                for each in pieces:
                    await call.write(each if isinstance(each, bytes) else each.SerializeToString())
                assert await ending(call) == grpc.StatusCode.INVALID_ARGUMENT
            assert shelf.pieces == []
            assert sender.send(2, GROUP, piece(1))
            await wait_until(lambda: shelf.pieces)

    run(scenario())
