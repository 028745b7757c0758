"""One small app in four frameworks, on one store: a visitor may be served by any of them."""

import importlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from django.conf import settings
from django.utils.functional import empty

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines",)
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

FRAMEWORKS = ["fastapi", "django", "litestar", "flask"]
ORIGIN = "https://notes.example"


@pytest.fixture
def fresh_settings() -> Iterator[None]:
    """Django has one set of settings in a process, and other tests of this one have theirs."""
    others, settings._wrapped = settings._wrapped, empty
    try:
        yield
    finally:
        settings._wrapped = others


@pytest.fixture
async def visitors(redis_server: "RedisServer", fresh_settings: None) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    """One browser, whose requests go to the app of the framework that is named."""
    jar = httpx.Cookies()
    async with AsyncExitStack() as stack:
        clients = {}
        for name in FRAMEWORKS:
            app: Any = importlib.import_module(f"examples.notes_{name}").create_app(redis_server.url)
            stack.push_async_callback(app._client.aclose)
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN, headers={"origin": ORIGIN})
            client._cookies = jar
            clients[name] = await stack.enter_async_context(client)
        yield clients


def token_in(page: httpx.Response) -> str:
    found = re.search(r'name="token" value="([^"]+)"', page.text)
    assert found, page.text
    return found[1]


async def post(client: httpx.AsyncClient, path: str, **form: str) -> int:
    form.setdefault("token", token_in(await client.get("/")))
    return (await client.post(path, data=form)).status_code


@pytest.mark.parametrize("name", FRAMEWORKS)
async def test_notes(visitors: dict[str, httpx.AsyncClient], name: str) -> None:
    client = visitors[name]
    before = token_in(await client.get("/"))
    assert list(client.cookies) == ["__Host-session-form"], "who only looks has no session"
    assert await post(client, "/notes", text="<b>milk</b>") == 303
    assert await post(client, "/notes", text="bread", token=before) == 303, "a page from before the session began"
    cookie = client.cookies["__Host-session"]
    assert await post(client, "/sign-in", name="Ada") == 303
    assert client.cookies["__Host-session"] != cookie
    assert await post(client, "/notes", text="x", token=before) == 403
    page = (await client.get("/")).text
    assert "<p>Ada</p>" in page
    assert "<li>&lt;b&gt;milk&lt;/b&gt;</li>" in page
    assert await post(client, "/notes", text="x", token="forged") == 403
    foreign = await client.post("/notes", data={"text": "x"}, headers={"origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert await post(client, "/sign-in", name=" ") == 422
    assert await post(client, "/sign-out") == 303
    assert "Ada" not in (await client.get("/")).text


async def test_a_visitor_goes_from_one_framework_to_the_next(visitors: dict[str, httpx.AsyncClient]) -> None:
    for name in FRAMEWORKS:
        assert await post(visitors[name], "/notes", text=name) == 303
    for client in visitors.values():
        assert re.findall(r"<li>(\w+)</li>", (await client.get("/")).text) == FRAMEWORKS
