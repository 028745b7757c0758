"""TLS between nodes over real sockets: who is let in, who is not, what the log says, and files that are renewed."""

import asyncio
import contextlib
import datetime
import gc
import random
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scenarios import SCENARIO_S, Run
from test_control import Desk

from noctule.adapters.certificates import CertificateAuthority
from noctule.adapters.control import LeaveAnswer, LeaveRequest
from noctule.adapters.control_client import ControlClient
from noctule.adapters.control_server import ControlServer
from noctule.adapters.grpc_transport import GrpcTransport
from noctule.adapters.peer_connections import PeerConnections
from noctule.adapters.tls import Tls, TlsFiles
from noctule.adapters.transport import PeerTransport
from noctule.base.errors import ConfigError, NoctuleError
from noctule.core.raft.messages import Heartbeat
from noctule.core.wire.frames import PROTOCOL_VERSION, encode_frame
from noctule.core.wire.messages import Envelope, Hello

pytestmark = pytest.mark.integration

HOST = "127.0.0.1"
WAIT_S = 5.0
NOW = datetime.datetime.now(datetime.UTC)
BEAT = encode_frame([(1, Heartbeat(1, 2, 3))])


class Ear:
    def __init__(self) -> None:
        self.frames: list[int] = []

    def frame_received(self, sender: int, envelopes: list[Envelope]) -> None:
        self.frames.append(sender)

    def peer_connected(self, hello: Hello) -> None:
        pass

    def peer_disconnected(self, node: int) -> None:
        pass


@dataclass
class Desktop:
    """Where certificates are written to."""

    folder: Path

    def files(
        self, name: str, authority: CertificateAuthority, now: datetime.datetime = NOW, days: int = 5
    ) -> TlsFiles:
        """Those of one node, written anew."""
        found = TlsFiles(*(self.folder / f"{name}.{what}" for what in ("ca", "pem", "key")))
        cert, key = authority.issue([HOST], now, days)
        for path, content in ((found.ca, authority.certificate_pem), (found.cert, cert), (found.key, key)):
            path.write_bytes(content)
        return found

    def tls(self, name: str, authority: CertificateAuthority, cluster: str = "bats", **more: Any) -> Tls:
        return Tls(self.files(name, authority, **more), cluster)


@pytest.fixture
def desktop(tmp_path: Path) -> Desktop:
    return Desktop(tmp_path)


BATS = CertificateAuthority("bats", NOW)
KINDS: list[type[PeerTransport | GrpcTransport]] = [PeerTransport, GrpcTransport]


def hello_of(node: int) -> Hello:
    return Hello(PROTOCOL_VERSION, "bats", "f", node, 100 + node)


async def wait_until(condition: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.002)  # Between two looks.


@asynccontextmanager
async def pair(
    kind: type[PeerTransport | GrpcTransport], first: Tls | None, second: Tls | None
) -> AsyncIterator[tuple[PeerConnections, PeerConnections, Ear, Ear, int]]:
    """Nodes 1 and 2 which dial each other, their ears, and the port of the second."""
    ears = Ear(), Ear()
    one = kind(hello_of(1), ears[0], random.Random(1), tls=first)
    two = kind(hello_of(2), ears[1], random.Random(2), tls=second)
    try:
        ports = await one.listen(HOST, 0), await two.listen(HOST, 0)
        one.set_peers({2: (HOST, ports[1])})
        two.set_peers({1: (HOST, ports[0])})
        one.dial()
        two.dial()
        yield one, two, *ears, ports[1]
    finally:
        await one.close()
        await two.close()


@pytest.mark.parametrize("kind", KINDS)
def test_nodes_of_one_cluster_find_each_other(
    run: Run, desktop: Desktop, kind: type[PeerTransport | GrpcTransport]
) -> None:
    async def scenario() -> None:
        first, second = desktop.tls("one", BATS), desktop.tls("two", BATS)
        async with pair(kind, first, second) as (one, two, ear_one, ear_two, _):
            await wait_until(lambda: one.is_connected(2) and two.is_connected(1))
            one.send(2, encode_frame([(1, Heartbeat(1, 2, 3))] * 50_000))
            two.send(1, BEAT)
            await wait_until(lambda: ear_one.frames and ear_two.frames)

    run(scenario())


def strangers(desktop: Desktop) -> dict[str, Callable[[], Tls | None]]:
    """Nodes that must not be let in, by what is wrong with them."""
    owls = CertificateAuthority("owls", NOW)
    last_year = NOW - datetime.timedelta(days=400)
    mixed = CertificateAuthority("bats", NOW)

    def of_another_cluster() -> Tls:
        # The same CA, as in a company that has one, and another cluster's name.
        mixed.cluster = "owls"
        return desktop.tls("two", mixed, "bats")

    return {
        "wrong CA": lambda: desktop.tls("two", CertificateAuthority("bats", NOW)),
        "another cluster's CA": lambda: desktop.tls("two", owls, "owls"),
        "expired": lambda: desktop.tls("two", BATS, now=last_year),
        "wrong cluster": of_another_cluster,
        "plaintext": lambda: None,
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", ["wrong CA", "another cluster's CA", "expired", "wrong cluster", "plaintext"])
def test_a_stranger_is_kept_out_in_both_directions(
    run: Run,
    desktop: Desktop,
    kind: type[PeerTransport | GrpcTransport],
    wrong: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        authority = CertificateAuthority("bats", NOW) if wrong == "wrong cluster" else BATS
        if wrong == "wrong cluster":
            first = desktop.tls("one", authority)
            authority.cluster = "owls"
            second: Tls | None = desktop.tls("two", authority, "bats")
        else:
            first, second = desktop.tls("one", authority), strangers(desktop)[wrong]()
        async with pair(kind, first, second) as (one, two, ear_one, *_):
            await wait_until(lambda: is_told(one, caplog))
            await asyncio.sleep(0.1)  # Nothing must come of the next attempts, either.
            assert not one.is_connected(2)
            assert not two.is_connected(1) or wrong == "wrong cluster"
            assert not one.send(2, BEAT)
            two.send(1, BEAT)
            await asyncio.sleep(0.05)
            assert ear_one.frames == []

    run(scenario())


def is_told(node: PeerConnections, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether the log says what is wrong, in both directions."""
    events = {record.msg for record in caplog.records}
    return "peer_refused" in events and bool(node.refusals)


@pytest.mark.parametrize("kind", KINDS)
def test_renewed_files_count_at_the_next_connection(
    run: Run, desktop: Desktop, kind: type[PeerTransport | GrpcTransport]
) -> None:
    """A certificate of a year must not cost a restart of the cluster each year."""

    async def scenario() -> None:
        another = CertificateAuthority("bats", NOW)
        first, second = desktop.tls("one", BATS), desktop.tls("two", another)
        async with pair(kind, first, second) as (one, two, *_):
            await wait_until(lambda: one.refusals)
            assert not one.is_connected(2)
            desktop.files("two", BATS)  # Both CA and certificate, under the same names.
            await wait_until(lambda: one.is_connected(2) and two.is_connected(1))
            assert (first.generation, second.generation >= 2) == (1, True)

    run(scenario())


def test_half_renewed_files_change_nothing_yet(desktop: Desktop, caplog: pytest.LogCaptureFixture) -> None:
    tls = desktop.tls("one", BATS)
    context = tls.client_context()
    key = tls.files.key.read_bytes()
    tls.files.key.write_bytes(BATS.issue([HOST], NOW)[1])
    assert tls.client_context() is context
    assert [record.msg for record in caplog.records] == ["tls_files_unusable"]
    tls.files.key.write_bytes(key)
    assert tls.client_context() is not context


@pytest.mark.parametrize("what", ["missing", "no PEM", "another key"])
def test_files_that_cannot_be_used_are_named(desktop: Desktop, what: str) -> None:
    files = desktop.files("one", BATS)
    if what == "missing":
        files.key.unlink()
    elif what == "no PEM":
        files.ca.write_text("hello")
    else:
        files.key.write_bytes(BATS.issue([HOST], NOW)[1])
    with pytest.raises(ConfigError, match=str(files.ca if what == "no PEM" else files.key)):
        Tls(files, "bats")


def test_an_older_tls_is_refused(run: Run, desktop: Desktop) -> None:
    async def scenario() -> None:
        tls = desktop.tls("one", BATS)
        node = PeerTransport(hello_of(1), Ear(), random.Random(1), tls=tls)
        port = await node.listen(HOST, 0)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(tls.files.ca)
        context.load_cert_chain(tls.files.cert, tls.files.key)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(HOST, port, ssl=context)
        await node.close()

    run(scenario())


def test_whoever_connects_and_says_nothing_is_not_kept(
    run: Run, desktop: Desktop, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        node = PeerTransport(hello_of(1), Ear(), random.Random(1), tls=desktop.tls("one", BATS))
        port = await node.listen(HOST, 0)
        reader, writer = await asyncio.open_connection(HOST, port)
        assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
        writer.close()
        assert "peer_tls_failed" in [record.msg for record in caplog.records]
        await node.close()

    run(scenario())


@pytest.mark.parametrize("turns", range(12))
def test_a_node_that_stops_while_somebody_calls_leaves_no_socket(run: Run, desktop: Desktop, turns: int) -> None:
    """In whichever turn of the loop: accepted and not looked at yet, in the middle of the handshake, or after it."""

    async def scenario() -> None:
        tls = desktop.tls("one", BATS)
        node = PeerTransport(hello_of(1), Ear(), random.Random(1), tls=tls)
        port = await node.listen(HOST, 0)
        context = tls.client_context()
        context.check_hostname = False
        with socket.create_connection((HOST, port)) as caller:
            caller.setblocking(False)
            secret = context.wrap_socket(caller, do_handshake_on_connect=False)
            with secret:
                with contextlib.suppress(ssl.SSLWantReadError):
                    secret.do_handshake()
                for _ in range(turns):
                    await asyncio.sleep(0)
                await node.close()
                await node.close()  # Which may be said twice.
                gc.collect()  # A socket that nobody has closed warns.

    run(scenario())


# Control --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["", "wrong CA", "another cluster's CA", "expired", "wrong cluster", "plaintext"])
def test_control_lets_in_whom_the_transports_let_in(run: Run, desktop: Desktop, wrong: str) -> None:
    async def scenario() -> None:
        authority = CertificateAuthority("bats", NOW)
        if wrong == "wrong cluster":
            first = desktop.tls("one", authority)
            authority.cluster = "owls"
            second: Tls | None = desktop.tls("two", authority, "bats")
        elif wrong:
            first, second = desktop.tls("one", BATS), strangers(desktop)[wrong]()
        else:
            first, second = desktop.tls("one", BATS), desktop.tls("two", BATS)
        for of_server, of_client in ((first, second), (second, first)):
            desk = Desk()
            server, client = ControlServer(desk, of_server), ControlClient(of_client)
            address = f"{HOST}:{await server.start(HOST, 0)}"
            if wrong:
                with pytest.raises(NoctuleError):
                    await client.leave(address, LeaveRequest(1), timeout_s=3.0)
                assert desk.asked == []
            else:
                assert await client.leave(address, LeaveRequest(1)) == LeaveAnswer(state="draining")
            await client.close()
            await server.stop(0)

    run(scenario())


def test_control_takes_renewed_files(run: Run, desktop: Desktop) -> None:
    async def scenario() -> None:
        first, second = desktop.tls("one", CertificateAuthority("bats", NOW)), desktop.tls("two", BATS)
        server, client = ControlServer(Desk(), first), ControlClient(second)
        address = f"{HOST}:{await server.start(HOST, 0)}"
        with pytest.raises(NoctuleError):
            await client.leave(address, LeaveRequest(1), timeout_s=3.0)
        desktop.files("one", BATS)
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while True:
            try:
                assert await client.leave(address, LeaveRequest(1)) == LeaveAnswer(state="draining")
                break
            except NoctuleError:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.05)  # Until the channel dials again.
        await client.close()
        await server.stop(0)

    run(scenario())


def test_control_speaks_tls_1_3_and_nothing_older(desktop: Desktop) -> None:
    files = desktop.files("one", BATS)
    command = [sys.executable, Path(__file__).with_name("tls_versions.py"), files.ca, files.cert, files.key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SCENARIO_S)
    assert (done.stdout.split(), done.stderr) == (["nothing", "TLSv1.3"], "")
