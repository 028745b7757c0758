"""Connections to whichever Redis the Sentinels call master at the moment.

Each new connection asks the Sentinels, and asks the server itself whether it is a master: one that was demoted, or cut
off, may not know it yet. When one connection meets a server that is none any more, all connections of the client ask
anew before their next command.
"""

import asyncio
from typing import Any

from redis.asyncio import Connection, Redis, SSLConnection
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import AuthenticationError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import TimeoutError as StoreTimeoutError

from noctule.kits.store_hosts import Address

ASK_TIMEOUT_S = 1.0
"""For one Sentinel."""


class WatchedMaster:
    """The master of one name, as the Sentinels know it; shared by all connections of a client."""

    def __init__(self, sentinels: list[Address], name: str, **options: Any) -> None:
        self.name = name
        self.turn = 0
        """Rises whenever a connection met a server that cannot be the master."""
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            sentinels,
            sentinel_kwargs={"socket_timeout": ASK_TIMEOUT_S, "socket_connect_timeout": ASK_TIMEOUT_S, **options},
        )

    async def address(self) -> Address:
        """Where the master is. Raises redis-py's `ConnectionError` when no Sentinel that answers knows one."""
        host, port = await self._sentinel.discover_master(self.name)
        return str(host), int(port)

    def failed(self, turn: int) -> None:
        """Let every connection ask anew; of many that fail together only the first moves anything."""
        if turn == self.turn:
            self.turn += 1

    async def aclose(self) -> None:
        """Close the connections to the Sentinels."""
        for client in self._sentinel.sentinels:
            await client.aclose()


class SentinelConnection(Connection):
    """A TCP connection to the master. TCP, greeting and the question for its role have `socket_connect_timeout` s."""

    def __init__(self, *, master: WatchedMaster, **options: Any) -> None:
        super().__init__(**options)
        self._master = master
        self._turn = master.turn

    async def connect(self) -> None:
        """Be connected to the master; called for every command that takes this connection from the pool."""
        if self.is_connected and self._turn != self._master.turn:
            await self.disconnect(nowait=True)
        await super().connect()  # type: ignore[no-untyped-call]

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """Ask, connect, and make sure; raises redis-py's `ConnectionError` when there is no master now."""
        if self.is_connected:
            return
        self._turn = self._master.turn
        self.host, self.port = await self._master.address()
        try:
            async with asyncio.timeout(self.socket_connect_timeout):
                await super().connect_check_health(check_health, retry_socket_connect)
                await self.send_command("ROLE")
                role = await self.read_response()
        except AuthenticationError:
            raise
        except (RedisError, TimeoutError) as error:
            await self.disconnect(nowait=True)
            raise StoreConnectionError(f"the master {self._master.name!r} does not answer: {error}") from error
        if role[0] not in (b"master", "master"):
            await self.disconnect(nowait=True)
            raise StoreConnectionError(f"what the Sentinels call the master {self._master.name!r} is none any more")

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """As redis-py's; after a server that broke off, is silent or only read, all connections ask anew."""
        try:
            return await super().read_response(*args, **options)
        except ReadOnlyError as error:
            self._master.failed(self._turn)
            raise StoreConnectionError("the master was demoted") from error
        except (StoreConnectionError, StoreTimeoutError):
            self._master.failed(self._turn)
            raise


class SentinelTLSConnection(SentinelConnection, SSLConnection):
    """The same over TLS."""


class SentinelRedis(Redis):
    """A client whose end is that of its Sentinels' connections, too."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close everything."""
        await super().aclose(close_connection_pool)
        master: WatchedMaster = self.connection_pool.connection_kwargs["master"]
        await master.aclose()
