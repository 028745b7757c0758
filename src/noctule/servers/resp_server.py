"""The RESP door of a node: any Redis client may speak to any node, which reaches the right partition by itself.

Here are the listener, the bound on connections, and the counters. Read resp_connection.py for the hot path,
resp_parser.py for the bytes, resp_commands.py for what is answered here and not by the store.
"""

import asyncio
import errno
import logging
from collections.abc import Callable, Iterable

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError
from noctule.core.pubsub.subscriptions import Subscriber
from noctule.node.api import NodePicture, Store
from noctule.node.pubsub import PubSub
from noctule.node.scripts import Scripts
from noctule.servers.resp_client import Client
from noctule.servers.resp_connection import RespConnection

CONNECTIONS_MAX = 10_000
"""Clients of one node at once, as in Redis; one more is told so and closed."""

_LISTEN_BACKLOG = 512
_ABORT_S_MAX = 1.0
"""How long closed connections may take to be gone; it is one turn of the loop."""

log = logging.getLogger("noctule.resp")


class RespServer:
    """Serves a store in the running event loop, from `start` to `stop`; asyncio's own loop or uvloop."""

    def __init__(
        self,
        store: Store,
        node_info: Callable[[], NodePicture],
        host: str,
        port: int,
        *,
        clock: Clock | None = None,
        connections_max: int = CONNECTIONS_MAX,
        staleness_ms: Callable[[bytes], int | None] = lambda _key: None,
        pubsub: PubSub | None = None,
        scripts: Scripts | None = None,
    ) -> None:
        """`pubsub` is the node's; without it clients hear each other through this server only."""
        self.pubsub = pubsub or PubSub()
        self.clock: Clock = clock or SystemClock()
        self.connections_max = connections_max
        self.scripts = scripts
        self.commands_total = 0
        self.protocol_errors_total = 0
        self.clients_dropped_total = 0
        self._store = store
        self._node_info = node_info
        self._staleness_ms = staleness_ms
        self._host = host
        self._port = port
        self._listener: asyncio.Server | None = None
        self._is_stopping = False
        self._clients: dict[RespConnection, Client] = {}
        self._connections_total = 0
        self._refused_total = 0
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    async def start(self) -> None:
        """Listen. Raises `ConfigError` that names the address when it cannot be had; nothing is left running then."""
        loop = asyncio.get_running_loop()
        try:
            # Both loops set TCP_NODELAY on what they accept; a test holds that.
            self._listener = await loop.create_server(
                lambda: RespConnection(self, self._store, loop),
                self._host,
                self._port,
                backlog=_LISTEN_BACKLOG,
            )
        except OSError as error:
            where = f"RESP cannot listen on {self._host}:{self._port}"
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(f"{where}: the port is in use; choose another or stop who has it") from None
            raise ConfigError(f"{where}: {error.strerror or error}; check host and port") from None

    @property
    def port(self) -> int:
        """The port listened on: the system's choice when 0 was asked for."""
        if self._listener is not None and self._listener.sockets:
            return int(self._listener.sockets[0].getsockname()[1])
        return self._port

    async def stop(self, drain_s: float) -> None:
        """Accept no more, begin no more, and give replies that are owed `drain_s` seconds to leave."""
        if self._listener is None or self._is_stopping:
            return
        self._is_stopping = True
        self._port = self.port
        self._listener.close()
        for connection in list(self._clients):
            connection.finish()
        if not await self._wait_all_closed(drain_s):
            log.warning("resp_drain_cut_short", extra={"fields": {"connections": len(self._clients)}})
            for connection in list(self._clients):
                connection.abort()
            await self._wait_all_closed(_ABORT_S_MAX)

    async def _wait_all_closed(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._all_closed.wait()
        except TimeoutError:
            return False
        return True

    # For metrics and for commands about the server -------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Since the start, for `NodePicture.counters`: each only ever rises."""
        return {
            "noctule_resp_connections_total": self._connections_total,
            "noctule_resp_connections_refused_total": self._refused_total,
            "noctule_resp_commands_total": self.commands_total,
            "noctule_resp_protocol_errors_total": self.protocol_errors_total,
            "noctule_resp_clients_dropped_total": self.clients_dropped_total,
        }

    def clients(self) -> Iterable[Client]:
        """Those connected, oldest first; not to be kept over a turn of the loop."""
        return self._clients.values()

    def picture(self) -> NodePicture:
        """The node behind it, now."""
        return self._node_info()

    def staleness_ms(self, key: bytes) -> int | None:
        """As `Node.staleness_ms`."""
        return self._staleness_ms(key)

    # For connections -------------------------------------------------------------------------------------------------

    def admit(self, connection: RespConnection, transport: asyncio.Transport) -> Client | None:
        """Enter a connection among those served; None when there are too many, or the server stops."""
        if len(self._clients) >= self.connections_max or self._is_stopping:
            self._refused_total += 1
            return None
        self._connections_total += 1
        client = Client(
            self._connections_total,
            _address(transport.get_extra_info("peername")),
            _address(transport.get_extra_info("sockname")),
            self.clock.now(),
            Subscriber(connection.hear),
        )
        self._clients[connection] = client
        self._all_closed.clear()
        return client

    def forget(self, connection: RespConnection) -> None:
        """The connection is closed. Unknown ones are ignored."""
        client = self._clients.pop(connection, None)
        if client is None:
            return
        self.pubsub.subscriptions.forget(client.subscriber)
        if not self._clients:
            self._all_closed.set()


def _address(name: tuple[str, int] | None) -> str:
    """host:port as Redis shows it; empty when the client was gone before it could be asked."""
    if not name:
        return ""
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"
