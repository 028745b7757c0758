"""The board as real processes on a real Redis: two instances that visitors cannot tell apart."""

import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from app_processes import InstanceProcess, StartInstance

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines", "app_processes")
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]


@dataclass
class Board:
    """Two instances of the app."""

    one: InstanceProcess
    two: InstanceProcess


@pytest.fixture
def board(redis_server: "RedisServer", start_instance: StartInstance) -> Board:
    """Two instances of the board on one store."""
    environment = {"NOCTULE_STORE_URL": redis_server.url, "NOCTULE_PLAIN_HTTP": "1"}
    options: dict[str, Any] = {"app": "examples.board:app", "environment": environment, "drain_delay_ms": 0}
    return Board(start_instance(id="web-1", **options), start_instance(id="web-2", **options))


@pytest.fixture
async def visitor() -> AsyncIterator[aiohttp.ClientSession]:
    """A browser as far as cookies go; it names no origin, as programs do."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


async def whoami(visitor: aiohttp.ClientSession, instance: InstanceProcess) -> Any:
    async with visitor.get(instance.url + "/api/whoami") as response:
        assert response.status == 200
        return await response.json()


async def post(
    visitor: aiohttp.ClientSession, instance: InstanceProcess, path: str, /, origin: str = "", **form: str
) -> tuple[int, str]:
    headers = {"origin": origin} if origin else {}
    async with visitor.post(instance.url + path, data=form, headers=headers, allow_redirects=False) as response:
        return response.status, response.headers.get("location") or await response.text()


async def page(visitor: aiohttp.ClientSession, instance: InstanceProcess) -> str:
    async with visitor.get(instance.url + "/") as response:
        assert response.status == 200
        return await response.text()


def hidden(html: str) -> dict[str, str]:
    """The hidden fields of the page's forms."""
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', html))


async def test_a_visitor_is_the_same_on_both_instances(board: Board, visitor: aiohttp.ClientSession) -> None:
    first = await whoami(visitor, board.one)
    assert (first["name"], first["visits"], first["instance"]) == (None, 1, "web-1")
    assert await post(visitor, board.one, "/sign-in", name="  Ada ") == (303, "/")
    second = await whoami(visitor, board.two)
    assert (second["name"], second["visits"], second["instance"]) == ("Ada", 2, "web-2")
    assert second["session"] != first["session"], "signing in gives a new session id"
    html = await page(visitor, board.one)
    assert f'<dd id="session">{second["session"]}</dd>' in html
    assert '<dd id="visits">3</dd>' in html
    assert '<dd id="instance">web-1</dd>' in html
    assert await post(visitor, board.two, "/sign-out") == (303, "/")
    assert (await whoami(visitor, board.one))["name"] is None


async def test_the_session_outlives_the_instance_that_made_it(board: Board, visitor: aiohttp.ClientSession) -> None:
    await post(visitor, board.one, "/sign-in", name="Ada")
    before = await whoami(visitor, board.one)
    assert board.one.stop(signal.SIGKILL) == -signal.SIGKILL
    after = await whoami(visitor, board.two)
    assert (after["name"], after["session"], after["visits"]) == ("Ada", before["session"], before["visits"] + 1)


async def test_entries_are_shown_escaped_newest_first(board: Board, visitor: aiohttp.ClientSession) -> None:
    await post(visitor, board.one, "/sign-in", name="<i>Ada</i>")
    for number in range(52):
        assert (await post(visitor, board.one, "/guestbook", text=f"<b>entry {number:02d}</b>"))[0] == 303
    html = await page(visitor, board.two)
    assert re.findall(r"entry (\d+)", html) == [f"{number:02d}" for number in range(51, 1, -1)]
    assert "&lt;b&gt;entry 51&lt;/b&gt;" in html
    assert "<strong>&lt;i&gt;Ada&lt;/i&gt;</strong>" in html
    assert "<b>" not in html
    assert "<i>" not in html


async def test_a_second_click_adds_nothing(board: Board, visitor: aiohttp.ClientSession) -> None:
    form = hidden(await page(visitor, board.one))
    for instance in (board.one, board.two):
        assert await post(visitor, instance, "/guestbook", origin=instance.url, text="once", **form) == (303, "/")
    assert (await page(visitor, board.one)).count("<p>once</p>") == 1


async def test_a_form_of_another_site_is_refused(board: Board, visitor: aiohttp.ClientSession) -> None:
    own = hidden(await page(visitor, board.one))
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as attacker:
        foreign = hidden(await page(attacker, board.one))
    refused: list[dict[str, str]] = [{}, foreign, {**own, "token": foreign["token"]}, {**own, "form_id": "x"}]
    for origin, form in [("https://evil.example", own), *((board.one.url, form) for form in refused)]:
        for path, field in (("/guestbook", "text"), ("/sign-in", "name"), ("/sign-out", "unused")):
            status, body = await post(visitor, board.one, path, origin=origin, **{field: "a"}, **form)
            assert (status, "no longer valid" in body) == (403, True), (path, form)
    assert (await whoami(visitor, board.one))["name"] is None
    assert (await post(visitor, board.one, "/sign-in", origin=board.one.url, name="Ada", **own))[0] == 303


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("/sign-in", {}, 422),
        ("/sign-in", {"name": "   "}, 422),
        ("/sign-in", {"name": "x" * 41}, 422),
        ("/sign-in", {"name": "x" * 40}, 303),
        ("/guestbook", {"text": ""}, 422),
        ("/guestbook", {"text": "x" * 501}, 422),
        ("/guestbook", {"text": "ü" * 500}, 303),
        ("/guestbook", {"text": "x" * 20_000}, 413),
    ],
)
async def test_forms_have_bounds(
    path: str,
    form: dict[str, str],
    status: int,
    redis_server: "RedisServer",
    start_instance: StartInstance,
    visitor: aiohttp.ClientSession,
) -> None:
    environment = {"NOCTULE_STORE_URL": redis_server.url, "NOCTULE_PLAIN_HTTP": "1"}
    instance = start_instance(app="examples.board:app", environment=environment)
    got, body = await post(visitor, instance, path, **form)
    assert got == status
    assert status == 303 or "That did not work" in body


async def test_a_dead_store_is_a_page_and_no_stack_trace(
    board: Board, visitor: aiohttp.ClientSession, redis_server: "RedisServer"
) -> None:
    redis_server.kill()
    async with visitor.get(board.one.url + "/") as response:
        body = await response.text()
        assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert "not reachable at the moment" in body
    assert "Traceback" not in body
    assert not [line for line in board.one.log() if "exception" in line]
    redis_server.start()
    assert (await whoami(visitor, board.one))["visits"] == 1
