"""Waiting for a change: nobody misses one, nobody waits for ever."""

import asyncio

from noctule.node.watch import Watch


async def test_everyone_who_waits_is_woken_by_the_next_change_and_by_no_earlier_one() -> None:
    watch = Watch()
    watch.ring()
    assert not await watch.next_change(0.0)
    waiting = [asyncio.create_task(watch.next_change(10.0)) for _ in range(2)]
    await asyncio.sleep(0)
    watch.ring()
    assert await asyncio.gather(*waiting) == [True, True]


async def test_a_condition_is_looked_at_at_once_and_with_each_change() -> None:
    watch, looks = Watch(), list[int]()
    assert await watch.until(lambda: True, 0.0)
    waiting = asyncio.create_task(watch.until(lambda: looks.append(1) or len(looks) == 3, 10.0))
    for _ in range(2):
        await asyncio.sleep(0)
        assert not waiting.done()
        watch.ring()
    assert await waiting
    assert len(looks) == 3


async def test_what_never_comes_about_is_given_up() -> None:
    assert not await Watch().until(lambda: False, 0.001)
