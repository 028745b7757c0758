"""Lists of endpoints, from a registry that is there, that goes away, and that forgets."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from engines import free_port
from registries import Registry, SmallRegistry

from noctule.base.errors import ConfigError, RequestError, UnavailableError
from noctule.client.registry.follower import FollowerPicture
from noctule.client.registry.held_list import Source
from noctule.kits.discovery import Discovery
from noctule.kits.discovery.discovery import SERVICES_MAX

pytest_plugins = ("engines", "registries")
pytestmark = pytest.mark.integration

GOES_ON_S_MAX = 15.0


def orders(discovery: Discovery) -> FollowerPicture:
    (picture,) = [each for each in discovery.describe().services if each.service == "orders"]
    return picture


def ports(discovery: Discovery) -> list[int]:
    return sorted(each.port for each in orders(discovery).list.endpoints)


async def until(condition: Callable[[], bool], what: str) -> float:
    """How long it took."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(GOES_ON_S_MAX):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"{what} did not happen within {GOES_ON_S_MAX:g} s")
    return time.monotonic() - begun


async def test_a_list_follows_the_registry(registry: Registry) -> None:
    async with Discovery(registry.url) as discovery:
        assert await discovery.endpoints("orders") == ()
        seen: list[list[int]] = []

        async def watch() -> None:
            async for endpoints in discovery.watch("orders"):
                seen[:] = [*seen, sorted(each.port for each in endpoints)]

        task = asyncio.create_task(watch())
        await registry.register("orders", "a", 4001, {"zone": "north"})
        await until(lambda: seen[-1:] == [[4001]], "the first instance")
        await registry.register("orders", "b", 4002)
        await registry.register("others", "c", 4003)
        await until(lambda: seen[-1:] == [[4001, 4002]], "the second instance")
        (first, _) = sorted(await discovery.endpoints("orders"), key=lambda each: each.port)
        assert (first.address, first.zone) == ("127.0.0.1", "north")
        await registry.deregister("a")
        assert await until(lambda: ports(discovery) == [4002], "the end of one") < 5
        await registry.deregister("b")
        assert await until(lambda: ports(discovery) == [], "the end of the last one") < 5, "it was deregistered"
        picture = orders(discovery).list
        assert (picture.source, picture.held) == (Source.LIVE, 0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_registry_that_goes_away_and_comes_back_without_memory(registry: Registry, tmp_path: Path) -> None:
    """Its empty list is held back while its instances come back one by one."""
    async with Discovery(registry.url, protect_s=6) as discovery:
        for number in (1, 2, 3):
            await registry.register("orders", f"i{number}", 4000 + number)
        await discovery.endpoints("orders")
        await until(lambda: ports(discovery) == [4001, 4002, 4003], "the list")
        await registry.kill()
        await until(lambda: orders(discovery).list.source is Source.LAST_GOOD, "the loss")
        assert ports(discovery) == [4001, 4002, 4003]
        await registry.start()
        await until(lambda: orders(discovery).list.source is Source.LIVE, "the return")
        assert ports(discovery) == [4001, 4002, 4003]
        assert orders(discovery).list.held == 3
        await registry.register("orders", "i1", 4001)
        await until(lambda: orders(discovery).list.held == 2, "the first one's return")
        assert ports(discovery) == [4001, 4002, 4003]
        await until(lambda: ports(discovery) == [4001], "the end of the protection")


async def test_a_process_that_starts_without_the_registry_has_the_last_good_list(
    registry: Registry, tmp_path: Path
) -> None:
    await registry.register("orders", "a", 4001)
    lists = tmp_path / "lists"
    async with Discovery(registry.url, cache_dir=lists) as discovery:
        await discovery.endpoints("orders")
        await until(lambda: ports(discovery) == [4001], "the list")
        await until(lambda: any(lists.glob("orders-*.json")) if lists.exists() else False, "the file")
    await registry.kill()
    async with Discovery(registry.url, cache_dir=lists) as discovery:
        begun = time.monotonic()
        (endpoint,) = await discovery.endpoints("orders")
        assert time.monotonic() - begun < 3
        assert endpoint.port == 4001
        picture = orders(discovery)
        assert (picture.list.source, picture.answers) == (Source.LAST_GOOD, 0)
        await registry.start()
        await until(lambda: orders(discovery).list.source is Source.LIVE, "the return")
        assert orders(discovery).list.held == 1


async def test_without_a_registry_and_a_list_it_says_so() -> None:
    url = f"http://user:secret@127.0.0.1:{free_port()}"
    async with Discovery(url) as discovery:
        with pytest.raises(UnavailableError, match=r"within 0\.3 s and there is no list of 'orders'") as refusal:
            await discovery.endpoints("orders", timeout_s=0.3)
        assert "secret" not in str(refusal.value)
        assert "secret" not in discovery.describe().registry_url
    with pytest.raises(UnavailableError, match="is closed"):
        await discovery.endpoints("orders")


async def test_the_next_url_is_asked_when_one_does_not_answer(small_registry: SmallRegistry) -> None:
    await small_registry.register("orders", "a", 4001)
    nobody = f"http://127.0.0.1:{free_port()}"
    async with Discovery(f"{nobody},{small_registry.url}") as discovery:
        await discovery.endpoints("orders", timeout_s=2)
        assert ports(discovery) == [4001]
        assert (orders(discovery).failures, discovery.describe().registry_url) == (1, small_registry.url)


@pytest.mark.parametrize(
    "odd",
    [
        web.Response(status=500, text="No cluster leader"),
        web.Response(status=403, text="Permission denied"),
        web.Response(status=301, headers={"Location": "http://127.0.0.1:1/"}),
        web.Response(body=b"{}"),
        web.Response(body=b"[" * 1_000),
        web.Response(body=b"\xff"),
        web.Response(body=b" " * (9 * 1024 * 1024)),
    ],
    ids=["no leader", "denied", "elsewhere", "an object", "deep", "no text", "huge"],
)
async def test_an_answer_that_is_none_changes_nothing(
    small_registry: SmallRegistry, odd: web.Response, caplog: pytest.LogCaptureFixture
) -> None:
    await small_registry.register("orders", "a", 4001)
    async with Discovery(small_registry.url) as discovery:
        await discovery.endpoints("orders")
        with caplog.at_level(logging.INFO, "noctule.registry.client"):
            small_registry.misbehaves = odd
            small_registry.change()
            await until(lambda: orders(discovery).failures > 1, "questions that failed")
            assert ports(discovery) == [4001]
            assert orders(discovery).list.source is Source.LAST_GOOD
            small_registry.misbehaves = None
            await until(lambda: orders(discovery).list.source is Source.LIVE, "the return")
    assert [record.msg for record in caplog.records] == ["registry_lost", "registry_back"]


async def test_an_answer_without_an_index_is_polled_for_and_does_not_spin(small_registry: SmallRegistry) -> None:
    small_registry.misbehaves = web.json_response([])
    async with Discovery(small_registry.url) as discovery:
        assert await discovery.endpoints("orders") == ()
        await asyncio.sleep(1.5)  # Time is what this is about.
        assert len(small_registry.questions) < 10
        assert all("index" not in question for question in small_registry.questions)


async def test_a_registry_that_answers_at_once_is_not_asked_all_the_time(small_registry: SmallRegistry) -> None:
    """A server that knows no blocking queries, or an index above its own."""
    small_registry.misbehaves = web.json_response([], headers={"X-Consul-Index": "7"})
    async with Discovery(small_registry.url) as discovery:
        await discovery.endpoints("orders")
        await asyncio.sleep(1.5)  # Time is what this is about.
        assert len(small_registry.questions) < 10


async def test_questions_are_consuls(small_registry: SmallRegistry) -> None:
    await small_registry.register("orders", "a", 4001)
    async with Discovery(small_registry.url, datacenter="dc2", token="secret") as discovery:
        await discovery.endpoints("orders", tag="blue")
        await until(lambda: len(small_registry.questions) == 2, "the second question")
    assert small_registry.tokens == {"secret"}
    first, second = small_registry.questions
    assert first == {"dc": "dc2", "stale": "", "tag": "blue"}
    assert second == {**first, "index": "2", "wait": "30000ms"}


async def test_a_node_without_a_leader_is_believed_and_the_next_one_asked(small_registry: SmallRegistry) -> None:
    await small_registry.register("orders", "a", 4001)
    small_registry.has_leader = False
    other = "http://127.0.0.1:1"
    async with Discovery([small_registry.url, other]) as discovery:
        await discovery.endpoints("orders")
        assert ports(discovery) == [4001]
        await until(lambda: orders(discovery).failures > 0, "a question to the other one")


async def test_a_registry_that_is_silent_at_the_start_is_not_waited_for_long(
    small_registry: SmallRegistry, tmp_path: Path
) -> None:
    await small_registry.register("orders", "a", 4001)
    async with Discovery(small_registry.url, cache_dir=tmp_path) as discovery:
        await discovery.endpoints("orders")
        await until(lambda: bool(list(tmp_path.glob("*.json"))), "the file")
    small_registry.misbehaves = asyncio.Event()
    async with Discovery(small_registry.url, cache_dir=tmp_path) as discovery:
        begun = time.monotonic()
        assert len(await discovery.endpoints("orders")) == 1
        assert time.monotonic() - begun < 3


async def test_a_disk_that_takes_nothing_stops_nobody(small_registry: SmallRegistry, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    await small_registry.register("orders", "a", 4001)
    async with Discovery(small_registry.url, cache_dir=tmp_path / "file") as discovery:
        assert len(await discovery.endpoints("orders")) == 1
        await until(lambda: orders(discovery).write_failures == 1, "an attempt to write")


async def test_what_cannot_work_is_refused(small_registry: SmallRegistry) -> None:
    for urls in ([], "ftp://x", "http://", "127.0.0.1:7501", "http://x?a=b", "http://[::1"):
        with pytest.raises(ConfigError):
            Discovery(urls)
    with pytest.raises(ConfigError, match="protect_s"):
        Discovery(small_registry.url, protect_s=-1)
    async with Discovery(small_registry.url) as discovery:
        for name in ("", "x" * 300):
            with pytest.raises(RequestError, match="1 to 255 characters"):
                await discovery.endpoints(name)
        await asyncio.gather(*(discovery.endpoints(f"s{number}") for number in range(SERVICES_MAX)))
        with pytest.raises(RequestError, match="one too many"):
            await discovery.endpoints("another")
