"""Peers over real sockets, on both event loops: frames in order, peers that come back, and those that must not talk."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import google_crc32c
import msgspec
import pytest
from scenarios import Run

from noctule.adapters import transport as transport_module
from noctule.adapters.transport import PeerTransport
from noctule.base.errors import ConfigError
from noctule.core.raft.messages import Heartbeat
from noctule.core.wire.frames import PROTOCOL_VERSION, FrameReader, decode_hello, encode_frame, encode_hello
from noctule.core.wire.messages import Envelope, Forward, Hello

pytestmark = pytest.mark.integration

HOST = "127.0.0.1"
WAIT_S = 5.0


@dataclass
class Ear:
    """A receiver that notes what it is told, in order."""

    events: list[tuple[str, int]] = field(default_factory=list)
    """("connected", incarnation) and ("disconnected", node)."""
    frames: list[tuple[int, list[Envelope]]] = field(default_factory=list)

    def frame_received(self, sender: int, envelopes: list[Envelope]) -> None:
        self.frames.append((sender, envelopes))

    def peer_connected(self, hello: Hello) -> None:
        self.events.append(("connected", hello.incarnation))

    def peer_disconnected(self, node: int) -> None:
        self.events.append(("disconnected", node))


@dataclass
class Node:
    """One node's transport, listening."""

    id: int
    ear: Ear
    transport: PeerTransport
    port: int

    def hears(self, sender: int) -> list[list[Envelope]]:
        """The frames of one sender, in order."""
        return [envelopes for each, envelopes in self.ear.frames if each == sender]


def hello_of(node: int, **changes: object) -> Hello:
    own = Hello(
        PROTOCOL_VERSION, "bats", "fingerprint", node, 1_000 + node, f"resp-{node}", f"http-{node}", cluster_id="A"
    )
    return msgspec.structs.replace(own, **changes)


@asynccontextmanager
async def nodes(*hellos: Hello, dial: bool = True) -> AsyncIterator[list[Node]]:
    """Transports that know each other's ports and dial each other; closed in the end."""
    started: list[Node] = []
    try:
        for hello in hellos:
            started += [await listening(hello)]
        for node in started:
            acquaint(node, *started)
            if dial:
                node.transport.dial()
        yield started
    finally:
        for node in started:
            await node.transport.close()


async def listening(hello: Hello, port: int = 0) -> Node:
    ear = Ear()
    transport = PeerTransport(hello, ear, random.Random(hello.node_id))
    return Node(hello.node_id, ear, transport, await transport.listen(HOST, port))


def acquaint(node: Node, *others: Node) -> None:
    learn(node, {other.id: other.port for other in others if other is not node})


def learn(node: Node, ports: dict[int, int]) -> None:
    """Have a node know further peers, by their ports."""
    node.transport.set_peers({**node.transport.peers, **{other: (HOST, port) for other, port in ports.items()}})


async def wait_until(condition: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.002)  # Between two looks.


@asynccontextmanager
async def caller(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A plain connection to a node."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def is_closed(reader: asyncio.StreamReader, within_s: float = WAIT_S) -> bytes:
    """What still came before the other side closed; a TimeoutError when it does not."""
    received = b""
    async with asyncio.timeout(within_s):
        try:
            while piece := await reader.read(65_536):
                received += piece
        except ConnectionError:
            pass
    return received


class Silent(asyncio.Protocol):
    """Accepts and never reads beyond what it must: answers the first bytes with a Hello if it has one."""

    def __init__(self, hello: Hello | None, seen: list["Silent"]) -> None:
        self.received = bytearray()
        self.is_lost = False
        self.transport: asyncio.Transport
        self._hello = hello
        seen.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self._hello is not None:
            self.transport.write(encode_hello(self._hello))
            self.transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True


@asynccontextmanager
async def silent_server(hello: Hello | None = None) -> AsyncIterator[tuple[int, list[Silent]]]:
    """A server of such connections: its port, and those that were made."""
    seen: list[Silent] = []
    server = await asyncio.get_running_loop().create_server(lambda: Silent(hello, seen), HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()
        for connection in seen:
            connection.transport.abort()


# Frames ---------------------------------------------------------------------------------------------------------------


def test_frames_of_every_pair_arrive_whole_and_in_order(run: Run) -> None:
    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(2), hello_of(3)) as group:
            await wait_until(lambda: all(len(node.ear.events) == 2 for node in group))
            sizes = [0, 1, 100, 70_000, 3, 2_000_000, 5]
            for node in group:
                for other in group:
                    for number, size in enumerate(sizes):
                        if other is not node:
                            frame = encode_frame([(number, Forward(node.id, other.id, b"x" * size))])
                            assert node.transport.send(other.id, frame)
            await wait_until(lambda: all(len(node.ear.frames) == 2 * len(sizes) for node in group))
            for node in group:
                for other in group:
                    if other is not node:
                        sent = [[(at, Forward(other.id, node.id, b"x" * size))] for at, size in enumerate(sizes)]
                        assert node.hears(other.id) == sent
            assert [node.transport.frames_dropped for node in group] == [0, 0, 0]

    run(scenario())


def test_a_peer_says_where_clients_find_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        heard: list[Hello] = []
        async with nodes(hello_of(1), hello_of(2)) as (one, _):
            monkeypatch.setattr(one.ear, "peer_connected", heard.append)
            await wait_until(lambda: heard)
            assert heard == [hello_of(2)]

    run(scenario())


def test_a_frame_for_a_peer_that_is_away_is_dropped_and_counted(run: Run) -> None:
    """Kept for later it would be a past that nobody wants any more."""

    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(2), dial=False) as (one, two):
            assert not one.transport.send(2, encode_frame([]))
            assert not one.transport.send(77, encode_frame([]))
            assert one.transport.frames_dropped == 2
            assert two.ear.frames == []

    run(scenario())


# Coming and going -----------------------------------------------------------------------------------------------------


def test_a_peer_that_comes_back_is_missed_at_once_and_found_again(run: Run) -> None:
    """A group whose leader's process ends must not wait for a timeout to notice."""

    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(2)) as group:
            one, two = group
            await wait_until(lambda: one.transport.is_connected(2) and two.transport.is_connected(1))
            await two.transport.close()
            await wait_until(lambda: ("disconnected", 2) in one.ear.events)
            await wait_until(lambda: not one.transport.is_connected(2))
            assert not one.transport.send(2, encode_frame([]))
            again = await listening(hello_of(2, incarnation=5), two.port)
            group.append(again)
            acquaint(again, one)
            again.transport.dial()
            await wait_until(lambda: ("connected", 5) in one.ear.events and again.transport.is_connected(1))
            assert one.ear.events[0] == ("connected", 1_002)
            assert one.ear.events[-1] == ("connected", 5)
            assert set(one.ear.events[1:-1]) == {("disconnected", 2)}
            one.transport.send(2, encode_frame([(1, Heartbeat(1, 2, 3))]))
            again.transport.send(1, encode_frame([(4, Heartbeat(5, 6, 7))]))
            await wait_until(lambda: again.ear.frames and one.ear.frames)
            assert again.ear.frames == [(1, [(1, Heartbeat(1, 2, 3))])]
            assert one.ear.frames == [(2, [(4, Heartbeat(5, 6, 7))])]

    run(scenario())


def test_a_new_incarnation_tells_that_the_old_process_is_gone(run: Run) -> None:
    """A process that was frozen and replaced has closed nothing; its groups would wait for its old connection."""

    async def scenario() -> None:
        async with nodes(hello_of(1), dial=False) as (one,):
            learn(one, {2: 1})
            async with caller(one.port) as (_, first), caller(one.port) as (_, second), caller(one.port) as (_, third):
                first.write(encode_hello(hello_of(2, incarnation=7)) + encode_frame([(1, Heartbeat(1, 1, 1))]))
                await wait_until(lambda: one.ear.frames)
                second.write(encode_hello(hello_of(2, incarnation=7)) + encode_frame([(1, Heartbeat(2, 2, 2))]))
                await wait_until(lambda: len(one.ear.frames) == 2)
                assert one.ear.events == [("disconnected", 2)]  # The same process dialled twice.
                third.write(encode_hello(hello_of(2, incarnation=8)) + encode_frame([(1, Heartbeat(3, 3, 3))]))
                await wait_until(lambda: len(one.ear.frames) == 3)
                assert one.ear.events == [("disconnected", 2)] * 2
                second.transport.abort()  # That the old one closes at last is no news.
                await wait_until(lambda: len(one.transport.accepted) == 1)
                assert one.ear.events == [("disconnected", 2)] * 2

    run(scenario())


def test_who_leaves_in_the_middle_of_a_handshake_leaves_no_socket_behind(run: Run) -> None:
    """The dialler was cancelled and its connection stayed open until the handshake's timeout."""

    async def scenario() -> None:
        async with silent_server() as (port, seen), nodes(hello_of(1), dial=False) as (one,):
            learn(one, {2: port})
            one.transport.dial()
            await wait_until(lambda: seen and seen[0].received)
            assert transport_module.HANDSHAKE_TIMEOUT_S >= 1.0
            await one.transport.close()
            async with asyncio.timeout(0.5):
                await wait_until(lambda: seen[0].is_lost)

    run(scenario())


def test_closing_ends_every_connection_and_task(run: Run) -> None:
    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(2)) as (one, two):
            await wait_until(lambda: one.transport.is_connected(2) and two.transport.is_connected(1))
            await one.transport.close()
            await wait_until(lambda: not two.transport.is_connected(1) and not two.transport.accepted)
            names = {task.get_name() for task in asyncio.all_tasks()}
            assert {name for name in names if name.startswith("dial")} == {"dial node 1"}  # The other one's.
            with pytest.raises(OSError):  # noqa: PT011, the message is the system's
                await asyncio.open_connection(HOST, one.port)

    run(scenario())


# Peers that are let in and taken out ----------------------------------------------------------------------------------


def test_a_peer_that_is_let_in_while_running_is_found_by_both(run: Run) -> None:
    """A node that joins dials before everyone has heard of it; it must not have to be started again."""

    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(2)) as group:
            one, two = group
            group.append(new := await listening(hello_of(3)))
            acquaint(new, one, two)
            new.transport.dial()
            await wait_until(lambda: len(new.transport.refusals) == 2)
            assert new.transport.refusals[1] == "node 3 is not a member of the cluster of node 1"
            for node in (one, two):
                acquaint(node, new)
            await wait_until(lambda: all(node.transport.is_connected(3) for node in (one, two)))
            await wait_until(lambda: new.transport.is_connected(1) and new.transport.is_connected(2))
            assert new.transport.refusals == {}
            one.transport.send(3, encode_frame([(1, Heartbeat(1, 2, 3))]))
            new.transport.send(2, encode_frame([(1, Heartbeat(4, 5, 6))]))
            await wait_until(lambda: new.ear.frames and two.ear.frames)

    run(scenario())


def test_a_peer_that_is_taken_out_is_cut_off_and_kept_out(run: Run) -> None:
    """A removed node that is still heard goes on acknowledging what it no longer holds."""

    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(2), hello_of(3)) as (one, two, three):
            await wait_until(lambda: all(len(node.ear.events) == 2 for node in (one, two, three)))
            await wait_until(lambda: len(one.transport.accepted) == 2)
            one.transport.set_peers({3: (HOST, three.port)})
            assert not one.transport.is_connected(2)
            assert not one.transport.send(2, encode_frame([]))
            assert one.ear.events[2:] == []  # Whoever calls is not called back within its call.
            await wait_until(lambda: one.ear.events[2:])
            assert set(one.ear.events[2:]) == {("disconnected", 2)}
            await wait_until(lambda: 1 in two.transport.refusals)
            assert two.transport.refusals == {1: "node 2 is not a member of the cluster of node 1"}
            assert not two.transport.is_connected(1)
            assert one.transport.refusals == {}
            assert one.transport.is_connected(3)
            assert two.transport.is_connected(3)
            names = {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("dial")}
            assert names == {"dial node 1", "dial node 2", "dial node 3"}  # Node 2 is dialled by node 3.

    run(scenario())


def test_a_peer_whose_address_changed_is_dialled_there(run: Run) -> None:
    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(2), dial=False) as group:
            one, two = group
            one.transport.dial()
            await wait_until(lambda: one.transport.is_connected(2))
            group.append(moved := await listening(hello_of(2, incarnation=9)))
            acquaint(moved, one)
            learn(one, {2: moved.port})
            assert not one.transport.is_connected(2)
            await wait_until(lambda: one.transport.is_connected(2))
            await wait_until(lambda: not two.transport.accepted)
            assert one.ear.events[0] == ("connected", 1_002)
            assert one.ear.events[-1] == ("connected", 9)
            assert set(one.ear.events[1:-1]) == {("disconnected", 2)}
            one.transport.send(2, encode_frame([(1, Heartbeat(1, 2, 3))]))
            await wait_until(lambda: moved.ear.frames)
            assert two.ear.frames == []

    run(scenario())


def test_the_same_peers_once_more_change_nothing(run: Run) -> None:
    """The map of the cluster is told again and again; connections must outlive that."""

    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(2)) as (one, two):
            await wait_until(lambda: one.transport.is_connected(2) and two.transport.is_connected(1))
            for _ in range(3):
                one.transport.set_peers(dict(one.transport.peers))
                await asyncio.sleep(0)
            one.transport.send(2, encode_frame([(1, Heartbeat(1, 2, 3))]))
            await wait_until(lambda: two.ear.frames)
            assert (one.ear.events, two.ear.events) == ([("connected", 1_002)], [("connected", 1_001)])

    run(scenario())


def test_peers_that_were_taken_out_leave_no_task_and_no_socket_behind(run: Run) -> None:
    async def scenario() -> None:
        async with silent_server() as (port, seen), nodes(hello_of(1)) as (one,):
            for node in range(2, 7):
                one.transport.set_peers({node: (HOST, port)})
                await wait_until(lambda: len(seen) == node - 1 and seen[-1].received)  # noqa: B023, used at once
            one.transport.set_peers({})
            await wait_until(lambda: all(each.is_lost for each in seen))
            assert [task for task in asyncio.all_tasks() if task.get_name().startswith("dial")] == []

    run(scenario())


def test_what_a_stranger_is_told_is_logged_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A removed node dials for ever; its complaint filled the log."""

    async def scenario() -> None:
        async with nodes(hello_of(1), dial=False) as (one,):
            for node in (8, 8, 9, 8, 9):
                async with caller(one.port) as (reader, writer):
                    writer.write(encode_hello(hello_of(node)))
                    await is_closed(reader)
            told = [record.__dict__["fields"]["peer"] for record in caplog.records if record.msg == "peer_refused"]
            assert told == [8, 9]

    run(scenario())


# Those that must not talk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        pytest.param(hello_of(2, cluster="owls"), "node 1 is of cluster 'bats', node 2 of 'owls'", id="cluster"),
        pytest.param(hello_of(2, fingerprint="x"), "different cluster settings (voters, partitions)", id="settings"),
        pytest.param(hello_of(2, cluster_id="B"), "two clusters that are both called 'bats': A and B", id="cluster id"),
        pytest.param(
            hello_of(2, protocol=99), f"node 1 speaks protocol {hello_of(1).protocol}, node 2 speaks 99", id="protocol"
        ),
    ],
)
def test_a_node_of_another_kind_is_refused_and_both_know_why(run: Run, other: Hello, reason: str) -> None:
    """Two clusters that mix their logs lose both."""

    async def scenario() -> None:
        async with nodes(hello_of(1), other) as (one, two):
            await wait_until(lambda: 2 in one.transport.refusals and 1 in two.transport.refusals)
            assert reason in one.transport.refusals[2]
            assert two.transport.refusals[1] == one.transport.refusals[2], "whoever spoke first"
            assert not one.transport.is_connected(2)
            assert not two.transport.is_connected(1)
            assert (one.ear.events, two.ear.events) == ([], [])
            # Once an operator has put it right, they find each other and the complaint is gone.
            two.transport.hello = hello_of(2)
            await wait_until(lambda: one.transport.is_connected(2) and two.transport.is_connected(1))
            assert (one.transport.refusals, two.transport.refusals) == ({}, {})

    run(scenario())


@pytest.mark.parametrize(
    "changes", [pytest.param({"fingerprint": ""}, id="settings"), pytest.param({"cluster_id": ""}, id="cluster id")]
)
def test_what_one_of_two_does_not_know_does_not_part_them(run: Run, changes: dict[str, object]) -> None:
    """A node that joined was given its settings, and one of an older release knows no id of its cluster."""

    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(2, **changes)) as (one, two):
            await wait_until(lambda: one.transport.is_connected(2) and two.transport.is_connected(1))

    run(scenario())


def test_two_processes_of_one_id_are_told_so(run: Run) -> None:
    """A copied service file: both would vote with one voice."""

    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(2), dial=False) as (one, two):
            two.transport.hello = hello_of(1, incarnation=9)
            one.transport.dial()
            await wait_until(lambda: one.transport.refusals)
            assert one.transport.refusals == {2: "two processes call themselves node 1"}
            assert two.transport.refusals == {1: "two processes call themselves node 1"}

    run(scenario())


def test_a_stranger_is_refused(run: Run) -> None:
    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(9), dial=False) as (one, stranger):
            one.transport.set_peers({})
            stranger.transport.dial()
            await wait_until(lambda: stranger.transport.refusals)
            assert stranger.transport.refusals == {1: "node 9 is not a member of the cluster of node 1"}
            assert one.ear.events == []

    run(scenario())


def test_addresses_that_were_exchanged_are_noticed(run: Run) -> None:
    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(2), dial=False) as (one, two):
            learn(one, {3: two.port})
            one.transport.dial()
            await wait_until(lambda: 3 in one.transport.refusals and one.transport.is_connected(2))
            assert one.transport.refusals == {3: "node 2 answers at the address of node 3"}
            assert not one.transport.is_connected(3)

    run(scenario())


# Those that cannot talk -----------------------------------------------------------------------------------------------


def framed(body: bytes) -> bytes:
    """A frame whose checksum is right, whatever is in it."""
    return len(body).to_bytes(4, "big") + int(google_crc32c.extend(0, body)).to_bytes(4, "big") + body


INTRODUCTION = encode_hello(hello_of(2))


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="a browser"),
        pytest.param(b"*1\r\n$4\r\nPING\r\n", id="a Redis client"),
        pytest.param(bytes(range(255, -1, -1)) * 64, id="noise"),
        pytest.param(framed(b""), id="an empty frame instead of a Hello"),
        pytest.param(encode_frame([(1, Heartbeat(1, 2, 3))]), id="a frame before the Hello"),
        pytest.param(framed(b"\x81\xa1x" + b"\x91" * 9_000 + b"\x00"), id="a Hello that nests for ever"),
        pytest.param(INTRODUCTION + encode_frame([])[:-1] + b"?", id="a damaged frame"),
        pytest.param(INTRODUCTION + b"\xff\xff\xff\xff" + bytes(4), id="a frame of four gigabytes"),
        pytest.param(INTRODUCTION + framed(b"\x91" * 9_000 + b"\x00"), id="a frame that nests for ever"),
        pytest.param(INTRODUCTION * 2, id="a second Hello"),
    ],
)
def test_a_connection_with_garbage_is_cut_off_and_harms_nobody(run: Run, garbage: bytes) -> None:
    """Port scanners come by; a node must not even stumble."""

    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(2)) as (one, two):
            await wait_until(lambda: one.transport.is_connected(2) and two.transport.is_connected(1))
            async with caller(one.port) as (reader, writer):
                writer.write(garbage)
                await is_closed(reader)
            # Whose word is garbage had taken the place of node 2 where it called itself so; then node 2 dials again.
            await wait_until(lambda: len(one.transport.accepted) == 1 and two.transport.is_connected(1))
            two.transport.send(1, encode_frame([(1, Heartbeat(4, 5, 6))]))
            one.transport.send(2, encode_frame([(1, Heartbeat(7, 8, 9))]))
            await wait_until(lambda: one.ear.frames and two.ear.frames)
            assert one.ear.frames == [(2, [(1, Heartbeat(4, 5, 6))])]
            assert two.ear.frames == [(1, [(1, Heartbeat(7, 8, 9))])]

    run(scenario())


def test_whoever_says_nothing_is_not_kept_for_long(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that were opened and forgotten used up the descriptors."""
    monkeypatch.setattr(transport_module, "HANDSHAKE_TIMEOUT_S", 0.1)

    async def scenario() -> None:
        async with nodes(hello_of(1), dial=False) as (one,), caller(one.port) as (reader, _):
            await wait_until(lambda: one.transport.accepted)
            assert await is_closed(reader) == b""
            await wait_until(lambda: not one.transport.accepted)

    run(scenario())


def test_a_peer_that_does_not_answer_the_hello_is_dialled_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "HANDSHAKE_TIMEOUT_S", 0.1)

    async def scenario() -> None:
        async with silent_server() as (port, seen), nodes(hello_of(1), dial=False) as (one,):
            learn(one, {2: port})
            one.transport.dial()
            await wait_until(lambda: len(seen) >= 2 and seen[1].received)
            assert seen[0].is_lost
            (body,) = FrameReader().feed(bytes(seen[1].received))
            assert decode_hello(body) == hello_of(1)
            assert not one.transport.is_connected(2)

    run(scenario())


def test_the_handshake_s_timeout_does_not_cut_what_was_introduced(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "HANDSHAKE_TIMEOUT_S", 0.05)

    async def scenario() -> None:
        async with nodes(hello_of(1), hello_of(2)) as (one, two):
            await wait_until(lambda: one.transport.is_connected(2) and two.transport.is_connected(1))
            await asyncio.sleep(0.15)  # Nothing must happen in this time, so there is nothing to wait for.
            assert (one.ear.events, two.ear.events) == ([("connected", 1_002)], [("connected", 1_001)])

    run(scenario())


def test_what_a_stuck_peer_does_not_take_is_dropped_and_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is paused must cost a bounded piece of memory, and the others nothing."""
    limit, frame = 1_000_000, encode_frame([(1, Forward(1, 1, b"x" * 100_000))])
    monkeypatch.setattr(transport_module, "SEND_BUFFER_BYTES_MAX", limit)

    async def scenario() -> None:
        async with silent_server(hello_of(3)) as (port, _), nodes(hello_of(1), hello_of(2), dial=False) as (one, two):
            learn(one, {3: port})
            one.transport.dial()
            await wait_until(lambda: one.transport.is_connected(3) and one.transport.is_connected(2))
            taken = 0
            while one.transport.send(3, frame):
                taken += 1
                assert taken < 1_000, "a full buffer takes no more"
                await asyncio.sleep(0)  # Let the kernel have what it takes.
            assert taken * len(frame) > limit
            assert one.transport.frames_dropped == 1
            assert not one.transport.send(3, frame)
            assert one.transport.frames_dropped == 2
            assert one.transport.send(2, frame)
            await wait_until(lambda: two.ear.frames)

    run(scenario())


def test_a_port_in_use_is_a_matter_of_settings(run: Run) -> None:
    async def scenario() -> None:
        with socket.create_server((HOST, 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(ConfigError) as caught:
                await listening(hello_of(1), port)
            assert f"cannot listen for peers on {HOST}:{port}: " in str(caught.value)
            assert "choose another --peer-port" in str(caught.value)
            assert "\n" not in str(caught.value)

    run(scenario())
