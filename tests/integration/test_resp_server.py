"""The RESP door on real sockets, under asyncio's loop and uvloop: bounds, garbage, ends; and Redis' own error texts."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from engines import RedisServer
from resp_served import KeyspaceStore, Served, command, read_all, read_exactly, serving, wait_until

from noctule.base.bounds import VALUE_BYTES_MAX
from noctule.base.errors import ConfigError
from noctule.servers.resp_server import RespServer

pytestmark = pytest.mark.integration
pytest_plugins = ("engines",)


@pytest.fixture(params=["asyncio", "uvloop"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serving(request.param) as server:
        yield server


def test_a_pipeline_comes_back_in_order(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b"".join(command(b"INCR", b"k") + command(b"ECHO", b"x") for _ in range(5_000)))
        expected = b"".join(b":%d\r\n$1\r\nx\r\n" % number for number in range(1, 5_001))
        assert read_exactly(client, len(expected)) == expected


def test_small_replies_are_not_delayed_by_the_kernel(served: Served) -> None:
    flags: list[int] = []
    with served.connect() as client:
        client.sendall(b"PING\r\n")
        assert read_exactly(client, 7) == b"+PONG\r\n"

        async def look() -> None:
            for connection in served.server._clients:
                sock = connection._transport.get_extra_info("socket")
                flags.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        served.run(look())
    assert flags == [1]


def test_a_peer_that_vanishes_is_asked_for(served: Served) -> None:
    """A host that lost its power sends no goodbye: after a minute of silence the kernel asks, and then gives it up."""
    options: list[int] = []
    with served.connect():
        served.wait_connections(1)

        async def look() -> None:
            (connection,) = served.server._clients
            sock = connection._transport.get_extra_info("socket")
            options.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            times = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            options.extend(sock.getsockopt(socket.IPPROTO_TCP, option) for option in times)

        served.run(look())
    is_on, idle_s, probe_s, probes = options
    assert is_on
    assert idle_s + probe_s * probes == 120


def test_the_largest_value_goes_in_and_out(served: Served) -> None:
    value = os.urandom(VALUE_BYTES_MAX)
    with served.connect() as client:
        client.sendall(command(b"SET", b"k", value) + command(b"GET", b"k"))
        expected = b"+OK\r\n$%d\r\n%b\r\n" % (len(value), value)
        assert read_exactly(client, len(expected)) == expected


def test_a_value_over_the_bound_is_refused_and_the_connection_lives(served: Served) -> None:
    with served.connect() as client:
        client.sendall(command(b"SET", b"k", b"v" * (VALUE_BYTES_MAX + 1)) + command(b"PING"))
        refusal = b"-ERR argument of %d bytes, VALUE_BYTES_MAX is %d\r\n" % (VALUE_BYTES_MAX + 1, VALUE_BYTES_MAX)
        assert read_exactly(client, len(refusal) + 7) == refusal + b"+PONG\r\n"


def test_garbage_closes_its_own_connection_only(served: Served) -> None:
    with served.connect() as bystander:
        for garbage in (b"*1\r\n+PING\r\n", b"*2147483647\r\n", b"\xff" * 70_000, b"*1\r\n$-5\r\n", b"ECHO 'x\r\n"):
            with served.connect() as client:
                started = time.monotonic()
                client.sendall(command(b"PING") + garbage)
                answer = read_all(client)
                assert answer.startswith(b"+PONG\r\n-ERR Protocol error: ")
                assert answer.count(b"\r\n") == 2
                assert time.monotonic() - started < 3.0, "hiredis.Reader needed seconds for such a line"
        bystander.sendall(b"PING\r\n")
        assert read_exactly(bystander, 7) == b"+PONG\r\n"
    assert served.server.counters()["noctule_resp_protocol_errors_total"] == 5
    served.wait_connections(0)


def test_netcat_gets_its_answer(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b"SET k v\r\nGET k\r\n")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"+OK\r\n$1\r\nv\r\n"


def test_a_client_that_does_not_read_is_stopped_by_the_kernel_and_goes_on_when_it_reads(served: Served) -> None:
    """The sender blocks: nothing between it and the store grows. Then it reads, and nothing is missing."""
    value = os.urandom(256 * 1024)
    count = 400
    with served.connect() as client:
        client.sendall(command(b"SET", b"k", value))
        assert read_exactly(client, 5) == b"+OK\r\n"
        for _ in range(4):
            client.sendall(command(b"GET", b"k"))
        wait_until(lambda: served.server.commands_total == 5)
        sender = threading.Thread(target=client.sendall, args=(command(b"GET", b"k") * (count - 4),))
        sender.start()
        one = b"$%d\r\n%b\r\n" % (len(value), value)
        for _ in range(count):
            assert read_exactly(client, len(one)) == one
        sender.join()


def test_a_client_that_never_reads_is_dropped(served: Served) -> None:
    value = os.urandom(4 * 1024 * 1024)
    with served.connect() as client, served.connect() as bystander:
        client.sendall(command(b"SET", b"k", value))
        assert read_exactly(client, 5) == b"+OK\r\n"
        client.sendall(command(b"GET", b"k") * 300)
        wait_until(lambda: served.server.clients_dropped_total == 1)
        bystander.sendall(b"PING\r\n")
        assert read_exactly(bystander, 7) == b"+PONG\r\n"
    served.wait_connections(0)


def test_many_clients_that_vanish_leave_nothing_behind(served: Served) -> None:
    for _ in range(50):
        with served.connect() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            client.sendall(command(b"INCR", b"k") * 100 + b"*3\r\n$3\r\nSE")
    served.wait_connections(0)
    with served.connect() as client:
        client.sendall(b"PING\r\n")
        assert read_exactly(client, 7) == b"+PONG\r\n"


def test_too_many_clients_are_told_so() -> None:
    with serving("uvloop", connections_max=3) as served:
        clients = [served.connect() for _ in range(3)]
        served.wait_connections(3)
        with served.connect() as refused:
            assert read_all(refused) == b"-ERR max number of clients reached\r\n"
        clients.pop().close()
        served.wait_connections(2)
        with served.connect() as client:
            client.sendall(b"PING\r\n")
            assert read_exactly(client, 7) == b"+PONG\r\n"
        for client in clients:
            client.close()


# Start and stop ------------------------------------------------------------------------------------------------------


async def test_a_port_in_use_is_named() -> None:
    store = KeyspaceStore()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: the port is in use"):
            await RespServer(store, store.picture, "127.0.0.1", port).start()


async def test_a_host_that_is_not_here_is_named() -> None:
    store = KeyspaceStore()
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:7401"):
        await RespServer(store, store.picture, "192.0.2.1", 7401).start()


async def test_stopping_what_never_started_is_nothing() -> None:
    store = KeyspaceStore()
    server = RespServer(store, store.picture, "127.0.0.1", 0)
    await asyncio.wait_for(server.stop(5), 1)


def test_stop_answers_what_is_under_way_and_closes_what_is_idle(served: Served) -> None:
    served.store.is_held = True
    with served.connect() as busy, served.connect() as idle:
        busy.sendall(command(b"INCR", b"k"))
        served.wait_connections(2)
        wait_until(lambda: served.server.commands_total == 1)
        port = served.port
        stopping = asyncio.run_coroutine_threadsafe(served.server.stop(5), served.loop)
        assert read_all(idle) == b""
        assert not stopping.done()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)
        served.release()
        assert read_all(busy) == b":1\r\n"
        stopping.result(1)


def test_stop_does_not_wait_longer_than_told(served: Served) -> None:
    served.store.is_held = True
    with served.connect() as client:
        client.sendall(command(b"INCR", b"k"))
        wait_until(lambda: served.server.commands_total == 1)
        started = time.monotonic()
        served.run(served.server.stop(0.2))
        assert 0.15 < time.monotonic() - started < 2
        assert client.recv(1) == b"", "closed without a reply"
    served.release()


# The same bytes to Redis ---------------------------------------------------------------------------------------------

SAME_AS_REDIS = [
    b"PING\r\n",
    b"PING a\r\n",
    b"PING a b\r\n",
    b"ECHO\r\n",
    b"ECHO 'a b'\r\n",
    b'ECHO "\\x41\\n"\r\n',
    b"HELLO 4\r\n",
    b"HELLO x\r\n",
    b"HELLO 3 FOO\r\n",
    b"HELLO 3 AUTH x y\r\n",
    b"HELLO 3 SETNAME\r\n",
    b"HELLO 3 SETNAME 'a b'\r\n",
    b"AUTH pw\r\n",
    b"AUTH bob pw\r\n",
    b"AUTH default pw\r\n",
    b"AUTH a b c\r\n",
    b"AUTH\r\n",
    b"SELECT 0\r\n",
    b"SELECT x\r\n",
    b"SELECT 99\r\n",
    b"SELECT -1\r\n",
    b"SELECT 1 2\r\n",
    b"CLIENT\r\n",
    b"CLIENT FOO\r\n",
    b"CLIENT SETNAME\r\n",
    b"CLIENT SETNAME 'a b'\r\n",
    b"CLIENT SETNAME ab\r\n",
    b"CLIENT GETNAME\r\n",
    b"CLIENT ID x\r\n",
    b"CLIENT LIST ID\r\n",
    b"CLIENT LIST FOO\r\n",
    b"CLIENT LIST TYPE foo\r\n",
    b"CLIENT LIST ID x\r\n",
    b"CLIENT NO-EVICT ON\r\n",
    b"CLIENT NO-EVICT x\r\n",
    b"COMMAND FOO\r\n",
    b"COMMAND COUNT x\r\n",
    b"COMMAND GETKEYS\r\n",
    b"COMMAND GETKEYS GET\r\n",
    b"COMMAND GETKEYS GET a\r\n",
    b"COMMAND GETKEYS GET a b\r\n",
    b"COMMAND GETKEYS NOPE a\r\n",
    b"COMMAND GETKEYS PING a\r\n",
    b"COMMAND GETKEYS MSET a 1 b 2\r\n",
    b"COMMAND LIST FOO\r\n",
    b"CONFIG\r\n",
    b"CONFIG GET\r\n",
    b"CONFIG FOO\r\n",
    b"CONFIG GET save\r\n",
    b"CONFIG GET nope\r\n",
    b"CONFIG GET maxclien*\r\n",
    b"WAIT\r\n",
    b"WAIT a 1\r\n",
    b"WAIT 1 b\r\n",
    b"WAIT 1 -1\r\n",
    b"CLUSTER\r\n",
    b"CLUSTER INFO\r\n",
    b"INFO nosuch\r\n",
    b"INFO keyspace\r\n",
    b"RESET\r\n",
    b"RESET x\r\n",
    b"QUIT\r\nPING\r\n",
    b"NOPE a 'b c'\r\n",
    b"+OK\r\n",
    b"\r\n   \r\nPING\r\n",
    b"PING\n",
    b"*0\r\n*-1\r\nPING\r\n",
    b"*1\r\n$4\r\nPINGxxPING\r\n",
    b"*1\r\n$0\r\n\r\n",
    b"*x\r\n",
    b"*\r\n",
    b"*01\r\n",
    b"*99999999999\r\n",
    b"*1\r\n+PING\r\n",
    b"*1\r\n\r\n",
    b"*1\r\n*1\r\n$4\r\nPING\r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$04\r\n",
    b"*1\r\n$9999999999\r\n",
    b"ECHO 'a\r\n",
    b'ECHO "a"b\r\n',
    b"*" + b"1" * 70_000,
    b"*1\r\n$" + b"1" * 70_000,
    b"A" * 70_000,
]


def test_connection_commands_and_garbage_are_answered_byte_for_byte_as_by_redis(redis_server: RedisServer) -> None:
    with serving("uvloop") as served:
        for request in SAME_AS_REDIS:
            answers = []
            for port in (redis_server.port, served.port):
                with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                    # In one piece: what arrived after the server has closed would be answered by a reset.
                    client.sendall(request + (b"" if len(request) > 60_000 else b"QUIT\r\n"))
                    try:
                        answers.append(read_all(client))
                    except ConnectionResetError:
                        answers.append(b"reset")
            assert answers[1] == answers[0], request[:80]
