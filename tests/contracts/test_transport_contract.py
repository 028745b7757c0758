"""What every transport does, whatever it is made of: frames in order, peers that come and go, strangers kept out."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass

import google_crc32c
import msgspec
import pytest
import uvloop
from transport_kinds import HOST, Caller, Ear, Framed, Grpc, Kind, Memory

from noctule.adapters.peer_connections import PeerConnections, refusal_of
from noctule.adapters.transport_port import Transport
from noctule.base.errors import ConfigError
from noctule.core.raft.messages import Heartbeat
from noctule.core.wire.frames import PROTOCOL_VERSION, encode_frame, encode_hello
from noctule.core.wire.messages import Envelope, Forward, Hello

pytestmark = pytest.mark.integration

WAIT_S = 10.0
SCENARIO_S = 40.0

Run = Callable[[Callable[[Kind], Coroutine[None, None, None]]], None]
KINDS = [
    pytest.param((Memory, asyncio.new_event_loop), id="memory"),
    pytest.param((Framed, uvloop.new_event_loop), id="framed"),
    pytest.param((Grpc, asyncio.new_event_loop), id="grpc-asyncio"),
    pytest.param((Grpc, uvloop.new_event_loop), id="grpc-uvloop"),
]


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a scenario with one kind; whatever the loop had to swallow on the way is an error, too."""
    kind, new_loop = request.param

    def run_scenario(scenario: Callable[[Kind], Coroutine[None, None, None]]) -> None:
        swallowed: list[dict[str, object]] = []
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: swallowed.append(context))
            runner.run(asyncio.wait_for(scenario(kind()), SCENARIO_S))
        # gRPC's one poller may have had news for the loop of a test before, which is closed; a node has one loop.
        assert [each for each in swallowed if "PollerCompletionQueue" not in str(each["message"])] == []

    return run_scenario


@dataclass
class Node:
    """One node's transport, listening."""

    id: int
    ear: Ear
    transport: PeerConnections
    port: int

    def hears(self, sender: int) -> list[list[Envelope]]:
        return [envelopes for each, envelopes in self.ear.frames if each == sender]


def hello_of(node: int, **changes: object) -> Hello:
    own = Hello(PROTOCOL_VERSION, "bats", "fingerprint", node, 1_000 + node, cluster_id="A")
    return msgspec.structs.replace(own, **changes)


async def listening(kind: Kind, hello: Hello, port: int = 0) -> Node:
    ear = Ear()
    transport = kind.make(hello, ear)
    as_the_port_has_it: Transport = transport
    return Node(hello.node_id, ear, transport, await as_the_port_has_it.listen(HOST, port))


@asynccontextmanager
async def nodes(kind: Kind, *hellos: Hello, dial: bool = True) -> AsyncIterator[list[Node]]:
    """Transports that know each other's ports and dial each other; closed in the end."""
    started: list[Node] = []
    try:
        for hello in hellos:
            started += [await listening(kind, hello)]
        for node in started:
            acquaint(node, *started)
            if dial:
                node.transport.dial()
        yield started
    finally:
        for node in started:
            await node.transport.close()


def acquaint(node: Node, *others: Node) -> None:
    learn(node, {other.id: other.port for other in others if other is not node})


def learn(node: Node, ports: dict[int, int]) -> None:
    node.transport.set_peers({**node.transport.peers, **{other: (HOST, port) for other, port in ports.items()}})


async def wait_until(condition: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.002)  # Between two looks.


async def wait_until_connected(*group: Node) -> None:
    pairs = [(node, other) for node in group for other in group if node is not other]
    await wait_until(lambda: all(node.transport.is_connected(other.id) for node, other in pairs))


@asynccontextmanager
async def caller(kind: Kind, node: Node) -> AsyncIterator[Caller]:
    made = await kind.call(node.port)
    try:
        yield made
    finally:
        made.leave()


BEAT = encode_frame([(1, Heartbeat(1, 2, 3))])


# Frames ---------------------------------------------------------------------------------------------------------------


def test_what_waits_for_a_peer_is_told_and_nothing_is_known_of_one_that_is_away(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2)) as (one, two):
            await wait_until_connected(one, two)
            assert one.transport.unsent_bytes(3) is None
            assert one.transport.unsent_bytes(2) == 0
            assert one.transport.send(2, encode_frame([(1, Forward(1, 1, b"x" * 8_000_000))]))
            await wait_until(lambda: two.ear.frames)
            await wait_until(lambda: one.transport.unsent_bytes(2) == 0)
            await two.transport.close()
            await wait_until(lambda: one.transport.unsent_bytes(2) is None)

    run(scenario)


def test_frames_of_every_pair_arrive_whole_and_in_order(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2), hello_of(3)) as group:
            await wait_until_connected(*group)
            sizes = [0, 1, 100, 70_000, 3, 8_000_000, 5]
            for node in group:
                for other in group:
                    if node is not other:
                        for number, size in enumerate(sizes):
                            frame = encode_frame([(other.id, Forward(node.id, number, b"x" * size))])
                            assert node.transport.send(other.id, frame)
            await wait_until(lambda: all(len(node.ear.frames) == 2 * len(sizes) for node in group))
            for node in group:
                for other in group:
                    if node is not other:
                        expected = [
                            [(node.id, Forward(other.id, number, b"x" * size))] for number, size in enumerate(sizes)
                        ]
                        assert node.hears(other.id) == expected

    run(scenario)


def test_many_small_frames_stay_in_order(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2)) as (one, two):
            await wait_until_connected(one, two)
            for number in range(2_000):
                assert one.transport.send(2, encode_frame([(1, Heartbeat(number, 0, 0))]))
            await wait_until(lambda: len(two.ear.frames) == 2_000)
            assert [envelopes[0][1] for _, envelopes in two.ear.frames] == [Heartbeat(n, 0, 0) for n in range(2_000)]

    run(scenario)


def test_a_frame_for_a_peer_that_is_away_is_dropped_and_counted(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2), dial=False) as (one, two):
            assert not one.transport.send(2, BEAT)
            assert not one.transport.send(77, BEAT)
            assert one.transport.frames_dropped == 2
            assert two.ear.frames == []

    run(scenario)


# Coming and going -----------------------------------------------------------------------------------------------------


def test_a_peer_that_comes_back_is_missed_and_found_again(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2)) as group:
            one, two = group
            await wait_until_connected(one, two)
            await two.transport.close()
            await wait_until(lambda: ("disconnected", 2) in one.ear.events)
            await wait_until(lambda: not one.transport.is_connected(2))
            assert not one.transport.send(2, BEAT)
            again = await listening(kind, hello_of(2, incarnation=5), two.port)
            group.append(again)
            acquaint(again, one)
            again.transport.dial()
            await wait_until(lambda: ("connected", 5) in one.ear.events and again.transport.is_connected(1))
            assert one.ear.events[0] == ("connected", 1_002)
            assert one.ear.events[-1] == ("connected", 5)
            assert set(one.ear.events[1:-1]) == {("disconnected", 2)}
            one.transport.send(2, BEAT)
            again.transport.send(1, BEAT)
            await wait_until(lambda: again.ear.frames and one.ear.frames)

    run(scenario)


def test_a_new_incarnation_tells_that_the_old_process_is_gone(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), dial=False) as (one,):
            learn(one, {2: 1})
            async with caller(kind, one) as first, caller(kind, one) as second:
                await first.send(encode_hello(hello_of(2, incarnation=7)))
                await first.send(BEAT)
                await wait_until(lambda: one.ear.frames)
                assert one.ear.events == []
                await second.send(encode_hello(hello_of(2, incarnation=8)))
                await second.send(BEAT)
                await wait_until(lambda: len(one.ear.frames) == 2)
                assert one.ear.events == [("disconnected", 2)]
                first.leave()  # That the old one closes at last is no news.
                await wait_until(lambda: len(one.transport.accepted) == 1)
                assert one.ear.events == [("disconnected", 2)]

    run(scenario)


def test_an_older_connection_is_closed_once_its_process_has_dialled_anew(run: Run) -> None:
    """What it still brought would come behind what was sent later; subscribers would hear a word of long ago."""

    def beat(term: int) -> list[Envelope]:
        return [(1, Heartbeat(term, term, term))]

    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), dial=False) as (one,):
            learn(one, {2: 1})
            async with caller(kind, one) as older, caller(kind, one) as newer:
                await older.send(encode_hello(hello_of(2)))
                await older.send(encode_frame(beat(1)))
                await wait_until(lambda: one.ear.frames)
                await newer.send(encode_hello(hello_of(2)))
                await newer.send(encode_frame(beat(2)))
                await wait_until(lambda: len(one.ear.frames) == 2)
                assert one.ear.events == [("disconnected", 2)]
                await older.closed()
                await newer.send(encode_frame(beat(3)))
                await wait_until(lambda: len(one.ear.frames) == 3)
                assert one.hears(2) == [beat(1), beat(2), beat(3)]
                assert one.ear.events == [("disconnected", 2)]

    run(scenario)


def test_a_peer_that_will_send_no_more_is_gone(run: Run) -> None:
    """Half a connection that stays open would keep a dead leader alive."""

    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), dial=False) as (one,):
            learn(one, {2: 1})
            async with caller(kind, one) as half:
                await half.send(encode_hello(hello_of(2)))
                await half.send(BEAT)
                await wait_until(lambda: one.ear.frames)
                await half.send_no_more()
                await half.closed()
                await wait_until(lambda: one.ear.events == [("disconnected", 2)])
                assert not one.transport.accepted

    run(scenario)


def test_closing_ends_every_connection_and_task(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2)) as (one, two):
            await wait_until_connected(one, two)
            await one.transport.close()
            await wait_until(lambda: not two.transport.is_connected(1) and not two.transport.accepted)
            assert not one.transport.is_connected(2)
            dialling = {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("dial")}
            assert dialling == {"dial node 1"}  # The other one's.
            again = await listening(kind, hello_of(1), one.port)
            await again.transport.close()

    run(scenario)


# Peers that are let in and taken out ----------------------------------------------------------------------------------


def test_a_peer_that_is_let_in_while_running_is_found_by_both(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2)) as group:
            one, two = group
            group.append(new := await listening(kind, hello_of(3)))
            acquaint(new, one, two)
            new.transport.dial()
            await wait_until(lambda: len(new.transport.refusals) == 2)
            assert new.transport.refusals[1] == "node 3 is not a member of the cluster of node 1"
            for node in (one, two):
                acquaint(node, new)
            await wait_until_connected(one, two, new)
            assert new.transport.refusals == {}

    run(scenario)


def test_a_member_that_one_has_not_heard_of_yet_is_met(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2)) as group:
            one, two = group
            for node, cluster_id in ((3, "A"), (4, "B"), (5, "")):
                group.append(new := await listening(kind, hello_of(node, cluster_id=cluster_id)))
                acquaint(new, one)
                new.transport.dial()
            three, others = group[2], group[3:]
            await wait_until(lambda: all(1 in node.transport.refusals for node in (three, *others)))
            asked: list[int] = []

            def meet(hello: Hello) -> bool:
                asked.append(hello.node_id)
                acquaint(one, two, three)
                return hello.node_id == 3

            one.transport.meet = meet
            await wait_until_connected(one, three)
            assert set(asked) == {3}, "others are of another cluster, or of none"
            assert all(1 in node.transport.refusals for node in others)

    run(scenario)


def test_a_peer_that_is_taken_out_is_cut_off_and_kept_out(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2), hello_of(3)) as (one, two, three):
            await wait_until_connected(one, two, three)
            await wait_until(lambda: len(one.transport.accepted) == 2)
            one.transport.set_peers({3: (HOST, three.port)})
            assert not one.transport.is_connected(2)
            assert not one.transport.send(2, BEAT)
            assert one.ear.events[2:] == []  # Whoever calls is not called back within its call.
            await wait_until(lambda: ("disconnected", 2) in one.ear.events)
            await wait_until(lambda: 1 in two.transport.refusals and not two.transport.is_connected(1))
            assert two.transport.refusals == {1: "node 2 is not a member of the cluster of node 1"}
            assert one.transport.refusals == {}
            assert one.transport.is_connected(3)
            one.transport.send(3, BEAT)
            await wait_until(lambda: three.ear.frames)

    run(scenario)


def test_a_former_member_is_told_how_it_went_by_its_own_cluster_only(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2), dial=False) as (one, two):
            told: list[str] = []
            two.transport.dismissed = told.append
            two.transport.dial()
            await wait_until(lambda: two.transport.is_connected(1))
            one.transport.set_peers({})
            await wait_until(lambda: 1 in two.transport.refusals)
            assert told == [], "nobody knows how it went"
            one.transport.hello = msgspec.structs.replace(one.transport.hello, cluster_id="")
            one.transport.farewell = lambda node: f"node {node} was removed"
            await wait_until(lambda: two.transport.refusals[1] == "node 2 was removed")
            assert told == [], "it cannot know who belongs to cluster A"
            one.transport.hello = hello_of(1)
            await wait_until(lambda: told)
            assert told[0] == "node 2 was removed"

    run(scenario)


def test_a_peer_whose_address_changed_is_dialled_there(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2), dial=False) as group:
            one, two = group
            one.transport.dial()
            await wait_until(lambda: one.transport.is_connected(2))
            group.append(moved := await listening(kind, hello_of(2, incarnation=9)))
            acquaint(moved, one)
            learn(one, {2: moved.port})
            assert not one.transport.is_connected(2)
            await wait_until(lambda: one.transport.is_connected(2))
            await wait_until(lambda: not two.transport.accepted)
            one.transport.send(2, BEAT)
            await wait_until(lambda: moved.ear.frames)
            assert two.ear.frames == []

    run(scenario)


# Those that must not talk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(hello_of(2, cluster="owls"), id="cluster"),
        pytest.param(hello_of(2, cluster_id="B"), id="cluster id"),
        pytest.param(hello_of(2, fingerprint="x"), id="settings"),
        pytest.param(hello_of(2, protocol=99), id="protocol"),
    ],
)
def test_a_node_of_another_kind_is_refused_and_both_know_why(run: Run, other: Hello) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), other) as (one, two):
            await wait_until(lambda: 2 in one.transport.refusals and 1 in two.transport.refusals)
            reasons = {refusal_of(hello_of(1), other, None), refusal_of(other, hello_of(1), None)}
            assert one.transport.refusals[2] in reasons
            assert two.transport.refusals[1] in reasons
            assert not one.transport.is_connected(2)
            assert not two.transport.is_connected(1)
            assert (one.ear.events, two.ear.events) == ([], [])
            two.transport.hello = hello_of(2)  # An operator has put it right.
            await wait_until_connected(one, two)
            assert (one.transport.refusals, two.transport.refusals) == ({}, {})

    run(scenario)


def test_two_processes_of_one_id_are_told_so(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2), dial=False) as (one, two):
            two.transport.hello = hello_of(1, incarnation=9)
            one.transport.dial()
            await wait_until(lambda: one.transport.refusals and two.transport.refusals)
            assert one.transport.refusals == {2: "two processes call themselves node 1"}

    run(scenario)


def test_addresses_that_were_exchanged_are_noticed(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2), dial=False) as (one, two):
            learn(one, {3: two.port})
            one.transport.dial()
            await wait_until(lambda: 3 in one.transport.refusals and one.transport.is_connected(2))
            assert one.transport.refusals == {3: "node 2 answers at the address of node 3"}

    run(scenario)


def framed(body: bytes) -> bytes:
    """A frame whose checksum is right, whatever is in it."""
    return len(body).to_bytes(4, "big") + int(google_crc32c.extend(0, body)).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param([bytes(range(255, -1, -1)) * 64], id="noise"),
        pytest.param([framed(b"")], id="an empty frame instead of a Hello"),
        pytest.param([BEAT], id="a frame before the Hello"),
        pytest.param([encode_hello(hello_of(2)), BEAT[:-1] + b"?"], id="a damaged frame"),
        pytest.param([encode_hello(hello_of(2)), b"\xff\xff\xff\xff" + bytes(4)], id="a frame of four gigabytes"),
        pytest.param([encode_hello(hello_of(2)), framed(b"\x91" * 9_000 + b"\x00")], id="a frame that nests for ever"),
        pytest.param([encode_hello(hello_of(2))] * 2, id="a second Hello"),
    ],
)
def test_a_connection_with_garbage_is_cut_off_and_harms_nobody(run: Run, sent: list[bytes]) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), hello_of(2)) as (one, two):
            await wait_until_connected(one, two)
            async with caller(kind, one) as stranger:
                for data in sent:
                    await stranger.send(data)
                await stranger.closed()
            # Whose word is garbage had taken the place of node 2 where it called itself so; then node 2 dials again.
            await wait_until(lambda: len(one.transport.accepted) == 1)
            await wait_until_connected(one, two)
            two.transport.send(1, BEAT)
            one.transport.send(2, BEAT)
            await wait_until(lambda: one.ear.frames and two.ear.frames)
            assert one.transport.is_connected(2)

    run(scenario)


def test_a_port_in_use_is_a_matter_of_settings(run: Run) -> None:
    async def scenario(kind: Kind) -> None:
        async with nodes(kind, hello_of(1), dial=False) as (one,):
            with pytest.raises(ConfigError, match=r"cannot listen for peers on .*; choose another --peer-port"):
                await listening(kind, hello_of(2), one.port)

    run(scenario)
