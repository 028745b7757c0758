"""Sessions on every kind of store, while the one that serves them is killed: one suite, and what each may lose."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from session_visitors import Handler, Visitor, app_of, key_of, putting, show, signing_in, who

from noctule.kits.session_users import UserSessions
from noctule.kits.sessions import Session, Sessions
from noctule.kits.store import connect

if TYPE_CHECKING:
    from engines import RedisServer
    from redis_modes import RedisMode
    from witness_cluster import WitnessCluster

pytest_plugins = ("engines", "redis_modes", "witness_cluster")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.engine("redis-server"),
    pytest.mark.usefixtures("clients_leave_connections"),
]

DATABASE = 3
FAILOVER_S_MAX = 30.0
VISITORS = 6


@dataclass
class Place:
    """A store that can be hurt."""

    url: str
    kill: Callable[[str], None]
    """The process that serves a key."""
    keeps: bool
    """What was acknowledged is there afterwards, whatever was killed."""
    instances: list[Sessions] = field(default_factory=list)

    def instance(self, number: int, handler: Handler) -> Sessions:
        return app_of(handler, store=self._clients[number % len(self._clients)], patience_s=1.0)

    def __post_init__(self) -> None:
        self._clients = [connect(self.url, answer_timeout_s=1.0) for _ in range(3)]

    @property
    def users(self) -> UserSessions:
        return UserSessions(self._clients[0], patience_s=FAILOVER_S_MAX)

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()


@pytest.fixture(params=["redis", "redis_cluster", "sentinel", "noctule"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """Each kind of store in turn."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")

        def start_again(_: str) -> None:
            server.kill()
            server.start()

        found = Place(server.url, start_again, keeps=False)
    elif request.param == "noctule":
        cluster: WitnessCluster = request.getfixturevalue("cluster")
        hosts = ",".join(f"127.0.0.1:{port}" for port in cluster.ports.values())
        found = Place(f"redis://{hosts}/{DATABASE}", lambda _: cluster.kill(cluster.leader(DATABASE)), keeps=True)
    else:
        mode: RedisMode = request.getfixturevalue(f"{request.param}_mode")
        found = Place(mode.url, mode.kill_master_of, keeps=False)
    yield found
    await found.aclose()


async def count(session: Session) -> object:
    return session.add("n")


async def log_out(session: Session) -> object:
    session.destroy()
    return None


async def sessions_do_what_they_promise(place: Place) -> None:
    """Without any fault, on three instances."""
    visitor = Visitor()
    await visitor.visit(place.instance(0, putting(a=0, n=0)))
    changes: list[Handler] = [putting(a=1), putting(b=2), *[count] * 10]
    visits = [Visitor(visitor.cookie).visit(place.instance(n, change)) for n, change in enumerate(changes)]
    assert {answer.status for answer in await asyncio.gather(*visits)} == {200}
    assert (await visitor.visit(place.instance(1, show))).json() == {"a": 1, "b": 2, "n": 10}
    before = Visitor(visitor.cookie)
    await visitor.visit(place.instance(2, signing_in("ada")))
    assert (await before.visit(place.instance(0, show))).json() == {}
    second = Visitor()
    await second.visit(place.instance(1, signing_in("ada")))
    devices = await place.users.devices("ada")
    assert len(devices) == 2
    assert await place.users.end("ada", devices[0].id)
    assert await place.users.end_all("ada") == 1
    for each in (visitor, second):
        assert (await each.visit(place.instance(2, who))).json() is None


@dataclass
class Tally:
    """What one visitor was told."""

    visitor: Visitor = field(default_factory=Visitor)
    done: int = 0
    unknown: int = 0


async def keep_counting(place: Place, tally: Tally, until: asyncio.Event) -> None:
    number = 0
    while not until.is_set():
        number += 1
        answer = await tally.visitor.visit(place.instance(number, count))
        tally.done += answer.status == 200
        tally.unknown += answer.status != 200


async def test_sessions_survive_the_death_of_what_serves_them(place: Place) -> None:
    await sessions_do_what_they_promise(place)
    tallies = [Tally() for _ in range(VISITORS)]
    gone = Visitor()
    await gone.visit(place.instance(0, putting(secret=1)))
    stolen = Visitor(gone.cookie)
    await gone.visit(place.instance(0, log_out))
    for tally in tallies:
        await tally.visitor.visit(place.instance(0, putting(n=0)))
    cookies = [tally.visitor.cookie for tally in tallies]
    await asyncio.sleep(0.3)  # Replicas of Redis are told afterwards; what they know of must not be lost.
    until = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(keep_counting(place, tally, until)) for tally in tallies]
        await until_all(lambda: min(tally.done for tally in tallies) >= 5, tasks)
        begun = [tally.done for tally in tallies]
        await asyncio.to_thread(place.kill, key_of(tallies[0].visitor.cookie))
        await until_all(
            lambda: all(tally.done > before + 20 for tally, before in zip(tallies, begun, strict=True)), tasks
        )
        until.set()
    assert (await stolen.visit(place.instance(1, show))).json() == {}, "who logged out stays logged out"
    for tally, cookie in zip(tallies, cookies, strict=True):
        held = (await tally.visitor.visit(place.instance(2, show))).json()["n"]
        assert held <= tally.done + tally.unknown, "nothing is counted twice"
        if place.keeps:
            assert tally.visitor.cookie == cookie, "the session is the same"
            assert held >= tally.done, "what was acknowledged is there"


async def until_all(condition: Callable[[], bool], tasks: list[asyncio.Task[None]]) -> None:
    end = time.monotonic() + FAILOVER_S_MAX
    while not condition():
        for task in tasks:
            if task.done():
                task.result()
        if time.monotonic() > end:
            pytest.fail(f"it did not go on within {FAILOVER_S_MAX:g} s")
        await asyncio.sleep(0.02)
