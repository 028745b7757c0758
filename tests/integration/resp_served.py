"""A RESP server over one real keyspace, in a thread of its own with the event loop asked for, and raw sockets to it."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import uvloop

from noctule.adapters.lua_engine import LuaEngine
from noctule.adapters.system_clock import SystemClock
from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.commands import check_command
from noctule.core.keyspace.effects import TO_BE_EVALUATED
from noctule.core.keyspace.evaluation import evaluating
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import Failure, Reply
from noctule.node.api import Dialogue, GroupPicture, NodePicture, PeerPicture, ReplySink
from noctule.node.scripts import Scripts
from noctule.servers.resp_server import RespServer

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
DEADLINE_S = 10.0


class KeyspaceStore(Dialogue):
    """One keyspace and the wall clock. Replies come in a later turn of the loop, or once `is_held` is taken back."""

    def __init__(self) -> None:
        self.keyspace = Keyspace()
        self.is_held = False
        self._engine = LuaEngine()
        self._clock = SystemClock()
        self._held: list[tuple[ReplySink, Reply]] = []

    def conversation(self) -> "KeyspaceStore":
        return self

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        checked = check_command(args)
        if isinstance(checked, Failure):
            self._hold(checked, sink)
        else:
            self.submit_own(args, sink, consistency)

    def submit_own(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        now_ms = self._clock.wall_ms()
        if args[0] in TO_BE_EVALUATED:
            with evaluating(self.keyspace, self._engine, now_ms) as evaluation:
                (args,) = evaluation.batch([args])
        self._hold(self.keyspace.execute(args, now_ms), sink)

    def _hold(self, reply: Reply, sink: ReplySink) -> None:
        if not self._held:
            asyncio.get_running_loop().call_soon(self.release)
        self._held.append((sink, reply))

    def release(self) -> None:
        if not self.is_held:
            held, self._held = self._held, []
            for sink, reply in held:
                sink.deliver(reply)

    def picture(self) -> NodePicture:
        peer = PeerPicture(1, True, "127.0.0.1:7601", "", "", 1, None)
        group = GroupPicture(1, 0, 16_383, "leader", 1, 1, 1, 1, 1, 0, self.keyspace.key_count)
        return NodePicture(1, "test", "0.1.0", 1, 1, 1.0, "", "", False, [peer], [group], {}, {})


class Served:
    """A running server; its loop lives in another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: RespServer, store: KeyspaceStore) -> None:
        self.loop = loop
        self.server = server
        self.store = store
        self.errors: list[dict[str, Any]] = []
        """What the loop's exception handler was told: the work of a server without bugs leaves it empty."""

    @property
    def port(self) -> int:
        return self.server.port

    def run(self, task: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the server's loop, to its end."""
        asyncio.run_coroutine_threadsafe(task, self.loop).result(DEADLINE_S)

    def check(self) -> None:
        """Raise `InternalError` unless what is held is sound."""

        async def look() -> None:
            self.store.keyspace.check()

        self.run(look())

    def release(self) -> None:
        """Let the store answer."""
        self.store.is_held = False
        self.loop.call_soon_threadsafe(self.store.release)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def wait_connections(self, count: int) -> None:
        wait_until(lambda: len(list(self.server.clients())) == count)


@contextmanager
def serving(loop_kind: str, **options: Any) -> Iterator[Served]:
    loop = LOOPS[loop_kind]()
    store = KeyspaceStore()
    scripts = Scripts(KeyspaceStore(), LuaEngine(), SystemClock().now)
    server = RespServer(store, store.picture, "127.0.0.1", 0, **{"scripts": scripts} | options)
    served = Served(loop, server, store)
    loop.set_exception_handler(lambda _loop, context: served.errors.append(context))
    thread = threading.Thread(target=loop.run_forever, name="resp-server")
    thread.start()
    try:
        served.run(server.start())
        yield served
        assert served.errors == []
    finally:
        served.run(server.stop(0.5))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.005)


def read_exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = connection.recv(min(count - len(data), 1 << 20))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    data = bytearray()
    while chunk := connection.recv(1 << 16):
        data += chunk
    return bytes(data)


def command(*args: bytes) -> bytes:
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in args)
