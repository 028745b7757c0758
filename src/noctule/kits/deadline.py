"""How long a request may still take, told to everybody who works on it.

Whoever calls a service says how long it will wait; the service gives no more than what is left of that to those it
calls itself. So nobody works on what nobody waits for any more.

The header holds the time that is left, in ms, and not a point in time: clocks of machines differ, and what it loses is
only the time on the wire. Its name is Envoy's, whose documentation tells it ("HTTP header manipulation",
x-envoy-expected-rq-timeout-ms), so that proxies and libraries that know it take part.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.ids import Instant
from noctule.kits.asgi import App, Headers, Receive, Scope, Send, error_body, header_values, send_json

HEADER = "x-envoy-expected-rq-timeout-ms"

MS_MAX = 24 * 3600 * 1000
"""A longer time is none."""

_deadline: ContextVar[Instant | None] = ContextVar("noctule_deadline", default=None)


def deadline() -> Instant | None:
    """Until when the work of this task is wanted, by the monotonic clock of this process; None: nobody said."""
    return _deadline.get()


@contextmanager
def within(timeout_s: float, clock: Clock = SystemClock()) -> Iterator[None]:  # noqa: B008 - it holds nothing
    """Whatever is called inside has `timeout_s` at most, or what is left of a shorter one around it.

    It ends nothing by itself: the transports of `kits.discovery` obey it.
    """
    own = Instant(clock.now() + timeout_s)
    outer = _deadline.get()
    token = _deadline.set(own if outer is None else min(own, outer))
    try:
        yield
    finally:
        _deadline.reset(token)


def header_value(remaining_s: float) -> str:
    """For a request that is sent now; whole ms, at least 0."""
    return str(max(0, min(MS_MAX, int(remaining_s * 1000))))


def read_remaining_s(headers: Headers) -> float | None:
    """What a request's headers, as ASGI gives them, leave; None without a usable value. Of several the least."""
    values = [value.strip() for value in header_values(headers, HEADER.encode())]
    times_ms = [int(value) for value in values if value.isdigit() and len(value) <= 10]
    usable = [time_ms for time_ms in times_ms if time_ms <= MS_MAX]
    return min(usable) / 1000 if usable else None


class Deadlines:
    """ASGI middleware: the deadline of each HTTP request is that of the app's own calls while it works on it.

    A request whose time has passed is answered 504 and the app is not called. Clients can only shorten their own time,
    so the header needs no trust. `timeout_s_max` is given to those that say nothing, and nobody gets more; None: no
    bound.
    """

    def __init__(
        self,
        app: App,
        *,
        timeout_s_max: float | None = None,
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        self._app = app
        self._timeout_s_max = timeout_s_max
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        remaining_s = read_remaining_s(scope["headers"]) if scope["type"] == "http" else None
        known = [each for each in (remaining_s, self._timeout_s_max) if each is not None]
        if scope["type"] != "http" or not known:
            await self._app(scope, receive, send)
        elif min(known) <= 0:
            body = error_body("deadline_passed", "nobody waits for it", retryable=False, outcome="not_applied")
            await send_json(send, 504, body)
        else:
            with within(min(known), self._clock):
                await self._app(scope, receive, send)
