"""The board as real processes on a real Redis: two instances that visitors cannot tell apart."""

import asyncio
import io
import re
import secrets
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import msgspec
import pytest
from app_processes import InstanceProcess, StartInstance, board_environment

from noctule.kits.files import FileStore
from noctule.kits.store import connect

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines", "app_processes")
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c02"
    "0000000b4944415478da6364f80f00010501012718e3660000000049454e44ae426082"
)
"""One pixel."""


@dataclass
class Board:
    """Two instances of the app."""

    one: InstanceProcess
    two: InstanceProcess


@pytest.fixture
async def board(redis_server: "RedisServer", start_instance: StartInstance, tmp_path: Path) -> Board:
    """Two instances of the board on one store."""
    environment = board_environment(redis_server.url, tmp_path)
    options: dict[str, Any] = {"app": "examples.board:app", "environment": environment, "drain_delay_ms": 0}
    started = (asyncio.to_thread(start_instance, id=f"web-{number}", **options) for number in (1, 2))
    return Board(*await asyncio.gather(*started))


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


async def test_a_visitor_is_the_same_on_both_instances(
    board: Board, visitor: aiohttp.ClientSession, redis_server: "RedisServer"
) -> None:
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
    async with connect(redis_server.url) as store:
        names = [await cast("Any", store.hget(key, "name")) for key in await store.keys("session:*")]
    (sealed,) = [name for name in names if name is not None]
    assert b"Ada" not in sealed
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


async def test_forms_have_bounds(board: Board, visitor: aiohttp.ClientSession) -> None:
    bounds: list[tuple[str, dict[str, str], int]] = [
        ("/sign-in", {}, 422),
        ("/sign-in", {"name": "   "}, 422),
        ("/sign-in", {"name": "x" * 41}, 422),
        ("/sign-in", {"name": "x" * 40}, 303),
        ("/sign-in", {"name": "x" * 20_000}, 413),
        ("/guestbook", {"text": ""}, 422),
        ("/guestbook", {"text": "x" * 501}, 422),
        ("/guestbook", {"text": "ü" * 500}, 303),
        ("/register", {"name": "Ada", "password": "7777777"}, 422),
        ("/register", {"name": "Ada", "password": "x" * 201}, 422),
    ]
    for path, form, status in bounds:
        got, body = await post(visitor, board.one, path, **form)
        assert got == status, (path, form)
        assert status == 303 or "That did not work" in body
        assert "777" not in body


# Pictures -------------------------------------------------------------------------------------------------------------


async def post_picture(
    visitor: aiohttp.ClientSession, instance: InstanceProcess, content: bytes, text: str = "look", **fields: str
) -> tuple[int, str]:
    form = aiohttp.FormData({"text": text, **fields})
    form.add_field("picture", io.BytesIO(content), filename="me.png", content_type="image/png")
    headers = {"origin": instance.url} if fields else {}
    async with visitor.post(instance.url + "/guestbook", data=form, headers=headers, allow_redirects=False) as answer:
        return answer.status, answer.headers.get("location") or await answer.text()


def pictures_of(html: str) -> list[str]:
    return [link.replace("&amp;", "&") for link in re.findall(r'<img src="([^"]+)"', html)]


def stored_pictures(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "files").rglob("*") if path.is_file()]


async def test_a_picture_is_seen_through_every_instance_by_a_signed_link_alone(
    board: Board, visitor: aiohttp.ClientSession
) -> None:
    picture = PNG + secrets.token_bytes(300_000)
    assert await post_picture(visitor, board.one, picture) == (303, "/")
    (link,) = pictures_of(await page(visitor, board.two))
    assert link.startswith("/files/pictures/")
    async with aiohttp.ClientSession() as anybody:
        async with anybody.get(board.two.url + link) as answer:
            assert (answer.status, answer.content_type) == (200, "image/png")
            assert await answer.read() == picture
        for forged in (link.partition("?")[0], link[:-1] + ("0" if link[-1] != "0" else "1")):
            async with anybody.get(board.one.url + forged) as answer:
                assert answer.status == 403


async def test_what_is_no_picture_is_refused_and_nothing_is_kept(
    board: Board, visitor: aiohttp.ClientSession, tmp_path: Path
) -> None:
    for content, status, words in [
        (b"<svg onload='alert(1)'/>", 422, "allowed are image/png"),
        (b"just words", 422, "the file is text/plain by its first bytes"),
        (b"", 422, "allowed are"),
        (PNG + bytes(5_000_000), 413, "5000000 bytes"),
        (PNG + bytes(6_000_000), 413, "longer than"),
    ]:
        got, body = await post_picture(visitor, board.one, content)
        assert (got, words in body) == (status, True), body
    assert stored_pictures(tmp_path) == []
    assert "Nothing here yet" in await page(visitor, board.two)


async def test_a_second_click_keeps_one_picture(board: Board, visitor: aiohttp.ClientSession, tmp_path: Path) -> None:
    form = hidden(await page(visitor, board.one))
    answers = await asyncio.gather(*(post_picture(visitor, each, PNG, **form) for each in (board.one, board.two) * 2))
    assert answers == [(303, "/")] * 4
    (link,) = pictures_of(await page(visitor, board.one))
    (kept,) = stored_pictures(tmp_path)
    assert kept.name in link


async def test_pictures_go_with_their_entries(board: Board, redis_server: "RedisServer", tmp_path: Path) -> None:
    """201 entries: the oldest, which has a picture, is pruned by one of the instances."""
    async with connect(redis_server.url) as store:
        files = FileStore(f"{(tmp_path / 'files').as_uri()}?shared=true", store=store)
        keys = [(await files.save(PNG, kind="pictures")).key for _ in range(2)]
        entry = {"name": "Ada", "text": "look", "instance": "web-1", "written_ms": 0}
        entries = [{**entry, "picture": keys[min(number, 1)]} for number in range(201)]
        named = {f"{number:019d}-{0:016x}": msgspec.json.encode(entry) for number, entry in enumerate(entries)}
        await cast("Any", store.hset("board:guestbook", mapping=cast("Any", named)))
        async with asyncio.timeout(25):
            while await cast("Any", store.hlen("board:guestbook")) > 200:
                await asyncio.sleep(0.1)
        assert [path.name for path in stored_pictures(tmp_path)] == [Path(keys[1]).name]


# Accounts -------------------------------------------------------------------------------------------------------------


async def test_a_name_with_a_password_is_its_owner_s_alone(board: Board, visitor: aiohttp.ClientSession) -> None:
    password = "a longer password"
    assert await post(visitor, board.one, "/register", name="Ada", password=password) == (303, "/")
    assert (await whoami(visitor, board.two))["name"] == "Ada"
    assert await post(visitor, board.two, "/guestbook", text="it is me") == (303, "/")
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as other:
        refused = await post(other, board.two, "/sign-in", name=" ADA")
        assert (refused[0], "somebody&#39;s" in refused[1]) == (401, True)
        assert (await post(other, board.two, "/sign-in", name="Ada", password="another one"))[0] == 401
        assert (await post(other, board.two, "/register", name="ada", password=password))[0] == 409
        assert (await whoami(other, board.one))["name"] is None
        assert await post(other, board.two, "/sign-in", name="ADA", password=password) == (303, "/")
        assert (await whoami(other, board.one))["name"] == "Ada"
        assert "has an account" in await page(other, board.one)


async def test_two_who_register_one_name_at_once_are_not_both_given_it(board: Board) -> None:
    async def register(instance: InstanceProcess, password: str) -> int:
        async with aiohttp.ClientSession() as person:
            return (await post(person, instance, "/register", name="Grace", password=password))[0]

    statuses = await asyncio.gather(register(board.one, "password one"), register(board.two, "password two"))
    assert sorted(statuses) == [303, 409]


async def test_passwords_are_not_tried_for_ever(board: Board, visitor: aiohttp.ClientSession) -> None:
    statuses = []
    for number in range(6):
        instance = (board.one, board.two)[number % 2]
        statuses.append((await post(visitor, instance, "/sign-in", name="Ada", password=f"guess {number}"))[0])
    assert statuses == [401] * 5 + [429]


async def test_nobody_is_locked_out_of_a_browser_that_they_signed_in_with(
    board: Board, visitor: aiohttp.ClientSession
) -> None:
    async def guess(number: int, password: str) -> int:
        """From another address each five times, as the gateway would say."""
        headers = {"x-forwarded-for": f"192.0.2.{number // 5}"}
        instance = (board.one, board.two)[number % 2]
        async with aiohttp.ClientSession(headers=headers) as attacker:
            return (await post(attacker, instance, "/sign-in", name="Ada", password=password))[0]

    await post(visitor, board.one, "/register", name="Ada", password="a longer password")
    await post(visitor, board.one, "/sign-out")
    assert [await guess(number, f"guess {number}") for number in range(20)] == [401] * 20
    assert await guess(20, "guess") == 429
    assert await guess(25, "a longer password") == 429, "whoever comes from elsewhere is not looked at any more"
    assert (await post(visitor, board.two, "/sign-in", name="ada", password="not this one"))[0] == 401
    assert await post(visitor, board.two, "/sign-in", name="ada", password="a longer password") == (303, "/")
    assert (await whoami(visitor, board.one))["name"] == "Ada"


async def test_a_device_is_signed_out_from_another(board: Board, visitor: aiohttp.ClientSession) -> None:
    await post(visitor, board.one, "/register", name="Ada", password="a longer password")
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as other:
        await post(other, board.two, "/sign-in", name="Ada", password="a longer password")
        async with visitor.get(board.one.url + "/devices") as answer:
            rows = re.findall(r'name="device" value="([^"]+)">(.*?)</form>', await answer.text(), re.DOTALL)
        (elsewhere,) = [device for device, row in rows if "this one" not in row]
        assert len(rows) == 2
        assert await post(visitor, board.one, "/devices", what="browser", device=elsewhere) == (303, "/devices")
        assert (await whoami(other, board.two))["name"] is None
        assert (await whoami(visitor, board.two))["name"] == "Ada"
        await post(other, board.two, "/sign-in", name="Ada", password="a longer password")
        assert await post(other, board.two, "/devices", what="everywhere") == (303, "/")
        assert (await whoami(visitor, board.one))["name"] is None
        async with visitor.get(board.one.url + "/devices") as answer:
            assert answer.status == 401


async def test_a_guest_who_comes_next_is_not_the_account(board: Board, visitor: aiohttp.ClientSession) -> None:
    await post(visitor, board.one, "/register", name="Ada", password="a longer password")
    assert await post(visitor, board.one, "/sign-in", name="Guest") == (303, "/")
    assert (await whoami(visitor, board.one))["name"] == "Guest"
    async with visitor.get(board.one.url + "/devices") as answer:
        assert answer.status == 401


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
