"""Who waits for a change of the registry is woken by that, and by nothing else."""

import asyncio

import pytest

from noctule.base.errors import UnavailableError
from noctule.core.registry.changes import DeleteKey, PutNode, SetKey
from noctule.core.registry.objects import RegistryNode
from noctule.core.registry.registry import Registry
from noctule.node import topic_waiters
from noctule.node.topic_waiters import TopicWaiters
from tests.unit.core.registry.small import do


class One:
    """A registry and those who wait for it."""

    def __init__(self) -> None:
        self.view = Registry()
        self.waiters = TopicWaiters(lambda: self.view)
        self.waiters.look()

    async def begin(self, topic: str, index: int | None = None) -> "asyncio.Task[bool]":
        index = self.view.index if index is None else index
        task = asyncio.create_task(self.waiters.wait(topic, index, 10))
        await asyncio.sleep(0)
        return task

    async def woken(self, *tasks: "asyncio.Task[bool]") -> list[bool]:
        self.waiters.look()
        for _ in range(3):
            await asyncio.sleep(0)
        done = [task.done() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not self.waiters._waiting
        assert self.waiters._count == 0
        assert not self.waiters._prefix_lengths
        return done


async def test_a_change_wakes_whom_it_concerns_and_nobody_else() -> None:
    one = One()
    topics = ["nodes", "node:a", "node:b", "key:a/1", "key:a/2", "prefix:a/", "prefix:", "prefix:b", "prefix:a/1/x"]
    tasks = [await one.begin(topic) for topic in topics]
    do(one.view, PutNode(RegistryNode("a", "")), SetKey("a/1", b""))
    assert await one.woken(*tasks) == [True, True, False, True, False, True, True, False, False]


async def test_a_deleted_key_is_news_for_its_prefix() -> None:
    one = One()
    do(one.view, SetKey("a/1", b""))
    one.waiters.look()
    task = await one.begin("prefix:a/")
    do(one.view, DeleteKey("a/1"))
    assert await one.woken(task) == [True]


async def test_what_has_changed_already_is_not_waited_for() -> None:
    one = One()
    do(one.view, SetKey("k", b""))
    assert await one.waiters.wait("key:k", 1, 10)
    assert not await one.waiters.wait("key:k", one.view.index, 0.001)


async def test_an_index_that_is_ahead_is_waited_for_until_it_is_passed() -> None:
    one = One()
    task = await one.begin("key:k", 3)
    for value in (b"1", b"2"):
        do(one.view, SetKey("k", value))
        one.waiters.look()
        await asyncio.sleep(0)
    assert not task.done()
    do(one.view, SetKey("k", b"3"))
    assert await one.woken(task) == [True]


async def test_a_snapshot_that_was_loaded_wakes_all_whose_topics_may_have_changed() -> None:
    one = One()
    tasks = [await one.begin("service:web"), await one.begin("service:web", 99)]
    do(one.view, SetKey("k", b""))
    one.view = Registry(one.view.contents())
    assert await one.woken(*tasks) == [True, False]


async def test_they_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_waiters, "WAITING_MAX", 1)
    one = One()
    task = await one.begin("nodes")
    with pytest.raises(UnavailableError, match="1 requests wait"):
        await one.waiters.wait("nodes", one.view.index, 10)
    assert await one.woken(task) == [False]
