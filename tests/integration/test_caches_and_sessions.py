"""What web applications use, on three real nodes: Django's caches and sessions, Flask-Session, starsessions, limits.

Each is as its authors released it and believes that it talks to Redis.
"""

import asyncio
import contextlib
import gc
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.cookies import SimpleCookie
from typing import Any

import django
import flask
import limits
import limits.aio
import pytest
import redis.asyncio
import starsessions
from django.conf import settings
from django.contrib.sessions.backends.cache import SessionStore
from django.core.cache import CacheHandler
from django_redis.exceptions import ConnectionInterrupted
from flask_session import Session as FlaskSession
from limits import RateLimitItemPerMinute
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starsessions.stores.redis import RedisStore
from witness_cluster import WitnessCluster

pytest_plugins = ("witness_cluster",)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.usefixtures("clients_leave_connections"),
]

DJANGO_DATABASE, FLASK_DATABASE, STARSESSIONS_DATABASE, LIMITS_DATABASE, LOCKS_DATABASE = 5, 6, 7, 8, 10
ADDING, ADDITIONS = 4, 20
"""Threads, and what each adds."""
ALLOWED = 20
"""Requests in a minute."""
TRIES = 50


@pytest.fixture(autouse=True)
def _sockets_that_libraries_forget() -> Iterator[None]:
    """Found here, where their warnings are ignored, and not during the test of somebody else."""
    yield
    gc.collect()


# Django ---------------------------------------------------------------------------------------------------------------

BACKENDS = {
    "django-redis": "django_redis.cache.RedisCache",
    "django": "django.core.cache.backends.redis.RedisCache",
}


@pytest.fixture(scope="module", autouse=True)
def _django() -> None:
    if not settings.configured:
        unused = {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}
        settings.configure(SECRET_KEY="witness", SESSION_CACHE_ALIAS="default", CACHES={"default": unused})
        django.setup()


@contextlib.contextmanager
def caches_of(backend: str, *urls: str | list[str]) -> Iterator[list[Any]]:
    """The cache as one Django process after another has it, each through its own node; all keys are new."""
    prefix = uuid.uuid4().hex
    handlers = [
        CacheHandler({"default": {"BACKEND": BACKENDS[backend], "LOCATION": url, "KEY_PREFIX": prefix}}) for url in urls
    ]
    try:
        yield [handler["default"] for handler in handlers]
    finally:
        for handler in handlers:
            handler["default"].close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_every_django_cache_does(cluster: WitnessCluster, backend: str) -> None:
    with caches_of(backend, *(cluster.url(node, DJANGO_DATABASE) for node in (1, 2, 3))) as (one, two, three):
        one.set("user", {"name": "Ada", "tags": ["a", "b"]}, timeout=60)
        assert two.get("user") == {"name": "Ada", "tags": ["a", "b"]}
        assert three.get("nobody", "default") == "default"
        assert two.add("user", "other") is False
        assert three.add("new", 1) is True
        assert [cache.incr("new", 10) for cache in (one, two, three)] == [11, 21, 31]
        assert one.decr("new") == 30
        with pytest.raises(ValueError, match="not found"):
            two.incr("nobody")
        assert one.get_or_set("lazy", lambda: "made") == two.get_or_set("lazy", lambda: "again") == "made"
        many = {f"many-{number}": number for number in range(50)}
        assert not one.set_many(many, timeout=60), "keys that were not set"
        assert two.get_many([*many, "nobody"]) == many
        three.delete_many(list(many)[:25])
        assert len(one.get_many(many)) == 25
        assert one.touch("user", 1_000) is True
        assert two.touch("nobody") is False
        assert three.has_key("user")
        assert "nobody" not in three
        assert one.delete("user") is True
        assert two.delete("user") is False
        one.set("gone", 1, timeout=0)
        assert two.get("gone") is None
        one.set("versioned", "first", version=1)
        one.incr_version("versioned")
        assert (two.get("versioned", version=1), two.get("versioned", version=2)) == (None, "first")
        one.clear()
        assert two.get_many([*many, "new", "lazy"]) == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_django_cache_does_in_database_0(cluster: WitnessCluster, backend: str) -> None:
    """All but one thing: set_many is a transaction on keys of its own choice, and is told where that works."""
    with caches_of(backend, cluster.url(1), cluster.url(2)) as (one, two):
        for number in range(20):
            one.set(f"many-{number}", number)
        assert two.get_many([f"many-{number}" for number in range(25)]) == {f"many-{n}": n for n in range(20)}
        two.delete_many([f"many-{number}" for number in range(10)])
        assert one.get_many([f"many-{number}" for number in range(20)]) == {f"many-{n}": n for n in range(10, 20)}
        with pytest.raises((RedisError, ConnectionInterrupted), match="SELECT a database from 1 to 15"):
            one.set_many({f"many-{number}": number for number in range(20)})


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_django_cache_with_several_nodes_reads_what_it_wrote(cluster: WitnessCluster, backend: str) -> None:
    """It takes the first for the one that is written, and the others for copies, of which it reads any."""
    with caches_of(backend, [cluster.url(node, DJANGO_DATABASE) for node in (1, 2, 3)]) as (cache,):
        for number in range(30):
            cache.set("key", number)
            assert cache.get("key") == number


def test_what_django_redis_does_beyond(cluster: WitnessCluster) -> None:
    urls = [cluster.url(node, DJANGO_DATABASE) for node in (1, 2)]
    with caches_of("django-redis", *urls) as (one, two):
        for number in range(30):
            one.set(f"page:{number}", number, timeout=60)
        one.set("other", 1, timeout=None)
        assert sorted(two.iter_keys("page:*", itersize=7)) == sorted(f"page:{number}" for number in range(30))
        assert sorted(two.keys("page:1?")) == [f"page:1{number}" for number in range(10)]
        assert two.ttl("other") is None
        assert two.ttl("nobody") == 0
        assert 50 <= two.ttl("page:1") <= 60
        assert 50_000 < two.pttl("page:1") <= 60_000
        assert one.persist("page:1") is True
        assert two.ttl("page:1") is None
        assert one.expire("page:1", 100)
        assert one.pexpire("page:2", 500_000)
        assert (90 < two.ttl("page:1") <= 100, 400 < two.ttl("page:2") <= 500) == (True, True)
        assert two.delete_pattern("page:*", itersize=11) == 30
        assert one.keys("page:*") == []
        assert one.set("unique", 1, nx=True) is True
        assert not two.set("unique", 2, nx=True)

        with one.lock("lock", timeout=10):
            assert two.lock("lock", timeout=10).acquire(blocking=False) is False
        other = two.lock("lock", timeout=10)
        assert other.acquire(blocking=False) is True
        other.release()

        assert one.sadd("s", "a", "b", "c") == 3
        assert one.sadd("t", "b", "c", "d") == 3
        assert two.sinter("s", "t") == {"b", "c"}
        assert two.sunion("s", "t") == {"a", "b", "c", "d"}
        assert two.sdiffstore("u", "s", "t") == 1
        assert one.smembers("u") == {"a"}
        assert one.smove("s", "u", "b") is True
        assert two.smismember("u", "a", "b", "c") == [True, True, False]
        assert set(two.sscan_iter("s")) == {"a", "c"}
        assert two.spop("u", 2) in ({"a", "b"}, ["a", "b"], ["b", "a"])
        assert one.hset("h", "field", {"deep": 1}) == 1
        assert two.hexists("h", "field")
        assert (two.hlen("h"), two.hkeys("h")) == (1, ["field"])
        assert two.hdel("h", "field") == 1
        assert one.zadd("z", {"a": 1, "b": 2, "c": 3}) == 3
        assert two.zrange("z", 0, -1, withscores=True) == [("a", 1.0), ("b", 2.0), ("c", 3.0)]
        assert two.zincrby("z", 5, "a") == 6.0
        assert one.zrangebyscore("z", 3, 6) == ["c", "a"]
        assert two.zpopmin("z") == ("b", 2.0)


def test_a_django_session_outlives_the_node_that_led_it(cluster: WitnessCluster) -> None:
    """Two processes with a node each; the third, which leads, is killed between a login and the next page."""
    leader = cluster.leader(DJANGO_DATABASE)
    urls = [cluster.url(node, DJANGO_DATABASE) for node in cluster.followers(DJANGO_DATABASE)]
    with caches_of("django-redis", *urls) as stores:
        one, two = SessionStore(), SessionStore()
        one._cache, two._cache = stores
        one["user"] = 7
        one.cycle_key()
        key = one.session_key
        cluster.kill(leader)
        two._session_key = key
        assert two["user"] == 7
        two["seen"] = 1
        two.save()
        again = SessionStore(key)
        again._cache = stores[0]
        assert dict(again.items()) == {"user": 7, "seen": 1}
        again.flush()
        assert not two.exists(key)


# Flask-Session --------------------------------------------------------------------------------------------------------


def flask_app(client: redis.Redis) -> flask.Flask:
    """Log in, see who one is, log out."""
    app = flask.Flask("witness")
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=client, SESSION_PERMANENT=True)
    FlaskSession(app)

    @app.get("/login/<user>")
    def login(user: str) -> Any:
        flask.session["user"] = user
        return {"user": user}

    @app.get("/me")
    def me() -> Any:
        return {"user": flask.session.get("user")}

    @app.get("/logout")
    def logout() -> Any:
        flask.session.clear()
        return {}

    return app


def test_flask_session_logs_in_here_and_is_known_there(cluster: WitnessCluster) -> None:
    leader = cluster.leader(FLASK_DATABASE)
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(contextlib.closing(cluster.client(node, FLASK_DATABASE)))
            for node in cluster.followers(FLASK_DATABASE)
        ]
        one, two = (flask_app(client).test_client() for client in clients)
        cookie = one.get("/login/ada").headers["Set-Cookie"]
        session_id = SimpleCookie(cookie)["session"].value
        two.set_cookie("session", session_id)
        assert two.get("/me").json == {"user": "ada"}
        (key,) = clients[0].keys("session:*")
        assert 30 * 86_400 < clients[1].ttl(key) <= 31 * 86_400
        cluster.kill(leader)
        assert two.get("/me").json == {"user": "ada"}
        two.get("/logout")
        assert one.get("/me").json == {"user": None}
        assert clients[0].keys("session:*") == []


# starsessions ---------------------------------------------------------------------------------------------------------


async def login(request: Request) -> JSONResponse:
    request.session["user"] = request.query_params["user"]
    return JSONResponse({})


async def me(request: Request) -> JSONResponse:
    return JSONResponse({"user": request.session.get("user")})


async def logout(request: Request) -> JSONResponse:
    request.session.clear()
    return JSONResponse({})


def starlette_app(client: redis.asyncio.Redis) -> Starlette:
    return Starlette(
        routes=[Route("/login", login), Route("/me", me), Route("/logout", logout)],
        middleware=[
            Middleware(
                starsessions.SessionMiddleware,
                store=RedisStore(connection=client),
                lifetime=3600,
                cookie_https_only=False,
            ),
            Middleware(starsessions.SessionAutoloadMiddleware),
        ],
    )


async def visit(app: Starlette, path: str, cookie: str = "", query: str = "") -> tuple[bytes, str]:
    """The body, and the session's cookie from now on."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "scheme": "http"}
    headers = [(b"host", b"witness"), (b"cookie", f"session={cookie}".encode())]
    await app({**scope, "headers": headers, "server": ("witness", 80)}, receive, send)
    assert sent[0]["status"] == 200
    for name, value in sent[0]["headers"]:
        if name == b"set-cookie":
            cookie = SimpleCookie(value.decode())["session"].value
    return sent[1]["body"], cookie


async def test_starsessions_logs_in_here_and_is_known_there(cluster: WitnessCluster) -> None:
    leader = cluster.leader(STARSESSIONS_DATABASE)
    async with contextlib.AsyncExitStack() as stack:
        apps = []
        for node in cluster.followers(STARSESSIONS_DATABASE):
            client = redis.asyncio.Redis.from_url(cluster.url(node, STARSESSIONS_DATABASE))
            apps.append(starlette_app(await stack.enter_async_context(client)))
        one, two = apps
        _, cookie = await visit(one, "/login", query="user=ada")
        assert await visit(two, "/me", cookie) == (b'{"user":"ada"}', cookie)
        cluster.kill(leader)
        assert await visit(two, "/me", cookie) == (b'{"user":"ada"}', cookie)
        await visit(two, "/logout", cookie)
        assert (await visit(one, "/me", cookie))[0] == b'{"user":null}'


# Locks ----------------------------------------------------------------------------------------------------------------


def test_a_lock_keeps_others_out_when_the_leader_is_killed(cluster: WitnessCluster) -> None:
    """Threads at two nodes read, add and write under a lock of redis-py: taken by SET NX, left by a script."""
    leader, nodes = cluster.leader(LOCKS_DATABASE), cluster.followers(LOCKS_DATABASE)

    def add(thread: int) -> None:
        with cluster.client(nodes[thread % 2], LOCKS_DATABASE) as client:
            for number in range(ADDITIONS):
                with client.lock("lock", timeout=30, sleep=0.005):
                    count = int(client.get("count") or 0)
                    if thread == 0 and number == ADDITIONS // 2:
                        cluster.kill(leader)
                    client.set("count", count + 1)

    with ThreadPoolExecutor(ADDING) as pool:
        list(pool.map(add, range(ADDING)))
    with cluster.client(nodes[0], LOCKS_DATABASE) as client:
        assert (client.get("count"), client.exists("lock")) == (b"%d" % (ADDING * ADDITIONS), 0)


# limits ---------------------------------------------------------------------------------------------------------------

STRATEGIES = {
    "fixed window": "FixedWindowRateLimiter",
    "moving window": "MovingWindowRateLimiter",
    "sliding window": "SlidingWindowCounterRateLimiter",
}


def urls_of_faces(cluster: WitnessCluster) -> dict[str, list[str]]:
    """For each way in one URL after another; each is for a process of its own."""
    hosts = [f"127.0.0.1:{port}" for port in cluster.ports.values()]
    return {
        "database 0": [f"redis://{host}/0" for host in hosts],
        "one database": [f"redis://{host}/{LIMITS_DATABASE}" for host in hosts],
        "cluster": [f"redis+cluster://127.0.0.1:{port}" for port in cluster.cluster_ports.values()],
        "sentinel": [f"redis+sentinel://{','.join(hosts)}/noctule"] * 2,
    }


EVERY_FACE = pytest.mark.parametrize("face", ["database 0", "one database", "cluster", "sentinel"])
EVERY_STRATEGY = pytest.mark.parametrize("strategy", STRATEGIES)


@contextlib.contextmanager
def limiters_of(urls: Sequence[str], strategy: str) -> Iterator[list[Any]]:
    """Limiters that share their allowances."""
    storages = [limits.storage.storage_from_string(url) for url in urls]
    try:
        yield [getattr(limits.strategies, STRATEGIES[strategy])(storage) for storage in storages]
    finally:
        for storage in storages:
            storage.storage.close()


@contextlib.asynccontextmanager
async def async_limiters_of(urls: Sequence[str], strategy: str) -> AsyncIterator[list[Any]]:
    """Limiters that share their allowances."""
    storages = [limits.storage.storage_from_string(f"async+{url}", implementation="redispy") for url in urls]
    try:
        yield [getattr(limits.aio.strategies, STRATEGIES[strategy])(storage) for storage in storages]
    finally:
        for storage in storages:
            await storage.bridge.storage.aclose()


@EVERY_FACE
@EVERY_STRATEGY
def test_limits_admits_exactly_the_limit(cluster: WitnessCluster, face: str, strategy: str) -> None:
    """Threads over all nodes at once ask for one allowance."""
    item, who = RateLimitItemPerMinute(ALLOWED), uuid.uuid4().hex
    with limiters_of(urls_of_faces(cluster)[face], strategy) as limiters:
        with ThreadPoolExecutor(6) as pool:
            admitted = list(pool.map(lambda number: limiters[number % len(limiters)].hit(item, who), range(TRIES)))
        assert admitted.count(True) == ALLOWED
        assert limiters[0].test(item, who) is False
        assert limiters[-1].get_window_stats(item, who).remaining == 0
        limiters[0].clear(item, who)
        assert limiters[-1].hit(item, who) is True


@EVERY_FACE
@EVERY_STRATEGY
async def test_limits_admits_exactly_the_limit_in_asyncio(cluster: WitnessCluster, face: str, strategy: str) -> None:
    item, who = RateLimitItemPerMinute(ALLOWED), uuid.uuid4().hex
    async with async_limiters_of(urls_of_faces(cluster)[face], strategy) as limiters:
        for limiter in limiters:
            assert await limiter.test(item, who) is True, "it also meets its cluster before the crowd comes"
        admitted = await asyncio.gather(*(limiters[number % len(limiters)].hit(item, who) for number in range(TRIES)))
        assert admitted.count(True) == ALLOWED
        assert await limiters[0].test(item, who) is False
        assert (await limiters[-1].get_window_stats(item, who)).remaining == 0
        await limiters[0].clear(item, who)
        assert await limiters[-1].hit(item, who) is True
