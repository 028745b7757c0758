"""One attempt of a health check over a socket: HTTP, TCP, and gRPC's standard health service.

Each returns what it found and raises nothing but cancellation; how long it may take is for the caller, who cancels.
"""

import asyncio
import contextlib
import ssl

import aiohttp
import grpc
from grpc_health.v1 import health_pb2

from noctule.base.addresses import split_address
from noctule.core.registry.bounds import OUTPUT_BYTES_MAX, cut_output
from noctule.core.registry.definitions import CheckDefinition
from noctule.core.registry.objects import CheckStatus

REDIRECTS_MAX = 10
USER_AGENT = "Noctule Health Check"

Result = tuple[CheckStatus, str]
"""And the sentence for people."""


class HealthProbes:
    """Makes attempts; `close` it at the end. Certificates are held against the CAs of the system."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Give the sockets back."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def attempt(self, check: CheckDefinition) -> Result:
        """One attempt of a check by http, tcp or grpc."""
        try:
            if check.http:
                return await self._http(check)
            return await (self._tcp(check.tcp) if check.tcp else self._grpc(check))
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
            return CheckStatus.CRITICAL, cut_output(f"{check.http or check.tcp or check.grpc}: {_words(error)}")

    async def _http(self, check: CheckDefinition) -> Result:
        headers = [(name, value) for name, values in check.headers.items() for value in values]
        async with self._open_session().request(
            check.method,
            check.http,
            headers=headers,
            data=check.body.encode() or None,
            ssl=not check.tls_skip_verify,
            max_redirects=REDIRECTS_MAX,
        ) as response:
            said = (await _beginning(response.content)).decode("utf-8", "replace")
            status = CheckStatus.CRITICAL
            if 200 <= response.status < 300:
                status = CheckStatus.PASSING
            elif response.status == 429:
                status = CheckStatus.WARNING
            line = f"HTTP {check.method} {check.http}: {response.status} {response.reason or ''}".rstrip()
            return status, cut_output(f"{line} Output: {said}")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Every attempt is a connection of its own: one that is kept would not notice that nobody accepts any more.
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            timeout, headers = aiohttp.ClientTimeout(total=None), {"User-Agent": USER_AGENT}
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, headers=headers, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    async def _tcp(self, address: str) -> Result:
        _, writer = await asyncio.open_connection(*split_address(address))
        writer.close()
        with contextlib.suppress(OSError):  # It was open, whatever becomes of it now.
            await writer.wait_closed()
        return CheckStatus.PASSING, f"TCP connect {address}: Success"

    async def _grpc(self, check: CheckDefinition) -> Result:
        target, _, service = check.grpc.partition("/")
        # gRPC would go by the environment's proxy, and share a connection that a former attempt has found broken.
        options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
        if check.grpc_tls:
            channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
        else:
            channel = grpc.aio.insecure_channel(target, options=options)
        try:
            ask = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            answer = await ask(health_pb2.HealthCheckRequest(service=service))
        except grpc.aio.AioRpcError as error:
            return CheckStatus.CRITICAL, cut_output(f"gRPC {check.grpc}: {error.code().name} {error.details() or ''}")
        finally:
            await channel.close()
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        status = CheckStatus.PASSING if name == "SERVING" else CheckStatus.CRITICAL
        return status, f"gRPC {check.grpc}: {name}"


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    """As much as is kept of what is said, which is for people; a longer body is not read to its end."""
    found = bytearray()
    while len(found) < OUTPUT_BYTES_MAX and (piece := await content.read(OUTPUT_BYTES_MAX - len(found))):
        found += piece
    return bytes(found)


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
