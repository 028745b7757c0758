"""Clients that mean harm, or are broken, against one real server process: it lives, its memory stays under a cap that
is stated here, and a client that behaves is answered meanwhile. Times are asserted in seconds: machines are slow.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from resp_process import MEGABYTE, Door, door
from resp_served import command, read_all, read_exactly

from noctule.base.bounds import COMMAND_BYTES_MAX, VALUE_BYTES_MAX

pytestmark = pytest.mark.integration

CONNECTIONS_MAX = 300
OUTPUT_BYTES_ALL_MAX = 256 * MEGABYTE
ANSWER_S_MAX = 20.0
PATIENCE_S = 3.0
"""What a client that behaves waits for PONG at most, on a machine that does other things too."""
SMALL = 64
"""Megabytes over what it held before: for whatever is to be refused, not kept."""


@pytest.fixture(scope="module")
def server() -> Iterator[Door]:
    with door(connections_max=CONNECTIONS_MAX, output_bytes_all_max=OUTPUT_BYTES_ALL_MAX) as running:
        yield running


def connect(server: Door) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=ANSWER_S_MAX)


@contextmanager
def calm(server: Door, *, megabytes: int) -> Iterator[None]:
    """In this block the server takes at most so much more memory, and answers PING all the time."""
    waits: list[float] = []
    is_over = threading.Event()

    def ping(bystander: socket.socket) -> None:
        while not (waits and is_over.is_set()):
            started = time.monotonic()
            bystander.sendall(b"PING\r\n")
            assert read_exactly(bystander, 7) == b"+PONG\r\n"
            waits.append(time.monotonic() - started)
            is_over.wait(0.02)  # A client that is not in a hurry.

    with connect(server) as bystander:
        # Let in before anybody else, and before it is measured, so that what every connection takes is there.
        bystander.sendall(b"PING\r\n")
        assert read_exactly(bystander, 7) == b"+PONG\r\n"
        server.forget_peak()
        before = server.held_megabytes()
        pinging = threading.Thread(target=ping, args=(bystander,))
        pinging.start()
        try:
            yield
        finally:
            is_over.set()
            pinging.join()
    assert waits
    assert max(waits) < PATIENCE_S
    assert server.peak_megabytes() - before < megabytes


BOMBS = [
    b"*1000000000\r\n",
    b"*2147483647\r\n",
    b"*1\r\n" * 100_000,
    b"*99999999999999999999999999\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$-9223372036854775808\r\n",
    b"*1\r\n$99999999999999999999\r\n",
    b"*1\r\n$18446744073709551617\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n%1000000000\r\n",
    b"x" * MEGABYTE,
    b"*" + b"9" * MEGABYTE,
    b"*1\r\n$" + b"0" * MEGABYTE,
    b'"' + b"\\x41" * 200_000,
    b"\x00" * MEGABYTE,
]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: repr(bomb[:24]))
def test_a_bomb_is_answered_with_an_error_and_the_end(server: Door, bomb: bytes) -> None:
    with calm(server, megabytes=SMALL), ExitStack() as stack:
        for client in [stack.enter_context(connect(server)) for _ in range(20)]:
            try:
                client.sendall(bomb)
                answer = read_all(client)
            except ConnectionError:  # It has closed before it was sent all.
                continue
            assert answer.startswith(b"-ERR Protocol error: ")
            assert answer.count(b"\r\n") == 1


def test_announcements_cost_nothing(server: Door) -> None:
    """Many clients say that much is to come, and then say nothing."""
    with calm(server, megabytes=SMALL), ExitStack() as stack:
        for announcement in (
            b"*1048576\r\n",
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n",
            b"*2\r\n$3\r\nGET\r\n$8388608\r\n",
        ):
            for _ in range(60):
                stack.enter_context(connect(server)).sendall(announcement)
        time.sleep(0.3)  # It has nothing to wait for: the announcements are to be read, and to have no effect.


def test_single_bytes_from_many_clients(server: Door) -> None:
    """Each byte is a chunk of its own, of a command whose parts come in between those of others."""
    with calm(server, megabytes=SMALL), ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(50)]
        for client in clients:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, request in enumerate(
            zip(*(command(b"SET", b"slow%02d" % n, b"v" * 40) for n in range(50)), strict=True)
        ):
            for client, byte in zip(clients, request, strict=True):
                client.sendall(bytes([byte]))
            if number % 10 == 0:
                time.sleep(0.01)  # So that chunks are not joined on the way.
        for client in clients:
            assert read_exactly(client, 5) == b"+OK\r\n"


def test_values_far_over_the_bound_are_read_past(server: Door) -> None:
    """64 MB are refused without being held, and the connection goes on."""
    size = 64 * MEGABYTE
    with calm(server, megabytes=SMALL), connect(server) as client:
        client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % size)
        for _ in range(size // MEGABYTE):
            client.sendall(b"v" * MEGABYTE)
        client.sendall(b"\r\n" + command(b"EXISTS", b"k"))
        refusal = b"-ERR argument of %d bytes, VALUE_BYTES_MAX is %d\r\n" % (size, VALUE_BYTES_MAX)
        assert read_exactly(client, len(refusal) + 4) == refusal + b":0\r\n"


def test_values_at_the_bound_from_several_clients(server: Door) -> None:
    """Each may hold a command at its bound while it comes, joined once, and what is stored."""
    count = 8
    cap = count * (3 * VALUE_BYTES_MAX + 2 * MEGABYTE) // MEGABYTE + SMALL
    with calm(server, megabytes=cap), ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(count)]
        value = os.urandom(VALUE_BYTES_MAX)
        senders = [
            threading.Thread(target=client.sendall, args=(command(b"SET", b"large%d" % n, value),))
            for n, client in enumerate(clients)
        ]
        for sender in senders:
            sender.start()
        for sender, client in zip(senders, clients, strict=True):
            sender.join()
            assert read_exactly(client, 5) == b"+OK\r\n"
        clients[0].sendall(command(b"UNLINK", *(b"large%d" % n for n in range(count))))
        assert read_exactly(clients[0], 4) == b":%d\r\n" % count


def test_a_command_of_many_large_arguments_is_refused(server: Door) -> None:
    argument = b"v" * MEGABYTE
    count = 4 * COMMAND_BYTES_MAX // MEGABYTE
    with calm(server, megabytes=COMMAND_BYTES_MAX // MEGABYTE + SMALL), connect(server) as client:
        client.sendall(b"*%d\r\n$3\r\nDEL\r\n" % (count + 1))
        for _ in range(count):
            client.sendall(b"$%d\r\n%b\r\n" % (len(argument), argument))
        client.sendall(b"PING\r\n")
        answer = b""
        while not answer.endswith(b"+PONG\r\n"):
            answer += client.recv(4_096)
        assert answer.startswith(b"-ERR command of at least ")


@pytest.mark.parametrize(
    ("request_", "count"),
    [(command(b"SET", b"k", b"v"), 1_000_000), (command(b"PING"), 100_000), (b"PING\r\n", 100_000)],
    ids=["a million SET", "PING", "PING inline"],
)
def test_very_many_commands_in_one_write(server: Door, request_: bytes, count: int) -> None:
    """They are taken in pieces: others are answered between them, and the rest waits in the kernel."""
    reply = b"+OK\r\n" if b"SET" in request_ else b"+PONG\r\n"
    with calm(server, megabytes=2 * SMALL), connect(server) as client:
        sender = threading.Thread(target=client.sendall, args=(request_ * count,))
        sender.start()
        got = 0
        while got < count * len(reply):
            data = client.recv(MEGABYTE)
            assert data
            got += len(data)
        sender.join()
        assert got == count * len(reply)


def test_a_million_commands_whose_replies_are_not_read(server: Door) -> None:
    """The client is not read on while its replies lie in the server, so its own write blocks."""
    with calm(server, megabytes=2 * SMALL), connect(server) as client:
        client.setblocking(False)
        pipeline = memoryview(command(b"ECHO", b"v" * 1_000) * 1_000)
        sent = 0
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            try:
                sent += client.send(pipeline[sent % len(pipeline) :])
            except BlockingIOError:
                time.sleep(0.01)  # Between two looks at whether it reads on.
        assert sent < 64 * MEGABYTE, "nobody reads: what is sent must be waiting in the kernel"


def test_clients_that_never_read_are_dropped(server: Door) -> None:
    """Pipelines of small commands ask for gigabytes: what all clients together leave unread is bounded."""
    value = os.urandom(4 * MEGABYTE)
    count = 500
    with calm(server, megabytes=OUTPUT_BYTES_ALL_MAX // MEGABYTE + 2 * SMALL):
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(server)) for _ in range(5)]
            clients[0].sendall(command(b"SET", b"large", value))
            assert read_exactly(clients[0], 5) == b"+OK\r\n"
            for client in clients:
                client.sendall(command(b"GET", b"large") * count)
            time.sleep(1.0)  # They are to be dropped meanwhile, without having been read.
            got = [until_closed(client, at_most=count * len(value)) for client in clients]
            assert sum(size < count * len(value) for size in got) >= 4
        with connect(server) as client:
            client.sendall(command(b"UNLINK", b"large"))
            assert read_exactly(client, 4) == b":1\r\n"


def until_closed(client: socket.socket, at_most: int) -> int:
    """How many bytes can still be read, up to a bound."""
    got = 0
    try:
        while got < at_most and (data := client.recv(MEGABYTE)):
            got += len(data)
    except ConnectionResetError:
        pass
    return got


def test_a_flood_of_connections_is_refused_and_those_inside_are_served(server: Door) -> None:
    with calm(server, megabytes=SMALL), ExitStack() as stack:
        inside = refused = 0
        clients = [stack.enter_context(connect(server)) for _ in range(CONNECTIONS_MAX + 200)]
        for client in clients:
            try:
                client.sendall(b"PING\r\n")
                answer = client.recv(64)
            except ConnectionError:
                answer = b""
            inside += answer == b"+PONG\r\n"
            refused += answer != b"+PONG\r\n"
            assert answer in (b"+PONG\r\n", b"-ERR max number of clients reached\r\n", b"")
        assert CONNECTIONS_MAX - 5 < inside <= CONNECTIONS_MAX
        assert refused >= 200
    with connect(server) as client:
        client.sendall(b"PING\r\n")
        assert read_exactly(client, 7) == b"+PONG\r\n"


def test_connections_that_come_and_go_leave_nothing(server: Door) -> None:
    with calm(server, megabytes=SMALL):
        for number in range(2_000):
            with connect(server) as client:
                if number % 2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nhalf")
