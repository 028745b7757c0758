"""A timer that is moved more often than it rings."""

import asyncio
from collections.abc import Callable

from noctule.gateway.alarm import Alarm


class Loop:
    """As much of an event loop as an alarm asks of one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.armed: list[tuple[float, Callable[[], None], Handle]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> "Handle":
        handle = Handle()
        self.armed.append((when, callback, handle))
        return handle

    def run_until(self, until: float) -> None:
        while due := [entry for entry in self.armed if entry[0] <= until]:
            entry = min(due, key=lambda each: each[0])
            self.armed.remove(entry)
            self.now = entry[0]
            if not entry[2].is_cancelled:
                entry[1]()
        self.now = until


class Handle:
    is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


def make() -> tuple[Loop, Alarm, list[float]]:
    loop, rung = Loop(), []
    alarm = Alarm(loop, lambda: rung.append(loop.now))  # type: ignore[arg-type]  # no more of a loop is used
    return loop, alarm, rung


def test_it_rings_once() -> None:
    loop, alarm, rung = make()
    alarm.set(5.0)
    loop.run_until(20.0)
    assert rung == [5.0]


def test_moved_later_it_rings_later_and_arms_no_other_timer() -> None:
    loop, alarm, rung = make()
    for _ in range(1_000):
        alarm.set(5.0)
        loop.run_until(loop.now + 0.01)
    assert len(loop.armed) == 1
    loop.run_until(100.0)
    assert [round(at, 2) for at in rung] == [14.99]


def test_moved_earlier_it_rings_earlier() -> None:
    loop, alarm, rung = make()
    alarm.set(60.0)
    alarm.set(1.0)
    loop.run_until(100.0)
    assert rung == [1.0]


def test_cleared_or_closed_it_does_not_ring_and_can_be_set_again() -> None:
    loop, alarm, rung = make()
    alarm.set(1.0)
    alarm.clear()
    loop.run_until(10.0)
    alarm.set(1.0)
    alarm.close()
    loop.run_until(20.0)
    assert rung == []
    alarm.set(1.0)
    loop.run_until(30.0)
    assert rung == [21.0]


async def test_a_real_loop_rings_it() -> None:
    rung = asyncio.Event()
    alarm = Alarm(asyncio.get_running_loop(), rung.set)
    alarm.set(0.01)
    await asyncio.wait_for(rung.wait(), 5.0)
