"""A store that answers when and in which order the test says, and a socket and loop that are only lists."""

import asyncio
from collections.abc import Callable

from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.commands import KEY_READS, check_command
from noctule.core.keyspace.databases import DATABASE_SLOTS
from noctule.core.keyspace.effects import TO_BE_EVALUATED
from noctule.core.keyspace.evaluation import evaluating
from noctule.core.keyspace.keyspace import MUST_LOG, Keyspace
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.placement.slots import key_slot
from noctule.node.api import Dialogue, GroupPicture, NodePicture, PeerPicture, ReplySink
from noctule.servers.resp_client import Client
from noctule.servers.resp_connection import RespConnection
from noctule.servers.resp_server import RespServer
from tests.unit.hand_clock import HandClock

NOW_MS = 1_700_000_000_123


class HeldStore(Dialogue):
    """A real keyspace whose replies are held until the test delivers them, in any order."""

    def __init__(self) -> None:
        self.keyspace = Keyspace()
        self.held: list[tuple[ReplySink, Reply]] = []
        self.consistencies: list[ConsistencyLevel] = []
        self.conversations = 0
        self.is_immediate = False
        self.has_copies = False
        """Whether eventual reads of one key are answered at once."""
        self.row_max = 100
        """How many of them in one go."""

    def conversation(self) -> "HeldStore":
        self.conversations += 1
        return self

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        checked = check_command(args)
        if isinstance(checked, Failure):
            self._hold(checked, sink, consistency)
        else:
            self.submit_own(args, sink, consistency)

    def submit_own(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        if args[0] in TO_BE_EVALUATED:
            with evaluating(self.keyspace, None, NOW_MS) as evaluation:
                (args,) = evaluation.batch([args])
        self._hold(self.keyspace.execute(args, NOW_MS), sink, consistency)

    def _hold(self, reply: Reply, sink: ReplySink, consistency: ConsistencyLevel) -> None:
        self.consistencies.append(consistency)
        self.held.append((sink, reply))
        if self.is_immediate:
            self.deliver(-1)

    def read_keys(self, commands: list[list[bytes] | Failure], start: int, wall_ms: int) -> list[Reply]:
        replies: list[Reply] = []
        for args in commands[start : start + self.row_max]:
            row = None if isinstance(args, Failure) else KEY_READS.get(args[0])
            if isinstance(args, Failure) or row is None or len(args) != 2 or not self.has_copies:
                break
            reply = self.keyspace.read_key(row, key_slot(args[1]), args, wall_ms)
            if reply is MUST_LOG:
                break
            replies.append(reply)
        return replies

    def deliver(self, position: int) -> None:
        sink, reply = self.held.pop(position)
        sink.deliver(reply)

    def deliver_all(self) -> None:
        while self.held:
            self.deliver(0)


class HandTimer:
    """What was to be called later."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class HandLoop:
    """Runs what was called soon when the test says that a turn is over."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], None]] = []
        self.timers: list[HandTimer] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.ready.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> "HandTimer":
        self.timers.append(HandTimer(callback))
        return self.timers[-1]

    def time_passes(self) -> None:
        """Run every timer that was set and not cancelled."""
        timers, self.timers = self.timers, []
        for timer in timers:
            if not timer.is_cancelled:
                timer.callback()

    def turn(self) -> None:
        ready, self.ready = self.ready, []
        for callback in ready:
            callback()

    def settle(self) -> None:
        """Turns, until nothing is left to be done."""
        while self.ready:
            self.turn()


class HandTransport(asyncio.Transport):
    """Remembers what was written; what the client has not read is `unread`, and the test reads it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50_000), "sockname": ("127.0.0.1", 7_401)})
        self.protocol: RespConnection
        self.writes: list[bytes] = []
        self.unread = 0
        self.high = 0
        self.reads = True
        self.is_aborted = False
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._closing, "wrote to a closed connection"
        self.writes.append(bytes(data))
        was_low = self.unread <= self.high
        self.unread += len(data)
        if was_low and self.unread > self.high:
            self.protocol.pause_writing()

    def client_reads(self) -> None:
        was_high = self.unread > self.high
        self.unread = 0
        if was_high and not self._closing:
            self.protocol.resume_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high or 0

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_reading(self) -> bool:
        return self.reads

    def pause_reading(self) -> None:
        assert self.reads, "paused twice"
        self.reads = False

    def resume_reading(self) -> None:
        assert not self.reads, "resumed twice"
        self.reads = True

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = self.is_aborted = True


class World:
    """A server without a listener, a store, and one connected client."""

    def __init__(self, *, connections_max: int = 10_000, output_bytes_all_max: int = 1 << 30, nodes: int = 3) -> None:
        self.store = HeldStore()
        self.clock = HandClock(wall_ms=NOW_MS)
        self.loop = HandLoop()
        self.storage_failure = ""
        self.server = RespServer(
            self.store,
            lambda: self.picture(nodes),
            "127.0.0.1",
            7_401,
            clock=self.clock,
            connections_max=connections_max,
            output_bytes_all_max=output_bytes_all_max,
            staleness_ms={b"k": 12}.get,
        )
        self.transport = HandTransport()
        self.connection = self.connect(self.transport)

    def connect(self, transport: HandTransport) -> RespConnection:
        connection = RespConnection(self.server, self.store, self.loop)
        transport.protocol = connection
        connection.connection_made(transport)
        return connection

    @property
    def client(self) -> Client:
        return self.connection.client

    def send(self, *chunks: bytes) -> None:
        """The client's bytes, each chunk in a turn of its own."""
        for chunk in chunks:
            self.connection.data_received(chunk)
            self.loop.turn()

    def take(self) -> bytes:
        """What was written since the last time."""
        written = b"".join(self.transport.writes)
        self.transport.writes.clear()
        return written

    def ask(self, *args: bytes) -> bytes:
        """Send one command, deliver its reply, and give its bytes."""
        self.send(command(*args))
        self.store.deliver_all()
        self.loop.turn()
        return self.take()

    def picture(self, nodes: int) -> NodePicture:
        peers = [PeerPicture(number, True, f"h{number}:7601", "", "", 1, None) for number in range(1, nodes + 1)]
        keys = self.store.keyspace.key_count
        slots = self.store.keyspace.slots
        databases = {number: len(slots[slot]) for slot, number in DATABASE_SLOTS.items() if slot in slots}
        groups = [
            GroupPicture(number, number, number, "leader", 1, 1, 5, 5, 5, 0, count, database_keys=database_keys)
            for number, count, database_keys in ((0, 7, {}), (1, keys, databases))
        ]
        return NodePicture(
            node_id=1,
            cluster="test",
            version="0.1.0",
            protocol_version=1,
            pid=42,
            uptime_s=90_000.5,
            data_dir="",
            storage_failure=self.storage_failure,
            draining=False,
            nodes=peers,
            groups=groups,
            counters={"noctule_commands_total": 3},
            gauges={},
        )


def command(*args: bytes) -> bytes:
    """The arguments as a client sends them."""
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in args)
