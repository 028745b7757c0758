"""The board under ``noctule up``: three nodes, three instances, a gateway, and on them people, programs, a browser."""

import asyncio
import base64
import hashlib
import re
import secrets
import sys
import time
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from browser import browser_page
from cluster_processes import SEGMENT_BYTES_MAX, print_logs, write_settings
from up_process import CHECKOUT, Up, environment

pytestmark = pytest.mark.integration

PASSWORD = "correct horse battery staple"
REDIRECT = "http://127.0.0.1:8765/"
REFUSED_S_MAX = 5.0
"""How long an instance may take to hear of a revocation: `staleness_s_max` of the kit."""
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c02"
    "0000000b4944415478da6364f80f00010501012718e3660000000049454e44ae426082"
)
"""One pixel."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What ``noctule up --json`` prints; all tests use other names, so none is in another's way."""
    directory = tmp_path_factory.mktemp("board")
    write_settings(directory, segment_bytes_max=SEGMENT_BYTES_MAX)
    (directory / "examples").symlink_to(CHECKOUT / "examples")
    up = Up(directory, "examples.board:app")
    try:
        yield up.wait_up()
    finally:
        up.close()
        print_logs(directory)


@pytest.fixture
def instances(running: dict[str, Any]) -> list[str]:
    """The URL of each instance: who comes by them chooses who answers."""
    return [f"http://{each['host']}:{each['port']}" for each in running["instances"]]


@pytest.fixture
async def person() -> AsyncIterator[aiohttp.ClientSession]:
    """A browser as far as cookies go, which all instances share, being on one host."""
    jar, timeout = aiohttp.CookieJar(unsafe=True), aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=timeout) as session:
        yield session


async def post(person: aiohttp.ClientSession, url: str, form: dict[str, str]) -> str:
    """Post a form; where it leads."""
    async with person.post(url, data=form, allow_redirects=False) as answer:
        assert answer.status == 303, await answer.text()
        return answer.headers["location"]


async def test_a_picture_posted_at_one_instance_is_seen_through_the_others(
    instances: list[str], person: aiohttp.ClientSession
) -> None:
    picture = PNG + secrets.token_bytes(200_000)
    form = aiohttp.FormData({"text": "a picture"})
    form.add_field("picture", picture, filename="me.png", content_type="image/png")
    async with person.post(f"{instances[0]}/guestbook", data=form, allow_redirects=False) as answer:
        assert answer.status == 303, await answer.text()
    for shown_by, answered_by in ((instances[1], instances[2]), (instances[2], instances[1])):
        async with person.get(shown_by) as answer:
            (link,) = re.findall(r'<p>a picture</p>\s*<img src="([^"]+)"', await answer.text())
        async with person.get(answered_by + link.replace("&amp;", "&")) as answer:
            assert (answer.status, answer.content_type) == (200, "image/png")
            assert await answer.read() == picture
        async with person.get(answered_by + link.partition("?")[0]) as answer:
            assert answer.status == 403


async def let_program_in(person: aiohttp.ClientSession, instances: list[str]) -> dict[str, Any]:
    """A program asks, a person who is signed in says yes, and the program has its tokens: an instance for each step."""
    verifier = secrets.token_urlsafe(32)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code", "client_id": "program", "redirect_uri": REDIRECT, "state": "s",
        "code_challenge": challenge, "code_challenge_method": "S256",
    }  # fmt: skip
    async with person.get(f"{instances[0]}/oauth/authorize", params=query) as answer:
        html = await answer.text()
    assert "write entries in your name" in html
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', html))
    url = f"{instances[1]}/oauth/authorize"
    async with person.post(url, params=query, data={"answer": "yes", "token": "forged"}) as answer:
        assert answer.status == 403
    async with person.post(url, params=query, data={"answer": "no", **fields}, allow_redirects=False) as answer:
        assert "error=access_denied" in answer.headers["location"]
    async with person.post(url, params=query, data={"answer": "yes", **fields}, allow_redirects=False) as answer:
        code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "code_verifier": verifier}
    return await tokens(instances[2], form)


async def tokens(instance: str, form: dict[str, str], status: int = 200) -> dict[str, Any]:
    """What the token endpoint answers to the program."""
    data = {"client_id": "program", **form}
    async with aiohttp.ClientSession() as program, program.post(f"{instance}/oauth/token", data=data) as answer:
        assert answer.status == status, await answer.text()
        found: dict[str, Any] = await answer.json()
        return found


async def call(instance: str, token: str, method: str, path: str, **options: Any) -> tuple[int, Any]:
    """One call of the API."""
    url, headers = f"{instance}/api/v1{path}", {"authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as program, program.request(method, url, headers=headers, **options) as answer:
        return answer.status, await answer.json() if answer.content_type == "application/json" else None


async def refused_everywhere_after(instances: list[str], token: str) -> float:
    """Seconds until no instance takes the token."""
    began = time.monotonic()
    for instance in instances:
        while (await call(instance, token, "GET", "/me"))[0] != 401:
            assert time.monotonic() - began < REFUSED_S_MAX
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_a_program_acts_for_a_person_until_that_is_taken_back_on_all_instances(
    instances: list[str], person: aiohttp.ClientSession
) -> None:
    one, two, three = instances
    async with person.get(f"{one}/oauth/authorize", params={"client_id": "nobody"}) as answer:
        assert answer.status == 400, "what is wrong is told before anybody is asked for a password"
    then = "/oauth/authorize?client_id=program"
    assert await post(person, f"{one}/register", {"name": "Grace", "password": PASSWORD, "then": then}) == then
    elsewhere = {"name": "Grace", "password": PASSWORD, "then": "https://evil.example/oauth/authorize?"}
    assert await post(person, f"{two}/sign-in", elsewhere) == "/"

    given = await let_program_in(person, instances)
    token = given["access_token"]
    for instance in instances:
        status, body = await call(instance, token, "GET", "/me")
        assert (status, body["user"]) == (200, "grace")
    assert (await call(two, token, "POST", "/entries", json={"text": "by a program"}))[0] == 201
    (entry,) = [each for each in (await call(three, token, "GET", "/entries"))[1] if each["text"] == "by a program"]
    assert entry["name"] == "Grace"
    for wrong in ("", "x" * 501):
        assert (await call(one, token, "POST", "/entries", json={"text": wrong}))[0] == 422

    # Refreshed at another instance; fewer scopes than were granted are fewer.
    refreshed = await tokens(one, {"grant_type": "refresh_token", "refresh_token": given["refresh_token"]})
    narrow = {"grant_type": "refresh_token", "refresh_token": refreshed["refresh_token"], "scope": "devices"}
    narrowed = await tokens(two, narrow)
    assert (await call(three, narrowed["access_token"], "POST", "/entries", json={"text": "no"}))[0] == 403

    # Taken back by the person, with the page of devices: refused by all, and not refreshed any more.
    async with person.get(f"{two}/devices") as answer:
        html = await answer.text()
    ((program, _),) = re.findall(r'name="what" value="program"><input [^>]*value="([^"]+)">(.*?)</form>', html, re.S)
    form = {"what": "program", "device": program}
    assert await post(person, f"{two}/devices", form) == "/devices"
    for each in (given, refreshed, narrowed):
        assert await refused_everywhere_after(instances, each["access_token"]) < REFUSED_S_MAX
    spent = {"grant_type": "refresh_token", "refresh_token": narrowed["refresh_token"]}
    assert (await tokens(three, spent, 400))["error"] == "invalid_grant"

    # Or by another program of the same person.
    first, second = [await let_program_in(person, instances) for _ in range(2)]
    listed = (await call(one, second["access_token"], "GET", "/devices"))[1]
    assert len(listed) == 2
    other = listed[-1]["id"]  # The newest comes first.
    assert (await call(three, second["access_token"], "DELETE", f"/devices/{other}"))[0] == 204
    assert await refused_everywhere_after(instances, first["access_token"]) < REFUSED_S_MAX
    assert (await call(two, second["access_token"], "DELETE", f"/devices/{other}"))[0] == 404
    for instance in instances:
        assert (await call(instance, second["access_token"], "GET", "/me"))[0] == 200


async def test_tokens_are_issued_under_the_origin_that_people_reach(
    running: dict[str, Any], instances: list[str], person: aiohttp.ClientSession
) -> None:
    """The system chose the gateway's port here, and nobody told the board."""
    for url in (running["gateway"], *instances):
        async with person.get(f"{url}/oauth/.well-known/oauth-authorization-server") as answer:
            metadata = await answer.json()
        assert metadata["issuer"] == f"{running['gateway']}/oauth"
        assert metadata["token_endpoint"] == f"{running['gateway']}/oauth/token"


async def test_nobody_is_let_in_without_a_password(instances: list[str], person: aiohttp.ClientSession) -> None:
    assert await post(person, f"{instances[0]}/sign-in", {"name": "Guest"}) == "/"
    query = {
        "response_type": "code", "client_id": "program", "code_challenge": "c" * 43, "code_challenge_method": "S256",
    }  # fmt: skip
    async with person.get(f"{instances[1]}/oauth/authorize", params=query) as answer:
        html = await answer.text()
    assert "Say who you are first" in html
    assert 'name="then" value="/oauth/authorize?response_type=code&amp;client_id=program' in html
    async with person.post(f"{instances[1]}/oauth/authorize", params=query, data={"answer": "yes"}) as answer:
        assert "Say who you are first" in await answer.text()
    assert (await call(instances[0], "nothing", "GET", "/me"))[0] == 401


async def test_the_program_of_the_examples_writes_once_it_may(
    running: dict[str, Any], person: aiohttp.ClientSession
) -> None:
    gateway = running["gateway"]
    await post(person, f"{gateway}/register", {"name": "Mary", "password": PASSWORD})
    expected = (("yes", 0, r"Written: \d{19}-[0-9a-f]{16}\n"), ("no", 1, "Not allowed: access_denied\n"))
    for answer, status, said in expected:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "examples.board_program", f"said {answer}", cwd=CHECKOUT,
            env={**environment(), "BASE_URL": gateway}, stdout=PIPE, stderr=STDOUT,
        )  # fmt: skip
        assert program.stdout is not None
        try:
            url = (await asyncio.wait_for(program.stdout.readline(), 20)).decode().split()[-1]
            async with person.get(url) as page:
                html = await page.text()
            assert "sign out there" not in html, "it asks for no more than it needs"
            fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', html))
            async with person.post(url, data={"answer": answer, **fields}) as page:
                assert await page.text() == "Back to the program."
            output, _ = await asyncio.wait_for(program.communicate(), 20)
            assert re.fullmatch(said, output.decode()), output
            assert program.returncode == status
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
    async with person.get(gateway) as page:
        html = await page.text()
    assert ("said yes" in html, "said no" in html) == (True, False)
    async with person.get(f"{gateway}/devices") as page:
        assert "None acts for you" in await page.text(), "it has given its token back"


@pytest.mark.engine("chromium")
async def test_a_person_posts_a_picture_with_a_browser(running: dict[str, Any], tmp_path: Path) -> None:
    picture = tmp_path / "me.png"
    picture.write_bytes(PNG)
    words = tmp_path / "me.txt"
    words.write_text("just words")
    async with browser_page(tmp_path / "profile") as page:
        await page.open(running["gateway"])
        await page.type("#name", "Katherine")
        await page.type("#password", PASSWORD)
        await page.press("button[formaction='/register']")
        assert await page.text("header strong") == "Katherine"

        await page.type("#text", "from a browser")
        await page.choose_file("#picture", picture)
        await page.press("form[action='/guestbook'] button")
        shown = "[...document.querySelectorAll('li')].find(e => e.innerText.includes('from a browser'))"
        assert "has an account" in await page.evaluate(f"{shown}.innerText")
        width = f"(async i => {{ i.loading = 'eager'; await i.decode(); return i.naturalWidth }})({shown}.children[2])"
        assert await page.evaluate(width) == 1
        assert "Katherine" in await page.evaluate(f"{shown}.querySelector('img').alt")

        await page.type("#text", "no picture")
        await page.choose_file("#picture", words)
        await page.press("form[action='/guestbook'] button")
        assert "the file is text/plain by its first bytes" in await page.text("main")

        await page.open(f"{running['gateway']}/devices")
        assert "this one" in await page.text("main")
        await page.press("button[value='everywhere']")
        assert await page.evaluate("document.querySelector('header strong')") is None
        fields = "[...document.querySelectorAll('input:not([type=hidden]), textarea')]"
        assert await page.evaluate(f"{fields}.map(e => e.labels.length)") == [1, 1, 1, 1], "each field has a label"
