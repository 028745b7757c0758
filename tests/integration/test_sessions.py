"""Sessions on a real Redis: several instances, requests that overlap, logout, theft, and a store that goes away."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis
from session_visitors import (
    Handler,
    Visitor,
    app_of,
    client_of,
    key_of,
    nothing_to_receive,
    putting,
    show,
    signing_in,
    who,
)

from noctule.base.errors import ConfigError, RequestError
from noctule.base.ids import Instant, WallMs
from noctule.kits.asgi import Message, Receive, Scope, Send, send_json
from noctule.kits.session_cookie import session_digest
from noctule.kits.session_seal import KeyRing
from noctule.kits.session_users import TOMBSTONE_TTL_S, UserSessions
from noctule.kits.sessions import Session, Sessions
from noctule.kits.store import connect

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines",)
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

NOBODY = "redis://127.0.0.1:1/0"
"""A store where nobody listens."""


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


GIVING_UP_SOON: dict[str, Any] = {"patience_s": 0.4}


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
    assert answer.header("set-cookie") == "__Host-session=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax; Secure"
    key = key_of(thief.cookie)
    assert set(await store.hgetall(key)) == {b"__dead__"}
    assert 0 < await store.ttl(key) <= TOMBSTONE_TTL_S
    late.go_on.set()
    assert (await late_visit).status == 200
    assert set(await store.hgetall(key)) == {b"__dead__"}
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
    assert await store.exists(key_of(visitor.cookie)) == 0
    assert (await visitor.visit(app_of(show, store=store))).json() == {}


async def test_an_id_chosen_by_the_client_is_never_adopted(store: Redis) -> None:
    chosen = "c" * 65
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
    assert key_of(visitor.cookie) == key_of(old.cookie), "one hash, so one script"
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
    options = {"store": store, "same_site": "strict", "idle_s": 600}
    untouched = await visitor.visit(app_of(lambda _: asyncio.sleep(0, "hello"), **options))
    assert (untouched.header("set-cookie"), untouched.header("vary")) == (None, None)
    first = await visitor.visit(app_of(putting(a=1), **options))
    assert first.header("set-cookie") == (
        f"__Host-session={visitor.cookie}; Max-Age=600; Path=/; HttpOnly; SameSite=Strict; Secure"
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
    made = await calls_of(visitor, putting(a=1, b=2))
    assert made.pop("evalsha") + made.pop("eval", 0) <= 2
    assert made == {"time": 1, "hmget": 1, "hget": 2, "hlen": 1, "hset": 1, "pexpire": 1}
    assert await calls_of(visitor, show) == {"hgetall": 1}
    assert await calls_of(visitor, putting(a=1)) == {"hgetall": 1}
    made = await calls_of(visitor, putting(a=3))
    assert made == {"hgetall": 1, "evalsha": 1, "time": 1, "hmget": 1, "hget": 1, "hset": 1}
    assert await calls_of(Visitor("not well formed"), show) == {}


class HandClock:
    """A wall clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000
        self.monotonic_s = 0.0

    def now(self) -> Instant:
        return Instant(self.monotonic_s)

    def wall_ms(self) -> WallMs:
        return WallMs(self.seconds * 1000)


async def test_a_session_that_is_only_read_has_its_life_renewed_once_a_minute(store: Redis) -> None:
    visitor = Visitor()
    instance = app_of(show, store=store, idle_s=600)
    await visitor.visit(app_of(putting(a=1), store=store, idle_s=600))
    key = key_of(visitor.cookie)

    async def seconds_later(seconds: int) -> None:
        now_s, _ = await store.time()
        await store.hset(key, "__touched__", str((now_s - seconds) * 1000))
        await store.expire(key, 100)

    await seconds_later(58)
    assert (await visitor.visit(instance)).header("set-cookie") is None
    assert await store.ttl(key) <= 100
    await seconds_later(61)
    assert "Max-Age=600" in ((await visitor.visit(instance)).header("set-cookie") or "")
    assert await store.ttl(key) > 100
    await store.expire(key, 100)
    assert (await visitor.visit(instance)).header("set-cookie") is None
    assert await store.ttl(key) <= 100


async def test_an_instance_with_a_wrong_clock_renews_no_more_than_others(store: Redis) -> None:
    visitor = Visitor()
    await visitor.visit(app_of(putting(a=1), store=store))
    before = await store.hgetall(key_of(visitor.cookie))
    answer = await visitor.visit(app_of(show, store=store, clock=HandClock()))
    assert (answer.header("set-cookie"), await store.hgetall(key_of(visitor.cookie))) == (None, before)


async def test_a_session_ends_by_its_age_however_much_it_is_used(store: Redis) -> None:
    visitor = Visitor()
    instance = app_of(putting(a=1), store=store, idle_s=500, absolute_s=600)
    await visitor.visit(instance)
    key = key_of(visitor.cookie)
    now_s, _ = await store.time()
    await store.hset(key, mapping={"__born__": str((now_s - 550) * 1000), "__touched__": "0"})
    assert "Max-Age=49" in ((await visitor.visit(instance)).header("set-cookie") or "") or await store.ttl(key) <= 50
    assert await store.ttl(key) <= 50
    await store.hset(key, "__born__", str((now_s - 600) * 1000))
    await visitor.visit(app_of(putting(a=2), store=store, idle_s=500, absolute_s=600))
    assert await store.hget(key, "a") == b"1", "a save that comes too late writes nothing"


async def test_counts_of_requests_at_once_add_up(store: Redis) -> None:
    async def count(session: Session) -> object:
        return session.add("n")

    visitor = Visitor()
    await visitor.visit(app_of(putting(n=0), store=store))
    instances = [app_of(count, store=store) for _ in range(3)]
    await asyncio.gather(*(Visitor(visitor.cookie).visit(instances[n % 3]) for n in range(30)))
    assert (await visitor.visit(app_of(show, store=store))).json() == {"n": 30}


async def test_of_two_who_set_one_field_the_later_wins_or_is_refused(store: Redis) -> None:
    for on_conflict, status, held in (("last_wins", 200, 2), ("refuse", 409, 1)):
        visitor = Visitor()
        await visitor.visit(app_of(putting(a=0), store=store))
        late = Meeting(putting(a=2))
        instance = app_of(late, store=store, on_conflict=on_conflict)
        late_visit = asyncio.create_task(Visitor(visitor.cookie).visit(instance))
        await late.arrived.wait()
        await visitor.visit(app_of(putting(a=1), store=store))
        late.go_on.set()
        assert (await late_visit).status == status
        assert (await visitor.visit(app_of(show, store=store))).json() == {"a": held}
        assert instance.describe().overwritten == (on_conflict == "last_wins")


async def test_a_user_sees_the_devices_and_ends_one_or_all(store: Redis) -> None:
    users, visitors = UserSessions(store), [Visitor() for _ in range(3)]
    asking = app_of(who, store=store)
    handles = [(await visitor.visit(app_of(signing_in("ada"), store=store))).json() for visitor in visitors]
    stranger = Visitor()
    await stranger.visit(app_of(signing_in("bob"), store=store))
    devices = await users.devices("ada")
    assert {device.id for device in devices} == set(handles)
    assert (devices[0].address, devices[0].agent) == ("192.0.2.7", "Browser/1")
    assert 0 < devices[0].created_ms <= devices[0].seen_ms
    assert not await users.end("bob", handles[0]), "nobody ends another user's session"
    for name in ("__epoch__", "__raised__", "", "\ud800"):
        assert not await users.end("ada", name), "what a visitor sends is a session's handle or nothing"
    assert len(await users.devices("ada")) == len(handles)
    assert await users.end("ada", handles[0])
    assert [(await visitor.visit(asking)).json() for visitor in visitors] == [None, "ada", "ada"]
    assert await users.end_all("ada") == 2
    assert [(await visitor.visit(asking)).json() for visitor in visitors] == [None, None, None]
    assert await users.devices("ada") == []
    assert (await stranger.visit(asking)).json() == "bob"


async def test_signed_out_everywhere_but_here(store: Redis) -> None:
    users, here, there = UserSessions(store), Visitor(), Visitor()

    async def change_password(session: Session) -> object:
        assert session.user is not None
        ended = await users.end_all(session.user, keep=session.handle)
        session.sign_in(session.user)
        return ended

    for visitor in (here, there):
        await visitor.visit(app_of(signing_in("ada"), store=store))
    before = Visitor(here.cookie)
    assert (await here.visit(app_of(change_password, store=store))).json() == 1
    assert (await here.visit(app_of(who, store=store))).json() == "ada"
    assert here.cookie != before.cookie, "also who is signed in already signs in under a new id"
    assert (await before.visit(app_of(who, store=store))).json() is None
    assert (await there.visit(app_of(who, store=store))).json() is None


async def test_another_prefix_ends_all_sessions(store: Redis) -> None:
    visitors = [Visitor() for _ in range(3)]
    for number, visitor in enumerate(visitors):
        await visitor.visit(app_of(signing_in(f"user-{number}"), store=store))
    for visitor in visitors:
        assert (await visitor.visit(app_of(who, store=store, prefix="session2:"))).json() is None


async def test_one_user_has_only_so_many_sessions(store: Redis) -> None:
    visitors = [Visitor() for _ in range(4)]
    for visitor in visitors:
        await visitor.visit(app_of(signing_in("ada"), store=store, devices_max=3))
        await asyncio.sleep(0.002)  # The one that is unused for the longest is told apart by the ms.
    answers = [(await visitor.visit(app_of(who, store=store))).json() for visitor in visitors]
    assert answers == [None, "ada", "ada", "ada"]


async def test_a_session_that_the_list_lacks_is_signed_out_all_the_same(store: Redis) -> None:
    users, visitor = UserSessions(store), Visitor()
    handle = (await visitor.visit(app_of(signing_in("ada"), store=store))).json()
    await users.forget("ada", handle)
    assert await users.end_all("ada") == 0
    assert (await visitor.visit(app_of(who, store=store))).json() is None


async def test_an_instance_may_believe_an_epoch_for_as_long_as_it_was_told(store: Redis) -> None:
    clock, visitor = HandClock(), Visitor()
    asking = app_of(who, store=store, epoch_age_s=5.0, clock=clock)
    handle = (await visitor.visit(app_of(signing_in("ada"), store=store))).json()
    assert (await visitor.visit(asking)).json() == "ada"
    users = UserSessions(store)
    await users.forget("ada", handle)
    await users.end_all("ada")
    assert (await visitor.visit(asking)).json() == "ada", "it was not listed, and the epoch is believed"
    clock.monotonic_s += 5.0
    assert (await visitor.visit(asking)).json() is None


async def test_of_two_sign_ins_at_once_one_is_done_and_the_other_told(store: Redis) -> None:
    visitor = Visitor()
    await visitor.visit(app_of(putting(a=1), store=store))
    late = Meeting(signing_in("bob"))
    late_visit = asyncio.create_task(Visitor(visitor.cookie).visit(app_of(late, store=store)))
    await late.arrived.wait()
    await visitor.visit(app_of(signing_in("ada"), store=store))
    late.go_on.set()
    answer = await late_visit
    assert (answer.status, answer.json()["error"]["code"], answer.header("set-cookie")) == (409, "conflict", None)
    assert (await visitor.visit(app_of(who, store=store))).json() == "ada"
    users = UserSessions(store)
    (device,) = await users.devices("ada")
    assert await users.devices("bob") == [], "the sign-in that was overtaken is not shown"
    assert not await users.end("bob", device.id), "and is no way to end what is another's"
    assert (await visitor.visit(app_of(who, store=store))).json() == "ada"


async def test_what_one_user_kept_is_not_the_next_ones(store: Redis) -> None:
    visitor = Visitor()
    await visitor.visit(app_of(signing_in("ada", secret=1), store=store))
    old = Visitor(visitor.cookie)
    await visitor.visit(app_of(signing_in("bob"), store=store))
    assert (await visitor.visit(app_of(show, store=store))).json() == {}
    assert (await old.visit(app_of(who, store=store))).json() is None


async def test_sealed_values_are_read_with_any_key_of_the_ring_and_by_nobody_else(store: Redis) -> None:
    old, new = KeyRing({"a": b"1" * 32}, "a"), KeyRing({"a": b"1" * 32, "b": b"2" * 32}, "b")
    visitor = Visitor()
    await visitor.visit(app_of(signing_in("ada@example.org", name="Ada"), store=store, keys=old))
    dump = repr([(key, await store.hgetall(key)) for key in await store.keys("*")])
    assert "Ada" not in dump
    assert "ada@example.org" not in dump
    assert "192.0.2.7" not in dump
    assert (await visitor.visit(app_of(show, store=store, keys=new))).json() == {"name": "Ada"}
    assert (await UserSessions(store, keys=new).devices("ada@example.org"))[0].address == "192.0.2.7"
    await visitor.visit(app_of(putting(other=1), store=store, keys=new))
    assert (await visitor.visit(app_of(show, store=store, keys=old))).json() == {}, "its key is not in that ring"
    key = key_of(visitor.cookie)
    await store.hset(key, "other", await store.hget(key, "name"))
    assert (await visitor.visit(app_of(show, store=store, keys=new))).json() == {}, "a value was moved"


async def test_without_its_store_a_visitor_is_anonymous_if_one_says_so(redis_server: "RedisServer") -> None:
    async with client_of(redis_server.url) as store:
        visitor = Visitor()
        options: dict[str, Any] = {"store": store, "on_store_loss": "anonymous", "patience_s": 0.2}
        reading, writing = app_of(show, **options), app_of(putting(a=2), **options)
        await visitor.visit(app_of(putting(a=1), **options))
        cookie = visitor.cookie
        redis_server.kill()
        answer = await visitor.visit(reading)
        assert (answer.status, answer.json(), answer.header("noctule-session")) == (200, {}, "degraded")
        assert answer.header("cache-control") == "no-store"
        assert (await visitor.visit(writing)).status == 503
        assert visitor.cookie == cookie
        picture = reading.describe()
        assert (picture.is_away, picture.degraded, picture.on_store_loss) == (True, 1, "anonymous")


async def test_a_request_without_cookie_that_needs_no_session_does_not_notice_a_dead_store() -> None:
    async with client_of(NOBODY) as dead:
        assert (await Visitor().visit(app_of(show, store=dead))).json() == {}


async def test_a_dead_store_is_503_and_all_is_well_when_it_is_back(redis_server: "RedisServer", store: Redis) -> None:
    called: list[int] = []

    async def count(session: Session) -> object:
        called.append(1)
        session["n"] = session.get("n", 0) + 1
        return session["n"]

    visitor, instance = Visitor(), app_of(count, store=store, **GIVING_UP_SOON)
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
    visitor = Visitor("d" * 65)
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


@pytest.mark.parametrize(
    ("extensions", "first"),
    [({}, "websocket.close"), ({"websocket.http.response": {}}, "websocket.http.response.start")],
)
async def test_a_websocket_is_turned_away_while_the_store_is_dead(extensions: dict[str, Any], first: str) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async with client_of(NOBODY) as dead:
        scope = {**Visitor("e" * 65).scope("websocket"), "extensions": extensions}
        await app_of(show, store=dead, **GIVING_UP_SOON)(scope, nothing_to_receive, send)
    assert sent[0]["type"] == first
    assert (sent[0].get("code"), sent[0].get("status")) in ((1013, None), (None, 503))


async def test_a_client_made_from_a_url_is_closed_with_the_lifespan(redis_server: "RedisServer", store: Redis) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send_json(send, 200, list(scope["session"]))

    instance = Sessions(app, store=redis_server.url)
    await Visitor("f" * 65).visit(instance)
    before = (await store.info("clients"))["connected_clients"]
    await instance({"type": "lifespan"}, nothing_to_receive, lambda _: asyncio.sleep(0))
    async with asyncio.timeout(5):
        while (await store.info("clients"))["connected_clients"] != before - 1:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("options", "cookie"),
    [
        ({}, "__Host-session"),
        ({"domain": "example.org"}, "__Secure-session"),
        ({"path": "/app"}, "__Secure-session"),
        ({"plain_http": True}, "session"),
        ({"cookie_name": "sid"}, "sid"),
    ],
)
async def test_the_cookie_is_as_protected_as_its_options_allow(options: dict[str, Any], cookie: str) -> None:
    async with client_of(NOBODY) as nobody:
        picture = app_of(show, store=nobody, **options).describe()
    assert (picture.cookie, picture.is_plain_http) == (cookie, "plain_http" in options)


@pytest.mark.parametrize(("said", "is_plain"), [("1", True), ("0", False), ("", False)])
async def test_the_environment_says_whether_there_is_no_tls(
    said: str, is_plain: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOCTULE_PLAIN_HTTP", said)
    async with client_of(NOBODY) as nobody:
        assert app_of(show, store=nobody).describe().is_plain_http is is_plain
        assert app_of(show, store=nobody, plain_http=False).describe().is_plain_http is False
    assert ("session_cookie_unprotected" in caplog.text) is is_plain


@pytest.mark.parametrize(
    "options",
    [{"absolute_s": 1}, {"devices_max": 0}, {"on_conflict": "x"}, {"on_store_loss": "x"}, {"same_site": "x"}],
)
async def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    async with client_of(NOBODY) as nobody:
        with pytest.raises(ConfigError):
            app_of(show, store=nobody, **options)


def test_a_client_that_gives_str_is_refused() -> None:
    for make in (lambda client: app_of(show, store=client), UserSessions):
        with pytest.raises(ConfigError, match="decode_responses=False"):
            make(connect(NOBODY, decode_responses=True))
