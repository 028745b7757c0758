"""Connections that know several hosts of one store: any will do, and the one that works is kept.

The hosts are the nodes of one cluster, each of which serves every key. A connection tries them in order, beginning
with the one that worked last, and all connections of a client follow that choice. Where Sentinels watch over a master,
`store_sentinel.py` asks them instead. Whoever asks for a client wants `store.py`; this file knows how redis-py connects
and nothing of URLs.
"""

import asyncio
from typing import Any, TypeAlias

from redis.asyncio import Connection, SSLConnection
from redis.exceptions import AuthenticationError, ClusterDownError, ReadOnlyError
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import TimeoutError as StoreTimeoutError

Address: TypeAlias = tuple[str, int]
"""Host name or IP address, and TCP port."""

NOT_SERVING = (ClusterDownError, ReadOnlyError)
"""Answers of a node that is there and cannot serve, such as one cut off from its majority: another may."""


class Hosts:
    """The hosts of one store and which of them is preferred; shared by all connections of a client."""

    def __init__(self, addresses: list[Address]) -> None:
        self.addresses = tuple(addresses)
        self.turn = 0
        """Rises whenever the preference moves, so that a connection can tell that it is to follow."""
        self._preferred = 0

    def in_order(self) -> list[Address]:
        """All hosts once, the preferred one first and the others as in the URL, going round."""
        return [*self.addresses[self._preferred :], *self.addresses[: self._preferred]]

    def worked(self, address: Address) -> None:
        """Prefer this host from now on."""
        self._prefer(self.addresses.index(address))

    def failed(self, address: Address) -> None:
        """Prefer the next host, if it is the preferred one that failed.

        Many connections fail together when a host dies; only the first of them moves the preference.
        """
        if address == self.addresses[self._preferred]:
            self._prefer((self._preferred + 1) % len(self.addresses))

    def _prefer(self, position: int) -> None:
        if position != self._preferred:
            self._preferred = position
            self.turn += 1

    def __str__(self) -> str:
        return ", ".join(f"{name}:{port}" for name, port in self.addresses)


class ManyHostsConnection(Connection):
    """A TCP connection to the first of several hosts that takes it.

    TCP and the greeting together have `socket_connect_timeout` seconds on each host: a paused process still takes
    TCP connections, and only the missing greeting gives it away. A wrong password is final and tries no other host.
    """

    def __init__(self, *, hosts: Hosts, **options: Any) -> None:
        super().__init__(**options)
        self._hosts = hosts
        self._turn = hosts.turn

    async def connect(self) -> None:
        """Be connected to the preferred host; called for every command that takes this connection from the pool."""
        if self.is_connected and self._turn != self._hosts.turn:
            await self.disconnect(nowait=True)
        await super().connect()  # type: ignore[no-untyped-call]

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """Try each host once; raises redis-py's `ConnectionError` with the last reason when none takes it."""
        if self.is_connected:
            return
        last_error: Exception | None = None
        for address in self._hosts.in_order():
            self.host, self.port = address
            try:
                async with asyncio.timeout(self.socket_connect_timeout):
                    await super().connect_check_health(check_health, retry_socket_connect)
            except AuthenticationError:
                raise
            except (StoreConnectionError, StoreTimeoutError, TimeoutError, *NOT_SERVING) as error:
                await self.disconnect(nowait=True)
                self._hosts.failed(address)
                last_error = error
            else:
                self._hosts.worked(address)
                self._turn = self._hosts.turn
                return
        raise StoreConnectionError(f"no store answers at {self._hosts}: {last_error or 'timed out'}")

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """As redis-py's; a host that breaks off, stays silent or cannot serve loses its preference."""
        try:
            return await super().read_response(*args, **options)
        except (StoreConnectionError, StoreTimeoutError, *NOT_SERVING):
            self._hosts.failed((self.host, self.port))
            raise


class ManyHostsTLSConnection(ManyHostsConnection, SSLConnection):
    """The same over TLS; the certificate is checked against the name of the host that is tried."""
