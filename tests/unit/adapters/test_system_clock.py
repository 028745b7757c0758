"""The two clocks are the system's, in the right units."""

import time

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock


def test_now_is_the_monotonic_clock_in_seconds() -> None:
    clock: Clock = SystemClock()
    before = time.monotonic()
    assert before <= clock.now() <= clock.now() <= time.monotonic()


def test_wall_is_milliseconds_since_1970() -> None:
    clock: Clock = SystemClock()
    before = time.time_ns() // 1_000_000
    assert before <= clock.wall_ms() <= time.time_ns() // 1_000_000
