"""The RESP door of a node: any Redis client may speak to any node, which reaches the right partition by itself.

Here are the listeners, plain and cluster, the bound on connections, and the counters. Read resp_connection.py for the
hot path, resp_parser.py for the bytes, resp_commands.py for what is answered here and not by the store.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from noctule.adapters.system_clock import SystemClock
from noctule.base.addresses import join_address
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError
from noctule.core.pubsub.subscriptions import Subscriber
from noctule.node.api import NodePicture, Store
from noctule.node.cluster_view import ClusterView
from noctule.node.pubsub import PubSub
from noctule.node.scripts import Scripts
from noctule.servers.resp_client import Client
from noctule.servers.resp_connection import OUTPUT_BYTES_ALL_MAX, RespConnection

CONNECTIONS_MAX = 10_000
"""Clients of one node at once, as in Redis; one more is told so and closed."""
FILES_RESERVED = 256
"""Open files that a node needs beside its clients: its log and snapshots, its peers, requests by HTTP."""

KEEPALIVE_IDLE_S = 60
KEEPALIVE_PROBE_S = 15
KEEPALIVE_PROBES = 4
"""A peer that vanished is found after a minute of silence and another one of probes. (Redis: 300 s and 300 s.)

It is for connections on which nothing is under way; what was sent and is not acknowledged is the kernel's to give up.
"""

_LISTEN_BACKLOG = 512
_ABORT_S_MAX = 1.0
"""How long closed connections may take to be gone; it is one turn of the loop."""

log = logging.getLogger("noctule.resp")


def affordable_connections(open_files_max: int) -> int:
    """How many clients a node may have whose process may open so many files: `CONNECTIONS_MAX` if there is room.

    Where there is not, it is logged: without this bound the one client too many would be neither served nor told.
    """
    connections_max = max(1, min(CONNECTIONS_MAX, open_files_max - FILES_RESERVED))
    if connections_max < CONNECTIONS_MAX:
        facts = {"connections_max": connections_max, "open_files_max": open_files_max}
        log.warning("resp_connections_bounded", extra={"fields": facts})
    return connections_max


@dataclass(frozen=True, slots=True)
class ClusterFace:
    """The second listener: what its connections speak to, where, and what they are told of the cluster."""

    store: Store
    port: int
    """0: the system chooses."""
    view: ClusterView


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
        cluster_face: ClusterFace | None = None,
        output_bytes_all_max: int = OUTPUT_BYTES_ALL_MAX,
        staleness_ms: Callable[[bytes], int | None] = lambda _key: None,
        pubsub: PubSub | None = None,
        scripts: Scripts | None = None,
    ) -> None:
        """`pubsub` is the node's; without it clients hear each other through this server only."""
        self.pubsub = pubsub or PubSub()
        self.clock: Clock = clock or SystemClock()
        self.connections_max = connections_max
        self._output_bytes_all_max = output_bytes_all_max
        self.scripts = scripts
        self.commands_total = 0
        self.protocol_errors_total = 0
        self.clients_dropped_total = 0
        self._store = store
        self._node_info = node_info
        self._staleness_ms = staleness_ms
        self._host = host
        self._port = port
        self._cluster_face = cluster_face
        self._listener: asyncio.Server | None = None
        self._cluster_listener: asyncio.Server | None = None
        self._is_stopping = False
        self._clients: dict[RespConnection, Client] = {}
        self._owed: dict[RespConnection, None] = {}
        """Those that were seen not reading; a set in the order of their coming."""
        self._connections_total = 0
        self._refused_total = 0
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    async def start(self) -> None:
        """Listen. Raises `ConfigError` that names the address when it cannot be had; nothing is left running then."""
        self._listener = await self._listen("RESP", self._store, self._port, is_cluster=False)
        face = self._cluster_face
        if face is not None:
            try:
                self._cluster_listener = await self._listen("RESP (cluster)", face.store, face.port, is_cluster=True)
            except ConfigError:
                self._listener.close()
                raise

    async def _listen(self, what: str, store: Store, port: int, *, is_cluster: bool) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        try:
            # Both loops set TCP_NODELAY on what they accept; a test holds that.
            return await loop.create_server(
                lambda: RespConnection(self, store, loop, is_cluster=is_cluster),
                self._host,
                port,
                backlog=_LISTEN_BACKLOG,
            )
        except OSError as error:
            where = f"{what} cannot listen on {self._host}:{port}"
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(f"{where}: the port is in use; choose another or stop who has it") from None
            raise ConfigError(f"{where}: {error.strerror or error}; check host and port") from None

    @property
    def port(self) -> int:
        """The port listened on: the system's choice when 0 was asked for."""
        return _port_of(self._listener) or self._port

    @property
    def cluster_port(self) -> int:
        """The port of the cluster face; 0 without one."""
        return _port_of(self._cluster_listener) or (self._cluster_face.port if self._cluster_face else 0)

    @property
    def cluster(self) -> ClusterView | None:
        """What CLUSTER tells of; None of a node without a cluster face."""
        return self._cluster_face.view if self._cluster_face else None

    async def stop(self, drain_s: float) -> None:
        """Accept no more, begin no more, and give replies that are owed `drain_s` seconds to leave."""
        if self._listener is None or self._is_stopping:
            return
        self._is_stopping = True
        self._port = self.port
        self._listener.close()
        if self._cluster_listener is not None:
            self._cluster_listener.close()
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

    def disconnect(self, client: Client) -> None:
        """Close a client's connection now, with replies unsent. Unknown ones are ignored."""
        for connection, each in self._clients.items():
            if each is client:
                connection.abort()
                return

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
        _keep_alive(transport)
        client = Client(
            self._connections_total,
            _address(transport.get_extra_info("peername")),
            _address(transport.get_extra_info("sockname")),
            self.clock.now(),
            Subscriber(connection.hear),
            is_cluster=connection.is_cluster,
        )
        self._clients[connection] = client
        self._all_closed.clear()
        return client

    def forget(self, connection: RespConnection) -> None:
        """The connection is closed. Unknown ones are ignored."""
        self._owed.pop(connection, None)
        client = self._clients.pop(connection, None)
        if client is None:
            return
        self.pubsub.subscriptions.forget(client.subscriber)
        if not self._clients:
            self._all_closed.set()

    def note_unread(self, connection: RespConnection) -> None:
        """A client that does not read is owed more: drop those that are owed the most while all are owed too much."""
        self._owed[connection] = None
        unread = {each: size for each in self._owed if (size := each.unread_bytes)}
        self._owed = dict.fromkeys(unread)
        total = sum(unread.values())
        while total > self._output_bytes_all_max:
            worst = max(unread, key=unread.__getitem__)
            size = unread.pop(worst)
            total -= size
            worst.drop(size)


def _keep_alive(transport: asyncio.Transport) -> None:
    """Have the kernel ask whether a silent peer is still there."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_PROBE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def _port_of(listener: asyncio.Server | None) -> int:
    return int(listener.sockets[0].getsockname()[1]) if listener is not None and listener.sockets else 0


def _address(name: tuple[str, int] | None) -> str:
    """host:port as Redis shows it; empty when the client was gone before it could be asked."""
    return join_address(name[0], name[1]) if name else ""
