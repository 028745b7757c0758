"""Small real servers that health checks are made of: each says what the test wants, and can fall silent."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from aiohttp import web
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health


class CheckedHttp:
    """Answers GET /health with `status` and `body`; keeps what it was asked with."""

    def __init__(self) -> None:
        self.status, self.body = 200, "fine"
        self.is_silent = False
        self.asked: list[tuple[str, dict[str, str], str]] = []
        self.url = ""

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, dict(request.headers), await request.text()))
        while self.is_silent:
            await asyncio.sleep(0.05)
        return web.Response(status=self.status, text=self.body)

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["CheckedHttp"]:
        app = web.Application()
        app.router.add_route("*", "/health", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{site.port}/health"
        try:
            yield self
        finally:
            self.is_silent = False
            await runner.cleanup()


@asynccontextmanager
async def tcp_server() -> AsyncIterator[tuple[str, asyncio.Server]]:
    """Its address, and the server, which is to be closed to refuse connections."""

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", server
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def grpc_server(
    tls: grpc.ServerCredentials | None = None,
) -> AsyncIterator[tuple[str, health.HealthServicer]]:
    """Its address, and the standard health service of it, whose word is set by the test."""
    server, servicer = grpc.aio.server(), health.HealthServicer()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "grpc.health.v1.Health",
                {
                    "Check": grpc.unary_unary_rpc_method_handler(
                        servicer.Check,
                        request_deserializer=health_pb2.HealthCheckRequest.FromString,
                        response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
                    )
                },
            ),
        )
    )
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, tls) if tls is not None else server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        await server.stop(None)
