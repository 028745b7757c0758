"""The gRPC service of a node: requests in, a `ControlHandler` asked, answers or our errors out.

Health is the standard ``grpc.health.v1.Health``, so that load balancers and orchestrators can ask for it. Whoever has
more to offer on the same port, such as the receiver of snapshots, adds its handler before the start.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
import msgspec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from noctule.adapters import grpc_methods as methods
from noctule.adapters.control import ControlHandler
from noctule.adapters.grpc_errors import INTERNAL_SENTENCE, status_of
from noctule.adapters.grpc_methods import Method
from noctule.adapters.grpc_options import server_options
from noctule.adapters.ports import check_port_free
from noctule.adapters.tls import Tls
from noctule.base.bounds import CONTROL_CALLS_MAX, CONTROL_MESSAGE_BYTES_MAX, SNAPSHOT_PIECE_BYTES_MAX
from noctule.base.errors import ConfigError, InternalError, NoctuleError, RequestError, TooLargeError

log = logging.getLogger("noctule.control")

Ask = TypeVar("Ask", bound=msgspec.Struct)
Answer = TypeVar("Answer", bound=msgspec.Struct)
Context = Any
"""A `grpc.aio.ServicerContext`, which is generic in its stubs and not at run time."""

STOP_GRACE_S = 2.0
"""Calls in progress may end within it; then they are cancelled."""


class ControlServer:
    """Serves one handler on one port."""

    def __init__(self, handler: ControlHandler, tls: Tls | None = None) -> None:
        self._tls = tls
        self._server = grpc.aio.server(
            options=server_options(SNAPSHOT_PIECE_BYTES_MAX), maximum_concurrent_rpcs=CONTROL_CALLS_MAX
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.add(
            self._unary(methods.JOIN, handler.join),
            self._unary(methods.LEAVE, handler.leave),
            self._unary(methods.GET_CLUSTER_INFO, handler.get_cluster_info),
            self._unary(methods.GET_NODE_INFO, handler.get_node_info),
            self._unary(methods.HEARTBEAT, handler.heartbeat),
            self._unary(methods.START_MIGRATION, handler.start_migration),
            self._streamed(methods.WATCH_MIGRATION, handler.watch_migration),
            self._unary(methods.CANCEL_MIGRATION, handler.cancel_migration),
        )

    def add(self, *handlers: grpc.GenericRpcHandler) -> None:
        """Serve these, too; before `start`."""
        self._server.add_generic_rpc_handlers(handlers)

    async def start(self, host: str, port: int) -> int:
        """Serve, and say so to whoever asks for health; returns the port.

        Raises `ConfigError` when the port is in use.
        """
        address = f"{host}:{port}"
        try:
            check_port_free(host, port)  # gRPC would say why on stderr, and only there.
            if self._tls is not None:
                bound = self._server.add_secure_port(address, self._tls.server_credentials())
            else:
                bound = self._server.add_insecure_port(address)
        except (OSError, RuntimeError) as error:
            await self._server.stop(None)  # Else its end would be begun when it is collected, maybe without a loop.
            raise ConfigError(
                f"cannot listen for control on {address}: the port is in use, or the address is not this machine's; "
                "choose another --control-port"
            ) from error
        await self._server.start()
        await self.set_serving(True)
        return bound

    async def set_serving(self, is_serving: bool) -> None:
        """What the health service answers, for the whole server."""
        states = health_pb2.HealthCheckResponse
        await self._health.set("", states.SERVING if is_serving else states.NOT_SERVING)

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Take no more calls, let those in progress end within the grace, cancel the rest."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    def _unary(self, method: Method[Ask, Answer], handle: Callable[[Ask], Awaitable[Answer]]) -> grpc.GenericRpcHandler:
        async def serve(data: bytes, context: Context) -> bytes:
            try:
                check_peer(self._tls, context)
                return method.answer.encode(await handle(_request(method, data)))
            except Exception as error:
                # The outermost place of a call.
                await refuse(context, error, method.path)

        return generic(method, grpc.unary_unary_rpc_method_handler(serve))

    def _streamed(
        self, method: Method[Ask, Answer], handle: Callable[[Ask], AsyncIterator[Answer]]
    ) -> grpc.GenericRpcHandler:
        async def serve(data: bytes, context: Context) -> AsyncIterator[bytes]:
            try:
                check_peer(self._tls, context)
                async for answer in handle(_request(method, data)):
                    yield method.answer.encode(answer)
            except Exception as error:
                # The outermost place of a call.
                await refuse(context, error, method.path)

        return generic(method, grpc.unary_stream_rpc_method_handler(serve))


def _request(method: Method[Ask, Answer], data: bytes) -> Ask:
    if len(data) > CONTROL_MESSAGE_BYTES_MAX:  # The port takes more, for pieces of snapshots.
        raise TooLargeError(f"a request of {len(data)} bytes is over the limit of {CONTROL_MESSAGE_BYTES_MAX}")
    return method.request.decode(data)


def generic(method: Method[Ask, Answer], handler: "grpc.RpcMethodHandler[Any, Any]") -> grpc.GenericRpcHandler:
    """A server's handler for one method; it is given bytes, and gives bytes."""
    return grpc.method_handlers_generic_handler(method.service, {method.name: handler})


def check_peer(tls: Tls | None, context: Context) -> None:
    """Raise `RequestError` when the caller's certificate is not of our cluster."""
    if tls is None:
        return
    names = context.auth_context().get("x509_subject_alternative_name", ())
    if reason := tls.refusal_of(name.decode() for name in names):
        log.warning("control_peer_refused", extra={"fields": {"peer": context.peer(), "reason": reason}})
        raise RequestError(reason)


async def refuse(context: Context, error: Exception, path: str) -> NoReturn:
    """End a call with an error; one that nobody foresaw is logged here and told without its text. Does not return."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, NoctuleError):
        log.error("control_call_failed", exc_info=error, extra={"fields": {"method": path}})
        error = InternalError(INTERNAL_SENTENCE)
    code, sentence, facts = status_of(error)
    await context.abort(code, sentence, facts)
    raise AssertionError("abort raises")
