"""Sessions of a WSGI app: opened by the event loop, written by a thread, saved by the event loop."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest
from a2wsgi import WSGIMiddleware
from flask import Flask, Response, request

from noctule.base.errors import RequestError
from noctule.kits.asgi import App, Message, Receive, Scope, Send
from noctule.kits.session_state import Session
from noctule.kits.sessions import Sessions
from noctule.kits.store import connect

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines",)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.engine("redis-server"),
    pytest.mark.usefixtures("clients_leave_connections"),
]

View = Callable[[Session], Any]


def session_of_request() -> Session:
    found: Session = request.environ["asgi.scope"]["session"]
    return found


def app_of(view: View) -> App:
    flask = Flask("visits")
    flask.add_url_rule("/", view_func=lambda: view(session_of_request()))
    return cast("App", WSGIMiddleware(cast("Any", flask)))


def client_of(app: App, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://app.example", headers=headers)


async def test_threads_of_one_visitor_lose_no_count(redis_server: "RedisServer") -> None:
    """Each request has a session of its own, whichever thread writes it, and what they share is merged in the store."""
    threads = set[int]()

    def visit(session: Session) -> str:
        threads.add(threading.get_ident())
        return str(session.add("visits"))

    store = connect(redis_server.url)
    async with client_of(Sessions(app_of(visit), store=store)) as visitor:
        assert (await visitor.get("/")).text == "1"
        answers = await asyncio.gather(*(visitor.get("/") for _ in range(40)))
        assert {each.status_code for each in answers} == {200}
        assert (await visitor.get("/")).text == "42"
    assert threading.get_ident() not in threads
    assert len(threads) > 1
    await store.aclose()


async def test_what_is_written_after_the_start_is_refused_and_not_lost_in_silence(redis_server: "RedisServer") -> None:
    started = threading.Event()
    late: list[str] = []

    def stream(session: Session) -> Response:
        session["early"] = 1

        def pieces() -> Iterator[str]:
            yield "begun"
            assert started.wait(10)
            try:
                session["late"] = 1
            except RequestError as error:
                late.append(str(error))
            yield ", ended"

        return Response(pieces())

    def show(session: Session) -> dict[str, Any]:
        return dict(session)

    def telling(app: App) -> App:
        async def told(scope: Scope, receive: Receive, send: Send) -> None:
            async def watching(message: Message) -> None:
                await send(message)
                if message["type"] == "http.response.start":
                    started.set()

            await app(scope, receive, watching)

        return told

    store = connect(redis_server.url)
    async with client_of(telling(Sessions(app_of(stream), store=store))) as visitor:
        answer = await visitor.get("/")
        assert answer.text == "begun, ended"
        assert "no longer be changed" in late[0]
        cookie = answer.headers["set-cookie"].partition(";")[0]
    async with client_of(Sessions(app_of(show), store=store), cookie=cookie) as visitor:
        assert (await visitor.get("/")).json() == {"early": 1}
    await store.aclose()


async def test_a_save_that_fails_is_503_and_leaves_no_thread_waiting(redis_server: "RedisServer") -> None:
    """More pieces than the bridge's queue holds: they are taken, though nobody is sent them."""
    done = threading.Event()

    def write(session: Session) -> Response:
        session["kept"] = 1

        def pieces() -> Iterator[str]:
            for _ in range(50):
                yield "x"
            done.set()

        return Response(pieces())

    store = connect(redis_server.url)
    async with client_of(Sessions(app_of(write), store=store, patience_s=0.2)) as visitor:
        redis_server.kill()
        answer = await asyncio.wait_for(visitor.get("/"), 20)
        assert (answer.status_code, answer.json()["error"]["outcome"]) == (503, "unknown")
    assert done.is_set()
    await store.aclose()


async def test_a_view_that_fails_changes_nothing(redis_server: "RedisServer") -> None:
    def fail(session: Session) -> Any:
        session.add("visits")
        raise RuntimeError("a bug of the view")

    store = connect(redis_server.url)
    async with client_of(Sessions(app_of(fail), store=store)) as visitor:
        answer = await visitor.get("/")
        assert (answer.status_code, "set-cookie" in answer.headers) == (500, False)
        assert await store.keys("session:*") == []
    await store.aclose()
