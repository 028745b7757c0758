"""What sessions, limits and the cache cost a request: the difference from a bare app, beside starsessions and limits.

Requests are calls of the app in this process, one after the other, against a real redis-server on a socket file; so a
figure is what the middleware and its round trips take, and no web server is in it. Every way is measured in each round,
by turns.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import limits
import limits.aio
import msgspec
from breaker import redis_url
from machine import Machine, describe, look_at_machine
from redis.asyncio import Redis
from script import add_json_option, positive_count, run_script, write_json
from starsessions import SessionAutoloadMiddleware, SessionMiddleware
from starsessions.stores.redis import RedisStore
from subjects import bench_folder

from noctule.base.errors import UnavailableError
from noctule.cli import output
from noctule.core.limits.policy import Policy
from noctule.kits.asgi import App, Message, Receive, Scope, Send
from noctule.kits.cache import Cache
from noctule.kits.limit_leases import Leases
from noctule.kits.limiter import Limiter
from noctule.kits.ratelimit import RateLimits, Rule
from noctule.kits.sealed_sessions import SealedSessions
from noctule.kits.session_seal import KeyRing
from noctule.kits.sessions import Sessions
from noctule.kits.store import connect

BARE = "bare app"
LIMIT = 1_000_000
"""Never reached: a refusal would be cheaper than a request."""
WINDOW_S = 60
PAGES = 1_000
PAGE_REQUESTS = 20_000
"""To three instances, for pages by Zipf's law: the n-th is asked for 1/n as often as the first."""
HEARS_S_MAX = 5.0
TITLES = ("a request to", "µs", "more than the bare app")


class Options(msgspec.Struct, frozen=True):
    """What was asked for."""

    requests: int
    rounds: int


class Row(msgspec.Struct, frozen=True):
    """One way of serving."""

    name: str
    microseconds: float
    """Of one request: the median of the rounds."""
    added_microseconds: float
    """To those of the bare app: the median of the rounds' differences."""
    rounds: list[float]


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
    rows: list[Row]
    hit_rate: float
    """Of the caches of three instances together, each of whose pages was there for none of them."""


Request = Callable[[], Awaitable[None]]


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Time requests with sessions and rate limits beside bare ones.")
    parser.add_argument("--requests", type=positive_count, default=3_000, help="in each round (default 3000)")
    parser.add_argument("--rounds", type=positive_count, default=7, help="of each way (default 7)")
    add_json_option(parser)
    arguments = parser.parse_args()
    options = Options(arguments.requests, arguments.rounds)
    with bench_folder() as folder:
        machine = look_at_machine(folder)
    output.say(describe(machine))
    with redis_url() as url:
        if url is None:
            raise UnavailableError("there is no redis-server on this machine (scripts/install-engines installs it)")
        report = Report(machine, options, asyncio.run(measure(url, options)), asyncio.run(hit_rate(url)))
    print(f"{TITLES[0]:<48} {TITLES[1]:>8} {TITLES[2]:>24}")
    for row in report.rows:
        print("{:<48} {:>8} {:>24}".format(*cells(row)))
    print(f"pages by Zipf's law, three instances: {report.hit_rate:.1%} of {PAGE_REQUESTS:,} were in the cache")
    if arguments.json is not None:
        write_json(arguments.json, report)
    return 0


def cells(row: Row) -> tuple[str, str, str]:
    """A row of the table."""
    return row.name, f"{row.microseconds:.0f}", f"{row.added_microseconds:.0f}"


async def measure(url: str, options: Options) -> list[Row]:
    """All ways in each round, so that a busy moment meets all of them."""
    client = connect(url)
    held, shared = Cache[int](client), Cache[int](client, items_max=0)
    try:
        await hearing(held)
        ways = {**await ways_of(client, url), **cached_ways(held, shared)}
        for request in ways.values():
            await seconds_of(request, 100)  # Connections, scripts and caches are there.
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(1, options.rounds + 1):
            for name, request in ways.items():
                times[name].append(await seconds_of(request, options.requests) / options.requests * 1e6)
            output.say(f"round {number} of {options.rounds}")
    finally:
        for cache in (held, shared):
            await cache.aclose()
        await client.aclose()
    bare = times[BARE]
    return [
        Row(name, statistics.median(each), statistics.median(a - b for a, b in zip(each, bare, strict=True)), each)
        for name, each in times.items()
    ]


async def hearing(*caches: Cache[int]) -> None:
    """Return once they hear of each other's deletes, for they hold nothing before."""
    async with asyncio.timeout(HEARS_S_MAX):
        for cache in caches:
            cache.start()
            while not cache.describe().is_hearing:
                await asyncio.sleep(0.005)


async def hit_rate(url: str) -> float:
    """The share of requests that needed no load."""
    chance = random.Random(1)
    pages = chance.choices(range(PAGES), [1 / rank for rank in range(1, PAGES + 1)], k=PAGE_REQUESTS)
    caches = [Cache[int](url, prefix="zipf:") for _ in range(3)]
    try:
        await hearing(*caches)
        for number, page in enumerate(pages):
            await caches[number % 3].get(f"page-{page}", loaded)
        return 1 - sum(cache.describe().loads for cache in caches) / PAGE_REQUESTS
    finally:
        for cache in caches:
            await cache.aclose()


async def loaded() -> int:
    """What a database would have to be asked for."""
    return 1


def cached_ways(held: Cache[int], shared: Cache[int]) -> dict[str, Request]:
    """An app that answers from a cache: from the instance's memory, and from the store."""

    def from_cache(cache: Cache[int]) -> App:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await cache.get("page", loaded)
            await bare(scope, receive, send)

        return app

    return {
        "Cache, a value held in memory": request_to(from_cache(held)),
        "Cache, a value in the store": request_to(from_cache(shared)),
    }


async def seconds_of(request: Request, count: int) -> float:
    """For so many requests."""
    begun = time.perf_counter()
    for _ in range(count):
        await request()
    return time.perf_counter() - begun


async def ways_of(client: Redis, url: str) -> dict[str, Request]:
    """Everything that is compared, by name."""
    policy = Policy(name="bench", limit=LIMIT, window_s=WINDOW_S)
    limiter = Limiter(client)
    storage = limits.storage.storage_from_string(f"async+redis+{url}", implementation="redispy")
    # The same algorithm as ours.
    strategy = limits.aio.strategies.SlidingWindowCounterRateLimiter(cast("Any", storage))
    item = limits.RateLimitItemPerMinute(LIMIT)
    leases = Leases(limiter, size=100)
    starlette: dict[str, App] = {
        name: cast("App", SessionMiddleware(SessionAutoloadMiddleware(app), store=RedisStore(connection=client)))
        for name, app in (("read", reads), ("write", writes), ("first", signs_in))
    }
    sealed: dict[str, Any] = {"keys": KeyRing({"a": b"k" * 32}, "a"), "users": None}

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if await strategy.hit(item, "127.0.0.1"):
            await bare(scope, receive, send)

    async def leased(scope: Scope, receive: Receive, send: Send) -> None:
        if await leases.hit(policy, "ip:127.0.0.1"):
            await bare(scope, receive, send)

    def ours(app: App) -> App:
        return Sessions(app, store=client)

    def in_cookie(app: App) -> App:
        return SealedSessions(app, **sealed)

    visitor = await cookie_of(ours(writes))
    user = await cookie_of(ours(signs_in))
    guest = await cookie_of(starlette["first"])
    holder = await cookie_of(in_cookie(writes))
    return {
        BARE: request_to(bare),
        "Sessions, without a cookie": request_to(ours(reads)),
        "Sessions, which it reads": request_to(ours(reads), visitor),
        "Sessions, which it reads, signed in": request_to(ours(reads), user),
        "Sessions, which it changes": request_to(ours(writes), visitor),
        "SealedSessions, which it reads": request_to(in_cookie(reads), holder),
        "SealedSessions, which it changes": request_to(in_cookie(writes), holder),
        "starsessions, which it reads": request_to(starlette["read"], guest),
        "starsessions, which it changes": request_to(starlette["write"], guest),
        "RateLimits": request_to(RateLimits(bare, rules=[Rule(policy, by=("ip",))], limiter=limiter)),
        "Leases of 100": request_to(leased),
        "limits, sliding window": request_to(limited),
    }


def request_to(app: App, *headers: tuple[bytes, bytes]) -> Request:
    """One request with these headers."""

    async def request() -> None:
        await app(scope_with(headers), nothing_comes, nobody_listens)

    return request


def scope_with(headers: tuple[tuple[bytes, bytes], ...]) -> Scope:
    """As a web server makes it."""
    return {
        "type": "http",
        "method": "GET",
        "scheme": "https",
        "path": "/",
        "query_string": b"",
        "headers": [(b"host", b"example.org"), *headers],
        "client": ("127.0.0.1", 4711),
    }


async def cookie_of(app: App) -> tuple[bytes, bytes]:
    """The header of a visitor who has been here."""
    found: list[bytes] = []

    async def send(message: Message) -> None:
        found.extend(value for name, value in message.get("headers", ()) if name.lower() == b"set-cookie")

    await app(scope_with(()), nothing_comes, send)
    return b"cookie", found[0].partition(b";")[0]


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """The app that does nothing."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def reads(scope: Scope, receive: Receive, send: Send) -> None:
    """Looks into the session."""
    scope["session"].get("visits")
    await bare(scope, receive, send)


async def writes(scope: Scope, receive: Receive, send: Send) -> None:
    """Counts in the session."""
    scope["session"]["visits"] = scope["session"].get("visits", 0) + 1
    await bare(scope, receive, send)


async def signs_in(scope: Scope, receive: Receive, send: Send) -> None:
    """Begins a session, of a user where there is such a thing."""
    session = scope["session"]
    if hasattr(session, "sign_in"):
        session.sign_in("ada")
    session["visits"] = 1
    await bare(scope, receive, send)


async def nothing_comes() -> Message:
    """These requests have no body."""
    return {"type": "http.request", "body": b""}


async def nobody_listens(_: Message) -> None:
    """Where the responses go."""


if __name__ == "__main__":
    run_script(main)
