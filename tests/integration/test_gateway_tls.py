"""TLS and HTTP/2 of the embedded gateway: real handshakes, and an HTTP/2 client that does what it should not."""

import asyncio
import contextlib
import datetime
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import httpx
import pytest
from aiohttp import web
from engines import free_port
from gateway_world import CONFIG, DEADLINE_S, MIB, MakeWorld, World, named, wait_until
from hyperframe.frame import ContinuationFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

from noctule.adapters.certificates import CertificateAuthority
from noctule.base.errors import ConfigError
from noctule.gateway.model import Certificate

pytestmark = pytest.mark.integration


class Authority:
    """A CA, and certificates of it in files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = CertificateAuthority("test", datetime.datetime.now(datetime.UTC))
        self.trusted = folder / "ca.pem"
        self.trusted.write_bytes(self._ca.certificate_pem)

    def issue(self, name: str, *hosts: str) -> Certificate:
        """A pair of files; issued again under the same name it replaces them."""
        certificate, key = self._ca.issue(hosts, datetime.datetime.now(datetime.UTC))
        files = [self._folder / f"{name}.{kind}" for kind in ("crt", "key")]
        for file, data in zip(files, (certificate, key), strict=True):
            file.write_bytes(data)
        return Certificate(certificate=str(files[0]), key=str(files[1]))

    def context(self, *protocols: str, **versions: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.trusted)
        if protocols:
            context.set_alpn_protocols(protocols)
        for name, version in versions.items():
            setattr(context, name, version)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def secure(make_world: MakeWorld, authority: Authority) -> World:
    """A gateway with a certificate for localhost and one for shop.example."""
    certificates = (authority.issue("local", "localhost", "127.0.0.1"), authority.issue("shop", "shop.example"))
    return await make_world(replace(CONFIG, tls=certificates, tls_port=free_port()))


async def handshake(
    world: World, context: ssl.SSLContext, name: str, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """A connection of a blocking client, in a thread; the caller closes it."""

    def connect() -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", world.gateway.tls_port), DEADLINE_S)
        try:
            return context.wrap_socket(plain, server_hostname=name, session=session)
        except BaseException:
            plain.close()
            raise

    return await asyncio.to_thread(connect)


def names_of(secured: ssl.SSLSocket) -> set[str]:
    found = secured.getpeercert() or {}
    return {value for kind, value in found.get("subjectAltName", ()) if kind == "DNS"}


# --- TLS ---


async def test_the_certificate_is_chosen_by_name(secure: World, authority: Authority) -> None:
    for name in ("localhost", "shop.example"):
        with await handshake(secure, authority.context(), name) as secured:
            assert name in names_of(secured)
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(secure, authority.context(), "other.example")


async def test_only_tls_1_2_and_1_3_are_spoken(secure: World, authority: Authority) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = authority.context(minimum_version=version, maximum_version=version)
        with await handshake(secure, context, "localhost") as secured:
            assert secured.version() == version.name.replace("_", ".")
    old = authority.context()
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):  # noqa: PT031 - two versions, one after the other
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await handshake(secure, old, "localhost")


async def test_sessions_are_resumed(secure: World, authority: Authority) -> None:
    await secure.toy("a", named("a"))
    context = authority.context(maximum_version=ssl.TLSVersion.TLSv1_2)
    with await handshake(secure, context, "shop.example") as first:
        session = first.session
    with await handshake(secure, context, "shop.example", session) as second:
        assert second.session_reused


async def test_changed_certificates_are_used_and_connections_stay(secure: World, authority: Authority) -> None:
    await secure.toy("a", named("a"))
    plane = secure.plane
    with await handshake(secure, authority.context(), "shop.example") as before:
        serial = (before.getpeercert() or {})["serialNumber"]
        authority.issue("shop", "shop.example", "new.example")

        async def reloaded() -> bool:
            with await handshake(secure, authority.context(), "shop.example") as after:
                return (after.getpeercert() or {})["serialNumber"] != serial

        async with asyncio.timeout(DEADLINE_S):
            while not await reloaded():
                await asyncio.sleep(0.1)
        with await handshake(secure, authority.context(), "new.example") as after:
            assert "new.example" in names_of(after)
        before.sendall(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        assert (await asyncio.to_thread(before.recv, 1000)).startswith(b"HTTP/1.1 200 ")
    assert plane.model.certificates


async def test_links_that_lead_to_newer_files_are_followed(secure: World, authority: Authority) -> None:
    """As certbot keeps them: the paths stay, and lead to another pair after each renewal."""
    await secure.toy("a", named("a"))
    old = secure.plane.model.certificates[0]
    new = authority.issue("renewed", "localhost", "renewed.example")
    for path, target in ((old.certificate, new.certificate), (old.key, new.key)):
        link = Path(f"{path}.link")
        link.symlink_to(target)
        link.replace(path)

    async def is_renewed() -> bool:
        with await handshake(secure, authority.context(), "localhost") as after:
            return "renewed.example" in names_of(after)

    async with asyncio.timeout(DEADLINE_S):
        while not await is_renewed():
            await asyncio.sleep(0.1)


async def test_a_broken_pair_of_files_is_told_and_the_old_one_stays(
    secure: World, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    Path(secure.plane.model.certificates[0].key).write_bytes(b"no key")
    await wait_until(lambda: any(record.msg == "certificate_unusable" for record in caplog.records))
    with await handshake(secure, authority.context(), "localhost") as secured:
        assert "localhost" in names_of(secured)


async def test_an_unusable_certificate_is_told_before_the_start(make_world: MakeWorld, tmp_path: Path) -> None:
    missing = Certificate(certificate=str(tmp_path / "missing.crt"), key=str(tmp_path / "missing.key"))
    with pytest.raises(ConfigError, match=r"^gateway: the certificate .*missing.crt cannot be used"):
        await make_world(replace(CONFIG, tls=(missing,), tls_port=free_port()))
    Path(missing.certificate).write_text("no certificate")
    Path(missing.key).write_text("no key")
    with pytest.raises(ConfigError, match=r"missing.crt cannot be used: one of its two files is not .* in PEM"):
        await make_world(replace(CONFIG, tls=(missing,), tls_port=free_port()))


async def test_plain_requests_are_sent_to_tls(make_world: MakeWorld, authority: Authority) -> None:
    port = free_port()
    settings = replace(CONFIG, tls=(authority.issue("local", "localhost"),), tls_port=port, redirect_to_tls=True)
    world = await make_world(settings)
    toy = await world.toy("a", named("a"))
    async with world.client.post(world.url + "/a?b=c", data=b"x", allow_redirects=False) as response:
        assert response.status == 308
        assert response.headers["Location"] == f"https://127.0.0.1:{port}/a?b=c"
    assert toy.seen == []
    async with world.client.get(f"https://localhost:{port}/", ssl=authority.context()) as response:
        assert await response.text() == "a"
    assert toy.seen[0].headers["X-Forwarded-Proto"] == "https"


async def test_websockets_pass_through_tls(secure: World, authority: Authority) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(max_msg_size=0)
        await websocket.prepare(request)
        async for message in websocket:
            await websocket.send_bytes(message.data)
        return websocket

    await secure.toy("a", echo)
    url = f"https://localhost:{secure.gateway.tls_port}/ws"
    async with secure.client.ws_connect(url, ssl=authority.context(), max_msg_size=0) as websocket:
        message = os.urandom(2 * MIB)
        await websocket.send_bytes(message)
        assert await websocket.receive_bytes() == message
    await wait_until(lambda: secure.in_flight == 0)


async def test_noise_instead_of_a_handshake_disturbs_nobody(secure: World, authority: Authority) -> None:
    await secure.toy("a", named("a"))
    for noise in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(500), b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", secure.gateway.tls_port)
        writer.write(noise)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), DEADLINE_S)
        writer.close()
    url = f"https://localhost:{secure.gateway.tls_port}/"
    async with secure.client.get(url, ssl=authority.context()) as response:
        assert response.status == 200


# --- HTTP/2 that means well ---


@asynccontextmanager
async def speaking_h2(world: World, authority: Authority) -> AsyncIterator[httpx.AsyncClient]:
    url = f"https://localhost:{world.gateway.tls_port}"
    async with httpx.AsyncClient(http2=True, verify=authority.context(), base_url=url, timeout=DEADLINE_S) as client:
        yield client


async def test_http2_requests_are_the_same_requests(secure: World, authority: Authority) -> None:
    async def mirror(request: web.Request) -> web.Response:
        body = await request.read()
        seen = [[name, value] for name, value in request.headers.items()]
        answer = {"method": request.method, "path": request.raw_path, "headers": seen, "length": len(body)}
        return web.json_response(answer, headers={"X-App": "1"})

    await secure.toy("a", mirror)
    async with speaking_h2(secure, authority) as client:
        response = await client.post("/a?b=%2F", content=bytes(300_000), headers={"cookie": "a=1"})
    assert (response.http_version, response.status_code) == ("HTTP/2", 200)
    assert (response.headers["x-app"], response.headers["x-noctule-gateway"]) == ("1", "1")
    seen = response.json()
    assert (seen["method"], seen["path"], seen["length"]) == ("POST", "/a?b=%2F", 300_000)
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert headers["host"] == f"localhost:{secure.gateway.tls_port}"
    assert (headers["x-forwarded-proto"], headers["x-forwarded-for"]) == ("https", "127.0.0.1")
    assert (headers["cookie"], headers["content-length"]) == ("a=1", "300000")


async def test_http2_streams_both_ways_and_at_once(secure: World, authority: Authority) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
        response = web.StreamResponse(headers={"X-Size": str(size)})
        await response.prepare(request)
        for _ in range(8):
            await response.write(bytes(MIB // 4))
        return response

    await secure.toy("a", answer)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(16):
            yield bytes(MIB // 16)

    async with speaking_h2(secure, authority) as client:
        responses = await asyncio.gather(*(client.post("/", content=pieces()) for _ in range(10)))
    assert {(response.headers["x-size"], len(response.content)) for response in responses} == {(str(MIB), 2 * MIB)}
    await wait_until(lambda: secure.in_flight == 0)


async def test_http2_statuses_without_a_body(secure: World, authority: Authority) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=int(request.path[1:]), headers={"ETag": '"1"'})

    await secure.toy("a", answer)
    async with speaking_h2(secure, authority) as client:
        for status in (204, 304):
            response = await client.get(f"/{status}")
            assert (response.status_code, response.content) == (status, b"")
        response = await client.head("/200")
        assert (response.status_code, response.content) == (200, b"")


async def test_a_broken_response_breaks_its_stream_only(secure: World, authority: Authority) -> None:
    async def serve(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/good" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
            return
        length = 100 if b"/short" in head else 100_000
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\npart" % length)
        await writer.drain()
        writer.close()

    await secure.raw("a", serve)
    async with speaking_h2(secure, authority) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/long")
        assert (await client.get("/short")).status_code == 502, "held, so nothing of it has been told"
        assert (await client.get("/good")).text == "good"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: the library h2 gives a connection up at GOAWAY")
async def test_stopping_answers_open_streams_and_takes_no_more(secure: World, authority: Authority) -> None:
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response(text="done")

    toy = await secure.toy("a", answer)
    url = f"https://localhost:{secure.gateway.tls_port}/"
    curl = await asyncio.create_subprocess_exec(
        *("curl", "--http2", "--silent", "--verbose", "--cacert", str(authority.trusted), url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await wait_until(lambda: len(toy.seen) == 1)
    stopping = asyncio.create_task(secure.gateway.stop(drain_s=5.0))
    # So that the client has read GOAWAY when its answer comes.
    await asyncio.sleep(0.2)
    release.set()
    async with asyncio.timeout(DEADLINE_S):
        out, told = await curl.communicate()
        await stopping
    assert (curl.returncode, out) == (0, b"done")
    assert b"HTTP/2 200" in told


# --- HTTP/2 that does not ---


class Rude:
    """A client on the frames of HTTP/2."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def ask(self, *headers: tuple[str, str], method: str = "GET", path: str = "/", end_stream: bool = True) -> int:
        stream_id: int = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
        self.h2.send_headers(stream_id, [*pseudo, *headers], end_stream=end_stream)
        self.flush()
        return stream_id

    async def events(self, until: Callable[[list[h2.events.Event]], bool]) -> list[h2.events.Event]:
        """What comes until it is enough, or the gateway closes."""
        found: list[h2.events.Event] = []
        async with asyncio.timeout(DEADLINE_S):
            while not until(found):
                try:
                    data = await self._reader.read(65_536)
                except ConnectionError:
                    break
                if not data:
                    break
                found += self.h2.receive_data(data)
                with contextlib.suppress(ConnectionError):
                    self.flush()
        return found

    async def end(self) -> int | None:
        """The code the gateway ends the connection with; None when it said nothing."""
        found = await self.events(lambda _: False)
        codes = [event.error_code for event in found if isinstance(event, h2.events.ConnectionTerminated)]
        return int(codes[0] or 0) if codes else None

    async def status(self, stream_id: int) -> int:
        def is_ended(found: list[h2.events.Event]) -> bool:
            return any(isinstance(e, h2.events.StreamEnded | h2.events.StreamReset) for e in found)

        for event in await self.events(is_ended):
            if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream_id:
                return int(dict(event.headers or [])[b":status"])
        return 0


@asynccontextmanager
async def rude(world: World, authority: Authority) -> AsyncIterator[Rude]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", world.gateway.tls_port, ssl=authority.context("h2"), server_hostname="localhost"
    )
    try:
        yield Rude(reader, writer)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("headers", "method", "path"),
    [
        ((("x-a", "1\r\nx-b: 2"),), "GET", "/"),
        ((("x-a", "1\n2"),), "GET", "/"),
        ((("x-a\r\nx-b", "1"),), "GET", "/"),
        ((("transfer-encoding", "chunked"),), "POST", "/"),
        ((("connection", "close"),), "GET", "/"),
        ((("te", "gzip"),), "GET", "/"),
        ((("host", "other.example"),), "GET", "/"),
        ((("content-length", "5"), ("content-length", "6")), "POST", "/"),
        ((("content-length", "+5"),), "POST", "/"),
        ((), "GET", "/a b"),
        ((), "GET", "/ HTTP/1.1\r\nX: y"),
        ((), "GET", "/#x"),
        ((), "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET", "/"),
        ((), "CONNECT", "/"),
    ],
)
async def test_what_http1_could_not_carry_reaches_no_instance(
    secure: World, authority: Authority, headers: tuple[tuple[str, str], ...], method: str, path: str
) -> None:
    toy = await secure.toy("a", named("a"))
    async with rude(secure, authority) as client:
        stream_id = client.ask(*headers, method=method, path=path)
        assert await client.status(stream_id) in (0, 400, 405)
    await wait_until(lambda: secure.in_flight == 0)
    assert toy.seen == []


async def test_a_body_that_is_not_as_long_as_announced_breaks_the_stream(secure: World, authority: Authority) -> None:
    whole: list[bytes] = []

    async def answer(request: web.Request) -> web.Response:
        whole.append(await request.read())
        return web.Response()

    await secure.toy("a", answer)
    async with rude(secure, authority) as client:
        stream_id = client.ask(("content-length", "5"), method="POST", end_stream=False)
        client.h2.send_data(stream_id, b"abc", end_stream=True)
        client.flush()
        assert await client.status(stream_id) == 0
    assert whole == []


async def test_heads_over_the_bound_are_refused(secure: World, authority: Authority) -> None:
    toy = await secure.toy("a", named("a"))
    async with rude(secure, authority) as client:
        assert await client.status(client.ask(("x-long", "x" * 17_000))) == 431
        assert await client.status(client.ask(*((f"x-{number}", "1") for number in range(101)))) == 431
        client.ask(*((f"x-{number}", "x" * 10_000) for number in range(20)))
        assert await client.end() is not None
    assert toy.seen == []


async def test_rapid_resets_end_the_connection(secure: World, authority: Authority) -> None:
    """CVE-2023-44487: each request costs the client two small frames, and the gateway a request."""
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    await secure.toy("a", answer)
    async with rude(secure, authority) as client:
        for _ in range(1_000):
            stream_id = client.ask()
            client.writer.write(RstStreamFrame(stream_id, error_code=8).serialize())
            client.h2.reset_stream(stream_id)
            client.h2.data_to_send()
        assert await client.end() == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
    release.set()
    await wait_until(lambda: secure.in_flight == 0)
    assert secure.gateway.picture().requests < 300


async def test_continuations_without_end_end_the_connection(secure: World, authority: Authority) -> None:
    """CVE-2024-27316."""
    async with rude(secure, authority) as client:
        client.writer.write(HeadersFrame(1, data=b"").serialize())
        with contextlib.suppress(ConnectionError):
            for _ in range(2_000):
                client.writer.write(ContinuationFrame(1, data=b"\x00\x01a\x01b" * 10).serialize())
                await client.writer.drain()
        assert await client.end() is not None
    assert secure.plane.requests == 0


@pytest.mark.parametrize("frame", [PingFrame(0, opaque_data=b"12345678"), SettingsFrame(0, settings={4: 65_535})])
async def test_pings_and_settings_without_end_end_the_connection(
    secure: World, authority: Authority, frame: PingFrame | SettingsFrame
) -> None:
    """CVE-2019-9512 and 9515: each makes the gateway answer."""
    async with rude(secure, authority) as client:
        client.writer.write(frame.serialize() * 5_000)
        assert await client.end() == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


async def test_streams_over_the_bound_end_the_connection(secure: World, authority: Authority) -> None:
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    toy = await secure.toy("a", answer)
    async with rude(secure, authority) as client:
        client.h2.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 10_000
        client.h2.remote_settings.acknowledge()
        for _ in range(200):
            client.ask()
        assert await client.end() is not None
    assert len(toy.seen) <= 128
    release.set()
    await wait_until(lambda: secure.in_flight == 0)


async def test_a_client_that_opens_no_window_holds_little_and_not_for_ever(
    make_world: MakeWorld, authority: Authority
) -> None:
    settings = replace(CONFIG, tls=(authority.issue("local", "localhost"),), tls_port=free_port(), idle_timeout_s=0.5)
    world = await make_world(settings)
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 512 * MIB:
            await response.write(bytes(MIB))
            sent += MIB
        return response

    await world.toy("a", answer)
    async with rude(world, authority) as client:
        client.ask()
        await wait_until(lambda: world.in_flight == 1)
        # The library opens its windows only when it is told to, which is never here.
        await wait_until(lambda: world.in_flight == 0)
    assert sent < 64 * MIB
