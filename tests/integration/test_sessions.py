"""Sessions on a real Redis: several instances, requests that overlap, logout, theft, and a store that goes away."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from redis.asyncio import Redis

from noctule.base.errors import ConfigError, RequestError
from noctule.base.ids import Instant, WallMs
from noctule.kits.asgi import Message, Receive, Scope, Send, send_json
from noctule.kits.session_cookie import session_digest
from noctule.kits.sessions import TOMBSTONE_TTL_S, Session, Sessions
from noctule.kits.store import connect, retrying_idempotent

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines",)
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

Handler = Callable[[Session], Awaitable[object]]
NOBODY = "redis://127.0.0.1:1/0"
"""A store where nobody listens."""


class Answer(msgspec.Struct):
    """One response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value.decode() for header, value in self.headers if header == name.encode()]
        assert len(values) <= 1, values
        return values[0] if values else None

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Visitor:
    """A browser with one cookie."""

    def __init__(self, cookie: str | None = None) -> None:
        self.cookie = cookie

    def scope(self, kind: str) -> Scope:
        headers = [(b"cookie", f"session={self.cookie}".encode())] if self.cookie else []
        return {"type": kind, "method": "GET", "path": "/", "headers": headers}

    async def visit(self, instance: Sessions) -> Answer:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        await instance(self.scope("http"), nothing_to_receive, send)
        assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
        answer = Answer(sent[0]["status"], list(sent[0]["headers"]), sent[1]["body"])
        set_cookie = answer.header("set-cookie")
        if set_cookie is not None:
            self.cookie = set_cookie.partition("=")[2].partition(";")[0] or None
        return answer


async def nothing_to_receive() -> Message:
    raise AssertionError("these requests have no body")


def app_of(handler: Handler, **options: Any) -> Sessions:
    """An instance whose every page is the handler's result as JSON."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, await handler(scope["session"]), [(b"x-page", b"1")])

    return Sessions(app, **options)


async def show(session: Session) -> object:
    return dict(session)


def putting(**values: object) -> Handler:
    async def put(session: Session) -> object:
        session.update(values)
        return dict(session)

    return put


class Meeting:
    """A handler that has read its session and waits before it goes on: two of them overlap for certain."""

    def __init__(self, then: Handler) -> None:
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        self._then = then

    async def __call__(self, session: Session) -> object:
        dict(session)
        self.arrived.set()
        await self.go_on.wait()
        return await self._then(session)


@pytest.fixture
async def store(redis_server: "RedisServer") -> AsyncIterator[Redis]:
    """A client of the real Redis, which the instances share unless a test says otherwise."""
    client = connect(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture
def short_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after 0.4 s and not after 5."""
    short = functools.partial(retrying_idempotent, budget_s=0.4)
    monkeypatch.setattr("noctule.kits.sessions.retrying_idempotent", short)


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Redis]:
    client = connect(url)
    try:
        yield client
    finally:
        await client.aclose()


def key_of(cookie: str | None) -> str:
    assert cookie is not None
    return f"session:{{{session_digest(cookie)}}}"


async def test_a_session_is_the_same_on_every_instance(redis_server: "RedisServer") -> None:
    visitor = Visitor()
    async with client_of(redis_server.url) as one, client_of(redis_server.url) as two:
        await visitor.visit(app_of(putting(name="Ada", cart=[1, {"two": None}]), store=one))
        answer = await visitor.visit(app_of(show, store=two))
    assert answer.json() == {"name": "Ada", "cart": [1, {"two": None}]}


async def test_two_requests_at_once_that_change_different_fields_both_survive(store: Redis) -> None:
    visitor = Visitor()
    await visitor.visit(app_of(putting(a=0, b=0), store=store))
    first, second = Meeting(putting(a=1)), Meeting(putting(b=2))
    async with asyncio.TaskGroup() as group:
        group.create_task(visitor.visit(app_of(first, store=store)))
        group.create_task(visitor.visit(app_of(second, store=store)))
        await first.arrived.wait()
        await second.arrived.wait()
        first.go_on.set()
        second.go_on.set()
    assert (await visitor.visit(app_of(show, store=store))).json() == {"a": 1, "b": 2}


async def test_removed_fields_are_gone(store: Redis) -> None:
    async def forget(session: Session) -> object:
        return session.pop("a")

    visitor = Visitor()
    await visitor.visit(app_of(putting(a=1, b=2), store=store))
    await visitor.visit(app_of(forget, store=store))
    assert (await visitor.visit(app_of(show, store=store))).json() == {"b": 2}


async def test_logout_is_not_undone_by_a_request_that_was_under_way(store: Redis) -> None:
    async def log_out(session: Session) -> object:
        session.destroy()
        return None

    visitor = Visitor()
    await visitor.visit(app_of(putting(name="Ada"), store=store))
    thief = Visitor(visitor.cookie)
    late = Meeting(putting(seen=True))
    late_visit = asyncio.create_task(Visitor(visitor.cookie).visit(app_of(late, store=store)))
    await late.arrived.wait()
    answer = await visitor.visit(app_of(log_out, store=store))
    assert answer.header("set-cookie") == "session=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax"
    key = key_of(thief.cookie)
    assert set(await store.hgetall(key)) == {b"__born__", b"__touched__", b"__dead__"}
    assert 0 < await store.ttl(key) <= TOMBSTONE_TTL_S
    late.go_on.set()
    assert (await late_visit).status == 200
    assert await store.hget(key, "seen") == b"true"
    assert (await thief.visit(app_of(show, store=store))).json() == {}


async def test_a_late_save_does_not_make_a_session_of_one_that_expired(store: Redis) -> None:
    visitor = Visitor()
    await visitor.visit(app_of(putting(name="Ada", role="user"), store=store))
    late = Meeting(putting(role="admin"))
    late_visit = asyncio.create_task(visitor.visit(app_of(late, store=store)))
    await late.arrived.wait()
    await store.delete(key_of(visitor.cookie))
    late.go_on.set()
    await late_visit
    assert await store.ttl(key_of(visitor.cookie)) > 0, "what was written late must not stay for ever"
    assert (await visitor.visit(app_of(show, store=store))).json() == {}


async def test_an_id_chosen_by_the_client_is_never_adopted(store: Redis) -> None:
    chosen = "c" * 43
    visitor = Visitor(chosen)
    await visitor.visit(app_of(putting(name="Ada"), store=store))
    assert visitor.cookie not in (None, chosen)
    assert await store.exists(key_of(chosen)) == 0
    assert (await Visitor(chosen).visit(app_of(show, store=store))).json() == {}


async def test_regenerate_moves_the_session_and_the_old_id_is_dead_at_once(store: Redis) -> None:
    async def sign_in(session: Session) -> object:
        before = session.fingerprint
        session.regenerate()
        session["name"] = "Ada"
        return [before, session.fingerprint]

    visitor = Visitor()
    await visitor.visit(app_of(putting(cart=[1]), store=store))
    old = Visitor(visitor.cookie)
    late = Meeting(putting(late=True))
    late_visit = asyncio.create_task(Visitor(old.cookie).visit(app_of(late, store=store)))
    await late.arrived.wait()
    before, after = (await visitor.visit(app_of(sign_in, store=store))).json()
    late.go_on.set()
    await late_visit
    assert visitor.cookie != old.cookie
    assert before != after == session_digest(visitor.cookie or "")[:8]
    assert (await visitor.visit(app_of(show, store=store))).json() == {"cart": [1], "name": "Ada"}
    assert (await old.visit(app_of(show, store=store))).json() == {}


async def test_a_dump_of_the_store_gives_no_session_away(store: Redis) -> None:
    visitor = Visitor()
    await visitor.visit(app_of(putting(name="Ada"), store=store))
    keys = await store.keys("*")
    dump = repr([(key, await store.hgetall(key)) for key in keys])
    assert visitor.cookie is not None
    assert session_digest(visitor.cookie) in dump
    assert visitor.cookie not in dump


async def test_the_cookie_is_sent_when_it_is_needed_and_not_otherwise(store: Redis) -> None:
    visitor = Visitor()
    options = {"store": store, "secure": True, "same_site": "strict", "ttl_s": 600}
    untouched = await visitor.visit(app_of(lambda _: asyncio.sleep(0, "hello"), **options))
    assert (untouched.header("set-cookie"), untouched.header("vary")) == (None, None)
    first = await visitor.visit(app_of(putting(a=1), **options))
    assert first.header("set-cookie") == (
        f"session={visitor.cookie}; Max-Age=600; Path=/; HttpOnly; SameSite=Strict; Secure"
    )
    assert (first.header("cache-control"), first.header("vary")) == ("no-store", "Cookie")
    assert first.header("x-page") == "1"
    assert 590 <= await store.ttl(key_of(visitor.cookie)) <= 600
    again = await visitor.visit(app_of(putting(a=2), **options))
    assert (again.header("set-cookie"), again.header("vary")) == (None, "Cookie")


async def test_each_request_costs_what_is_promised(store: Redis) -> None:
    async def calls_of(visitor: Visitor, handler: Handler) -> dict[str, int]:
        await store.config_resetstat()
        assert (await visitor.visit(app_of(handler, store=store))).status == 200
        stats = await store.info("commandstats")
        return {name.removeprefix("cmdstat_"): value["calls"] for name, value in stats.items() if "config" not in name}

    visitor = Visitor()
    assert await calls_of(visitor, show) == {}
    assert await calls_of(visitor, putting(a=1, b=2)) == {"hset": 1, "expire": 1}
    assert await calls_of(visitor, show) == {"hgetall": 1}
    assert await calls_of(visitor, putting(a=1)) == {"hgetall": 1}
    assert await calls_of(visitor, putting(a=3)) == {"hgetall": 1, "hset": 1, "expire": 1}
    assert await calls_of(Visitor("not well formed"), show) == {}


class HandClock:
    """A wall clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000

    def now(self) -> Instant:
        return Instant(0.0)

    def wall_ms(self) -> WallMs:
        return WallMs(self.seconds * 1000)


async def test_a_session_that_is_only_read_has_its_life_renewed_once_a_minute(store: Redis) -> None:
    clock, visitor = HandClock(), Visitor()
    instance = app_of(show, store=store, ttl_s=600, clock=clock)
    await visitor.visit(app_of(putting(a=1), store=store, ttl_s=600, clock=clock))
    key = key_of(visitor.cookie)
    await store.expire(key, 100)
    clock.seconds += 59
    assert (await visitor.visit(instance)).header("set-cookie") is None
    assert await store.ttl(key) <= 100
    clock.seconds += 1
    assert "Max-Age=600" in ((await visitor.visit(instance)).header("set-cookie") or "")
    assert await store.ttl(key) > 100
    await store.expire(key, 100)
    assert (await visitor.visit(instance)).header("set-cookie") is None
    assert await store.ttl(key) <= 100


async def test_a_request_without_cookie_that_needs_no_session_does_not_notice_a_dead_store() -> None:
    async with client_of(NOBODY) as dead:
        assert (await Visitor().visit(app_of(show, store=dead))).json() == {}


@pytest.mark.usefixtures("short_budget")
async def test_a_dead_store_is_503_and_all_is_well_when_it_is_back(redis_server: "RedisServer", store: Redis) -> None:
    called: list[int] = []

    async def count(session: Session) -> object:
        called.append(1)
        session["n"] = session.get("n", 0) + 1
        return session["n"]

    visitor, instance = Visitor(), app_of(count, store=store)
    assert (await visitor.visit(instance)).json() == 1
    redis_server.kill()
    refused = await visitor.visit(instance)
    assert (refused.status, refused.header("retry-after"), len(called)) == (503, "1", 1)
    assert refused.json()["error"]["code"] == "unavailable"
    assert refused.json()["error"]["outcome"] == "not_applied"
    unsaved = await Visitor().visit(instance)
    assert (unsaved.status, len(called)) == (503, 2)
    assert unsaved.json()["error"] == {
        "code": "outcome_unknown",
        "message": "the session could not be saved; what the request did otherwise may have taken effect",
        "retryable": False,
        "outcome": "unknown",
    }
    assert (unsaved.header("set-cookie"), unsaved.header("x-page")) == (None, None)
    redis_server.start()
    assert (await visitor.visit(instance)).json() == 1  # This Redis keeps nothing over its death.
    assert (await visitor.visit(instance)).json() == 2


async def test_a_store_that_is_away_for_a_moment_costs_a_moment(redis_server: "RedisServer", store: Redis) -> None:
    visitor = Visitor()
    meeting = Meeting(putting(a=1))
    visit = asyncio.create_task(visitor.visit(app_of(meeting, store=store)))
    await meeting.arrived.wait()
    redis_server.kill()
    meeting.go_on.set()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(visit), 0.3)
    await asyncio.to_thread(redis_server.start)
    assert (await visit).status == 200
    assert (await visitor.visit(app_of(show, store=store))).json() == {"a": 1}


async def test_a_failed_renewal_fails_no_request(redis_server: "RedisServer", store: Redis) -> None:
    clock, visitor = HandClock(), Visitor()
    await visitor.visit(app_of(putting(a=1), store=store, clock=clock))
    clock.seconds += 3600
    meeting = Meeting(show)
    visit = asyncio.create_task(visitor.visit(app_of(meeting, store=store, clock=clock)))
    await meeting.arrived.wait()
    redis_server.kill()
    meeting.go_on.set()
    answer = await visit
    assert (answer.status, answer.json(), answer.header("set-cookie")) == (200, {"a": 1}, None)


async def test_a_store_that_refuses_is_503_without_its_words(store: Redis) -> None:
    visitor = Visitor("d" * 43)
    await store.set(key_of(visitor.cookie), "not a hash")
    answer = await visitor.visit(app_of(show, store=store))
    assert answer.status == 503
    assert b"WRONGTYPE" not in answer.body


async def test_what_was_changed_in_place_into_too_much_is_an_error_of_the_app(store: Redis) -> None:
    async def bloat(session: Session) -> object:
        session["list"] = []
        session["list"].append("x" * 70_000)
        return "never seen"

    visitor = Visitor()
    answer = await visitor.visit(app_of(bloat, store=store))
    assert (answer.status, answer.json()["error"]["code"], visitor.cookie) == (500, "internal", None)
    assert await store.keys("*") == []


async def test_a_write_after_the_response_has_started_is_refused(store: Redis) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, {})
        with pytest.raises(RequestError, match="when the response started"):
            scope["session"]["late"] = 1

    assert (await Visitor().visit(Sessions(app, store=store))).status == 200


async def test_an_app_that_fails_changes_nothing(store: Redis) -> None:
    async def fail(session: Session) -> object:
        session["a"] = 1
        raise RuntimeError("a bug")

    async def answer_500(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        await send_json(send, 500, "a bug that was caught")

    with pytest.raises(RuntimeError, match="a bug"):
        await Visitor().visit(app_of(fail, store=store))
    answer = await Visitor().visit(Sessions(answer_500, store=store))
    assert (answer.status, answer.header("set-cookie")) == (500, None)
    assert await store.keys("*") == []


async def test_a_websocket_reads_its_session_and_cannot_change_it(store: Redis) -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope["session"]))
        with pytest.raises(RequestError, match="WebSocket only reads"):
            scope["session"]["a"] = 2

    visitor = Visitor()
    await visitor.visit(app_of(putting(a=1), store=store))
    await Sessions(app, store=store)(visitor.scope("websocket"), nothing_to_receive, lambda _: asyncio.sleep(0))
    assert seen == [{"a": 1}]


@pytest.mark.usefixtures("short_budget")
@pytest.mark.parametrize(
    ("extensions", "first"),
    [({}, "websocket.close"), ({"websocket.http.response": {}}, "websocket.http.response.start")],
)
async def test_a_websocket_is_turned_away_while_the_store_is_dead(extensions: dict[str, Any], first: str) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async with client_of(NOBODY) as dead:
        scope = {**Visitor("e" * 43).scope("websocket"), "extensions": extensions}
        await app_of(show, store=dead)(scope, nothing_to_receive, send)
    assert sent[0]["type"] == first
    assert (sent[0].get("code"), sent[0].get("status")) in ((1013, None), (None, 503))


async def test_a_client_made_from_a_url_is_closed_with_the_lifespan(redis_server: "RedisServer", store: Redis) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send_json(send, 200, list(scope["session"]))

    instance = Sessions(app, store=redis_server.url)
    await Visitor("f" * 43).visit(instance)
    before = (await store.info("clients"))["connected_clients"]
    await instance({"type": "lifespan"}, nothing_to_receive, lambda _: asyncio.sleep(0))
    async with asyncio.timeout(5):
        while (await store.info("clients"))["connected_clients"] != before - 1:
            await asyncio.sleep(0.01)


def test_a_client_that_gives_str_is_refused() -> None:
    with pytest.raises(ConfigError, match="decode_responses=False"):
        app_of(show, store=connect(NOBODY, decode_responses=True))
