"""Calls to the gRPC services of other nodes: one channel for each address, a deadline on each call, our own errors."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
import msgspec

from noctule.adapters import grpc_methods as methods
from noctule.adapters.control import (
    CancelMigrationRequest,
    ClusterInfo,
    ClusterInfoRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    JoinAnswer,
    JoinRequest,
    LeaveAnswer,
    LeaveRequest,
    MigrationProgress,
    NodeInfo,
    NodeInfoRequest,
    StartMigrationRequest,
    WatchMigrationRequest,
)
from noctule.adapters.grpc_errors import error_of
from noctule.adapters.grpc_methods import Method
from noctule.adapters.grpc_options import Options, channel_options
from noctule.adapters.tls import Tls, dns_name_of
from noctule.base.bounds import CONTROL_MESSAGE_BYTES_MAX

Ask = TypeVar("Ask", bound=msgspec.Struct)
Answer = TypeVar("Answer", bound=msgspec.Struct)

READ_TIMEOUT_S = 5.0
CHANGE_TIMEOUT_S = 15.0
"""Of calls that change something: longer than the election that may be in their way."""
HEARTBEAT_TIMEOUT_S = 1.0
CHANNELS_MAX = 128
"""Over it the channel unused for the longest is closed: more than the members of any cluster that we run."""


def open_channel(address: str, tls: Tls | None, options: Options) -> grpc.aio.Channel:
    """A channel to ``host:port``, which connects when it is first used."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    # The name in the peer's certificate must be that of a node of our cluster, whatever the address.
    named = (*options, ("grpc.ssl_target_name_override", dns_name_of(tls.cluster)))
    return grpc.aio.secure_channel(address, tls.channel_credentials(), options=named)


class Channels:
    """Channels that are kept by their addresses; with renewed TLS files a new one takes the place of each."""

    def __init__(self, tls: Tls | None, options: Options) -> None:
        self._tls = tls
        self._options = options
        self._open: dict[str, tuple[int, grpc.aio.Channel]] = {}
        """With the generation of the files; the one used last stands at the end."""
        self._closing: set[asyncio.Task[None]] = set()

    def get(self, address: str) -> grpc.aio.Channel:
        """The channel to this address."""
        if self._tls is not None:
            self._tls.refresh()
        generation = self._tls.generation if self._tls is not None else 0
        known = self._open.pop(address, None)
        if known is not None and known[0] != generation:
            self._retire(known[1])
            known = None
        if known is None:
            known = (generation, open_channel(address, self._tls, self._options))
        self._open[address] = known
        if len(self._open) > CHANNELS_MAX:
            self._retire(self._open.pop(next(iter(self._open)))[1])
        return known[1]

    async def close(self) -> None:
        """Close all of them; calls in progress are cancelled."""
        for _, channel in self._open.values():
            self._retire(channel, grace_s=0)
        self._open.clear()
        await asyncio.gather(*self._closing)

    def _retire(self, channel: grpc.aio.Channel, grace_s: float = CHANGE_TIMEOUT_S) -> None:
        closing = asyncio.get_running_loop().create_task(channel.close(grace_s), name="close a channel")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


class ControlClient:
    """Asks the control services of other nodes, by their addresses ``host:port``.

    Every method raises the `NoctuleError` that the other node answered with. Without an answer it raises
    `UnavailableError` where nothing can have happened, and `OutcomeUnknownError` for changes otherwise. An address
    where nothing listens fails at once instead of waiting for it.
    """

    def __init__(self, tls: Tls | None = None) -> None:
        self._channels = Channels(tls, channel_options(CONTROL_MESSAGE_BYTES_MAX))

    async def join(self, address: str, request: JoinRequest, timeout_s: float = CHANGE_TIMEOUT_S) -> JoinAnswer:
        """Ask to be let in. May be asked again, here or elsewhere, with the same nonce, whatever was raised."""
        return await self._change(address, methods.JOIN, request, timeout_s)

    async def leave(self, address: str, request: LeaveRequest, timeout_s: float = CHANGE_TIMEOUT_S) -> LeaveAnswer:
        """Ask that a node be taken out. May be asked again."""
        return await self._change(address, methods.LEAVE, request, timeout_s)

    async def get_cluster_info(self, address: str, timeout_s: float = READ_TIMEOUT_S) -> ClusterInfo:
        """The cluster as that node knows it."""
        return await self._read(address, methods.GET_CLUSTER_INFO, ClusterInfoRequest(), timeout_s)

    async def get_node_info(self, address: str, timeout_s: float = READ_TIMEOUT_S) -> NodeInfo:
        """That node."""
        return await self._read(address, methods.GET_NODE_INFO, NodeInfoRequest(), timeout_s)

    async def heartbeat(
        self, address: str, request: HeartbeatRequest, timeout_s: float = HEARTBEAT_TIMEOUT_S
    ) -> HeartbeatAnswer:
        """A sign of life there and back."""
        return await self._read(address, methods.HEARTBEAT, request, timeout_s)

    async def start_migration(
        self, address: str, request: StartMigrationRequest, timeout_s: float = CHANGE_TIMEOUT_S
    ) -> MigrationProgress:
        """Begin to move, add or drop a replica."""
        return await self._change(address, methods.START_MIGRATION, request, timeout_s)

    async def cancel_migration(
        self, address: str, request: CancelMigrationRequest, timeout_s: float = CHANGE_TIMEOUT_S
    ) -> MigrationProgress:
        """Have a migration go back. May be asked again."""
        return await self._change(address, methods.CANCEL_MIGRATION, request, timeout_s)

    async def watch_migration(
        self, address: str, request: WatchMigrationRequest, timeout_s: float
    ) -> AsyncIterator[MigrationProgress]:
        """Progress as it comes, until the migration has ended or the time is over, which raises `UnavailableError`.

        Close the iterator (``aclosing``) when leaving it early.
        """
        method = methods.WATCH_MIGRATION
        stub: Callable[..., Any] = self._channels.get(address).unary_stream(method.path)
        call = stub(method.request.encode(request), timeout=timeout_s, wait_for_ready=False)
        try:
            async for data in call:
                yield method.answer.decode(data)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, address, is_change=False) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close every channel; calls in progress are cancelled."""
        await self._channels.close()

    async def _read(self, address: str, method: Method[Ask, Answer], request: Ask, timeout_s: float) -> Answer:
        return await self._call(address, method, request, timeout_s, is_change=False)

    async def _change(self, address: str, method: Method[Ask, Answer], request: Ask, timeout_s: float) -> Answer:
        return await self._call(address, method, request, timeout_s, is_change=True)

    async def _call(
        self, address: str, method: Method[Ask, Answer], request: Ask, timeout_s: float, *, is_change: bool
    ) -> Answer:
        stub: Callable[..., Any] = self._channels.get(address).unary_unary(method.path)
        data = method.request.encode(request)
        try:
            return method.answer.decode(await stub(data, timeout=timeout_s, wait_for_ready=False))
        except grpc.aio.AioRpcError as error:
            raise error_of(error, address, is_change=is_change) from None
