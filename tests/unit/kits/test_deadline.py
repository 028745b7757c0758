"""What is left of a request's time, on its way from service to service."""

import asyncio
from typing import Any

import pytest
from tests.unit.hand_clock import HandClock

from noctule.base.ids import Instant
from noctule.kits.asgi import Message, Receive, Scope, Send
from noctule.kits.deadline import HEADER, Deadlines, deadline, header_value, read_remaining_s, within

CLOCK = HandClock()


def headers(*values: bytes) -> list[tuple[bytes, bytes]]:
    return [(HEADER.encode(), value) for value in values]


def test_a_shorter_time_inside_counts_and_a_longer_one_does_not() -> None:
    assert deadline() is None
    with within(10, CLOCK):
        with within(20, CLOCK):
            assert deadline() == 110
        with within(5, CLOCK):
            assert deadline() == 105
        assert deadline() == 110
    assert deadline() is None


@pytest.mark.parametrize(
    ("values", "remaining_s"),
    [
        ([b"1500"], 1.5),
        ([b" 0 "], 0.0),
        ([b"2000", b"1000"], 1.0),
        ([b"-1"], None),
        ([b"1e3"], None),
        ([b"\xb2"], None),
        ([b"9" * 5000], None),
        ([b"86400001"], None),
        ([], None),
    ],
)
def test_only_plain_milliseconds_are_read(values: list[bytes], remaining_s: float | None) -> None:
    assert read_remaining_s(headers(*values)) == remaining_s


def test_what_is_written_is_read() -> None:
    assert header_value(1.9999) == "1999"
    assert header_value(-3) == "0"
    assert read_remaining_s(headers(header_value(float(10**9)).encode())) == 86_400


def served(options: dict[str, Any], *values: bytes, kind: str = "http") -> tuple[list[Message], list[Instant | None]]:
    """What was sent, and the deadlines that the app saw."""
    seen: list[Instant | None] = []
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(deadline())

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nobody asks")

    middleware = Deadlines(app, clock=CLOCK, **options)
    asyncio.run(middleware({"type": kind, "headers": headers(*values)}, receive, send))  # type: ignore[arg-type]
    return sent, seen


def test_the_app_has_what_its_caller_has_left() -> None:
    assert served({}, b"2000") == ([], [102.0])
    assert served({}) == ([], [None])
    assert served({"timeout_s_max": 1.0}, b"2000") == ([], [101.0])
    assert served({"timeout_s_max": 1.0}) == ([], [101.0])
    assert served({"timeout_s_max": 1.0}, kind="websocket") == ([], [None])


def test_nobody_works_on_what_nobody_waits_for() -> None:
    sent, seen = served({}, b"0")
    assert sent[0]["status"] == 504
    assert seen == []
