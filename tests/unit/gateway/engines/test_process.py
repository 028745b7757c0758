"""Who ends by itself is started again, who is replaced is not; logs are bounded."""

import asyncio
from pathlib import Path

import pytest

from noctule.base.errors import StorageError
from noctule.gateway.engines import process
from noctule.gateway.engines.process import Keeper, cut_log, last_words

TRIED_AGAIN_S_MAX = 10.0


class FakeProcess:
    """Ends when it is told to."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.started_at = asyncio.get_running_loop().time()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_alive(self) -> bool:
        return not self.ended.done()

    def end(self) -> None:
        self.ended.set_result(None)


class World:
    """A keeper that runs, and those that it has started."""

    def __init__(self) -> None:
        self.started: list[FakeProcess] = []
        self.failures = 0
        self.keeper = Keeper("fake", self.start)

    async def start(self) -> FakeProcess:
        if self.failures:
            self.failures -= 1
            raise StorageError("no memory")
        self.started.append(FakeProcess(100 + len(self.started)))
        return self.started[-1]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(process, "RESTART_DELAY_S_MIN", 0.001)
    world = World()
    world.keeper._delay_s = 0.001
    running = asyncio.create_task(world.keeper.run())
    yield world
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def settle() -> None:
    await asyncio.sleep(0.03)  # Some delays of a millisecond: nothing tells that nothing happens.


async def test_one_that_ends_by_itself_is_started_again(world: World) -> None:
    first = FakeProcess(1)
    world.keeper.keep(first)
    assert world.keeper.pid == 1
    first.end()
    assert world.keeper.pid == 0
    await settle()
    assert (world.keeper.pid, world.keeper.restarts) == (100, 1)


async def test_one_that_is_replaced_may_end_before_its_successor_is_known(world: World) -> None:
    """A reload of an idle HAProxy: the old process was gone while the new one was still being waited for."""
    old, new = FakeProcess(1), FakeProcess(2)
    world.keeper.keep(old)
    assert world.keeper.let_go() is old
    old.end()
    await settle()
    world.keeper.keep(new)
    await settle()
    assert (world.keeper.pid, world.keeper.restarts, world.started) == (2, 0, [])


async def test_a_start_that_fails_is_tried_again(world: World) -> None:
    world.failures = 3
    first = FakeProcess(1)
    world.keeper.keep(first)
    first.end()
    async with asyncio.timeout(TRIED_AGAIN_S_MAX):
        while world.keeper.pid != 100:
            await settle()


def test_a_log_over_its_bound_is_moved(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100)
        cut_log(path, 100)
        assert path.stat().st_size == 100
        writer.write(b"y")
        cut_log(path, 100)
        writer.write(b"z")
    assert path.read_bytes() == b"z"
    assert (tmp_path / "log.1").read_bytes() == b"x" * 100 + b"y"
    cut_log(tmp_path / "none")


def test_the_last_words_are_those_of_this_life(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("an old error\n")
    offset = path.stat().st_size
    assert last_words(path, offset) == "it said nothing"
    with path.open("a") as file:
        file.write("first\n  second  \n\n")
    assert last_words(path, offset) == "second"
    assert "cannot be read" in last_words(tmp_path / "none")
