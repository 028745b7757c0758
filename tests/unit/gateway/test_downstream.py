"""A client's connection without sockets: however its bytes are cut, it means the same."""

import asyncio
import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.adapters.system_clock import SystemClock
from noctule.gateway.admin import AdminAnswer
from noctule.gateway.downstream import ClientConnection
from noctule.gateway.model import GatewayModel, Limits
from noctule.gateway.orders import Orders
from noctule.gateway.plane import DataPlane
from noctule.gateway.traffic import Traffic


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.written += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def echo(method: str, path: str, body: bytes) -> AdminAnswer:
    """As the gateway's own pages are answered, so that no instance is needed."""
    for _ in range(3):
        await asyncio.sleep(0)
    return AdminAnswer(200, [], f"{method} {path} ".encode() + body)


async def answered(pieces: list[bytes], turns: int) -> tuple[list[tuple[int, bytes]], bool]:
    """Statuses and bodies of all responses to those bytes, and whether the connection was closed.

    Between two pieces the loop turns so many times: with few of them pieces come while a request is answered.
    """
    plane = DataPlane(Traffic(Orders(GatewayModel()), SystemClock(), random.Random(0)), admin=echo)
    connection, wire = ClientConnection(plane), Wire()
    connection.connection_made(wire)
    for piece in pieces:
        connection.data_received(piece)
        for _ in range(turns):
            await asyncio.sleep(0)
    for _ in range(1000):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    assert not plane.exchanges
    assert not plane.clients
    await plane.close()
    return read_responses(wire.written), wire.is_closed


def read_responses(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        length = re.search(rb"(?i)content-length: (\d+)", head)
        size = int(length[1]) if length else 0
        if status >= 200:
            found.append((status, rest[:size]))
        data = rest[size:]
    return found


def request(number: int, body: bytes | None, *, is_chunked: bool) -> bytes:
    head = f"POST /__noctule/{number} HTTP/1.1\r\nHost: localhost\r\n".encode()
    if body is None:
        return head + b"\r\n"
    if not is_chunked:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    half = len(body) // 2
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: dropped\r\n\r\n"


BODIES = st.one_of(st.none(), st.binary(max_size=300), st.just(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"))
ENDINGS = st.sampled_from(
    [b"", b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\n\n"]
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(BODIES, st.booleans()), max_size=6),
    ENDINGS,
    st.lists(st.integers(1, 60), max_size=60),
    st.integers(0, 3),
)
def test_however_the_bytes_are_cut_the_answers_are_the_same(
    wanted: list[tuple[bytes | None, bool]], ending: bytes, cuts: list[int], turns: int
) -> None:
    requests = [request(number, body, is_chunked=chunked) for number, (body, chunked) in enumerate(wanted)]
    data = b"".join(requests) + ending
    pieces, position = [], 0
    for cut in [*cuts, len(data)]:
        pieces.append(data[position : position + cut])
        position += cut
    answers, is_closed = asyncio.run(answered([piece for piece in pieces if piece], turns))
    bodies = [f"POST /__noctule/{number} ".encode() + (body or b"") for number, (body, _) in enumerate(wanted)]
    assert [answer for answer in answers if answer[0] == 200] == [(200, body) for body in bodies]
    assert [status for status, _ in answers if status != 200] == ([400] if ending else [])
    assert answers[-1:] == [] or answers[-1][0] == (400 if ending else 200)
    assert not is_closed


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 100))
def test_noise_has_one_answer_at_most_and_leaves_nothing(noise: bytes, cut: int) -> None:
    pieces = [noise[position : position + cut] for position in range(0, len(noise), cut)]
    answers, _ = asyncio.run(answered(pieces, 1))
    assert len(answers) <= 1
    assert all(status in (400, 404, 405, 408, 414, 431, 505) for status, _ in answers)


async def slow(method: str, path: str, body: bytes) -> AdminAnswer:
    await asyncio.sleep(0.06)
    return AdminAnswer(200, [], b"at last")


async def test_a_client_that_waits_for_its_answer_is_not_idle_and_is_so_again_behind_it() -> None:
    model = GatewayModel(limits=Limits(client_idle_s=0.02))
    plane = DataPlane(Traffic(Orders(model), SystemClock(), random.Random(0)), admin=slow)
    connection, wire = ClientConnection(plane), Wire()
    connection.connection_made(wire)
    connection.data_received(request(1, None, is_chunked=False))
    async with asyncio.timeout(5):
        while not wire.is_closed:
            await asyncio.sleep(0.005)
    assert read_responses(wire.written) == [(200, b"at last")]
    connection.connection_lost(None)
    await plane.close()
