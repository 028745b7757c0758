"""Every interleaving of the store's operations of up to three requests on one session, through the real scripts.

The real `SessionStore` and `UserSessions` run as coroutines that wait for a turn before each operation; every order of
turns is carried out. After each operation a small model says what the session must hold and whom it lets in, and three
laws are held that need no model: an id that has once stopped opening its session never opens it again, no two ids open
it at once, and no session of a user outlives a sign-out everywhere that came after its sign-in.
"""

import hashlib
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from script_store import ScriptStore, Turn, run_alone

from noctule.core.keyspace.keyspace import Keyspace
from noctule.kits import session_store, session_users
from noctule.kits.session_cookie import new_session_id, session_digest, session_handle, session_key
from noctule.kits.session_script import OURS
from noctule.kits.session_state import Session, SessionConflictError, read_stored
from noctule.kits.session_store import SessionStore
from noctule.kits.session_users import About, UserSessions

USER = "ada"
IDLE_S = 1_800
"""Less than a tombstone stays, so that an expired session and one that was ended meet."""
SAVE, END, ENROL, RAISE = (
    script.digest.encode()
    for script in (session_store._SAVE, session_users._END, session_users._ENROL, session_users._RAISE)
)


async def once(operation: Callable[[], Awaitable[Any]], **_: object) -> Any:
    """In place of `retrying_idempotent`, which needs a loop."""
    return await operation()


@pytest.fixture(autouse=True)
def without_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_store, "retrying_idempotent", once)
    monkeypatch.setattr(session_users, "retrying_idempotent", once)
    monkeypatch.setattr(session_store, "_PAUSE_S_MAX", 0)


@dataclass
class Model:
    """What one session is, in a dozen lines of dicts."""

    born: bool = False
    dead: bool = False
    id: str = ""
    fields: dict[str, bytes] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    def save(self, arguments: list[bytes]) -> str:
        op, digest, nonce, new_digest = (word.decode() for word in arguments[:4])
        if self.dead:
            return "gone"
        if self.born and nonce in self.done:
            return "saved"
        if (op == "create") == self.born or (self.born and digest != self.id):
            return "gone"
        changes = [arguments[at : at + 4] for at in range(10, len(arguments), 4)]
        for name, kind, mark, _ in changes:
            here = self.fields.get(name.decode())
            seen = hashlib.sha1(here).hexdigest() if here is not None else ""
            if kind.startswith(b"checked") and seen != mark.decode():
                return "clash"
        for name, kind, _, value in changes:
            if kind in (b"drop", b"checked-drop"):
                self.fields.pop(name.decode(), None)
            elif kind != b"own":
                self.fields[name.decode()] = value
        self.born, self.id = True, new_digest or digest
        if changes or new_digest:
            self.done.add(nonce)
        return "saved"

    def end(self) -> None:
        self.born, self.dead, self.fields, self.done = False, True, {}, set()

    def expire(self) -> None:
        self.born, self.fields, self.done = False, {}, set()


@dataclass
class World:
    """One session, which some requests share."""

    store: ScriptStore
    model: Model
    sessions: SessionStore
    users: UserSessions
    id: str
    ids: list[str] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    raises: int = 0
    raises_at_enrolment: dict[str, int] = field(default_factory=dict)
    """Of each session: how often its user had been signed out everywhere when it last signed in."""

    def new_id(self, of: str | None = None) -> str:
        self.ids.append(new_session_id(of))
        return self.ids[-1]

    def stored(self, session_id: str) -> Any:
        """What a load that began now would give."""
        raw = self.store.do("HGETALL", session_key("session:", session_handle(session_id)))
        stored = read_stored(session_id, raw)
        if stored is None or stored.user is None:
            return stored
        return stored if run_alone(self.users.is_current(stored.user, stored.epoch)) else None

    def follow(self, words: list[bytes], reply: Any) -> None:
        """Let the model do what the store did, when it was to our session or its user."""
        if words[0] == RAISE:
            self.raises += 1
        elif words[0] == ENROL:
            self.raises_at_enrolment[words[2].decode()] = self.raises
        if words[1] != session_key("session:", session_handle(self.id)).encode():
            return
        if words[0] == SAVE:
            assert reply[0].decode() == self.model.save(words[2:]), (words, reply)
        elif words[0] == END and reply:  # Else it is another user's, or not yet this one's: its epoch keeps it shut.
            self.model.end()

    def check(self) -> None:
        """The laws, and that model and store agree."""
        ours = [each for each in self.ids if session_handle(each) == session_handle(self.id)]
        open_now = {each for each in self.ids if self.stored(each) is not None}
        assert not open_now & self.closed, "an id came back to life"
        assert len(open_now & set(ours)) <= 1, "two ids open one session"
        for each in open_now:
            if self.stored(each).user is not None:
                assert self.raises_at_enrolment[session_handle(each)] == self.raises, (
                    "it outlived a sign-out everywhere"
                )
        self.opened |= open_now
        self.closed |= self.opened - open_now
        raw = self.store.do("HGETALL", session_key("session:", session_handle(self.id)))
        names = {name.decode(): value for name, value in raw.items()}
        assert {name: value for name, value in names.items() if name not in OURS} == self.model.fields
        if open_now & set(ours):
            assert self.model.born
            assert session_digest((open_now & set(ours)).pop()) == self.model.id


def new_world(
    *, signed_in: bool = False, is_born: bool = True, repeats: bool = False, loads_at_once: bool = False
) -> World:
    store: Any = ScriptStore(Keyspace(), repeats=repeats)
    if loads_at_once:
        store.without_turn = {"hget"}
    store.learn(session_store._SAVE, *(getattr(session_users, name) for name in ("_END", "_ENROL", "_SEEN", "_RAISE")))
    options: dict[str, Any] = {"idle_s": IDLE_S, "absolute_s": 86_400, "keys": None, "patience_s": 1.0}
    users = UserSessions(store, prefix="session:", **options)
    clock: Any = StoreClock(store)
    sessions = SessionStore(store, users, prefix="session:", on_conflict="last_wins", clock=clock, **options)
    world = World(store, Model(), sessions, users, "")
    world.id = world.new_id()
    store.after = world.follow
    if is_born:
        run_alone(begin(world))
    if signed_in:
        again = Session(run_alone(sessions.load(world.id)), world.new_id)
        again.sign_in(USER)
        run_alone(sessions.save(again, About()))
        world.id = world.ids[-1]
    world.check()
    return world


class StoreClock:
    """An instance whose clock is the store's."""

    def __init__(self, store: ScriptStore) -> None:
        self._store = store

    def wall_ms(self) -> int:
        return self._store.now_ms

    def now(self) -> float:
        return self._store.now_ms / 1000


# What requests do -----------------------------------------------------------------------------------------------------

Request = Callable[[World], Coroutine[Any, Any, str]]


def request(change: Callable[[Session], object]) -> Request:
    async def run(world: World) -> str:
        session = Session(await world.sessions.load(world.id), world.new_id)
        if session._stored is None:
            return "anonymous"
        change(session)
        try:
            saved = await world.sessions.save(session, About())
        except SessionConflictError:
            return "conflict"
        return "dropped" if saved.is_dropped else "done"

    return run


async def begin(world: World) -> str:
    """The request that makes the session."""
    session = Session(None, lambda of=None: world.id)
    session["count"] = 0
    try:
        await world.sessions.save(session, About())
    except SessionConflictError:
        return "conflict"
    return "done"


async def expire(world: World) -> str:
    await Turn()
    world.store.now_ms += IDLE_S * 1000 + 1
    world.store.do("EXISTS", session_key("session:", session_handle(world.id)))
    world.model.expire()
    return "done"


async def everywhere(world: World) -> str:
    await world.users.end_all(USER)
    return "done"


save_a = request(lambda session: session.update(a=1))
save_b = request(lambda session: session.update(b=1))
count = request(lambda session: session.add("count"))
logout = request(lambda session: session.destroy())
regenerate = request(lambda session: session.regenerate())
sign_in = request(lambda session: session.sign_in(USER))
NAMES = {
    begin: "begin",
    save_a: "save_a",
    save_b: "save_b",
    count: "count",
    logout: "logout",
    regenerate: "regenerate",
    sign_in: "sign_in",
    expire: "expire",
    everywhere: "everywhere",
}


# All orders -----------------------------------------------------------------------------------------------------------


def all_runs(make: Callable[[], World], requests: tuple[Request, ...]) -> Iterator[tuple[World, list[str]]]:
    """Every order of the requests' turns, each on a new world; checked after each turn. Gives how each ended."""
    path: list[int] = []
    while True:
        world = make()
        results, choices = one_run(world, requests, path)
        yield world, results
        while choices and choices[-1][0] + 1 == choices[-1][1]:
            choices.pop()
        if not choices:
            return
        path = [taken for taken, _ in choices[:-1]] + [choices[-1][0] + 1]


def one_run(world: World, requests: tuple[Request, ...], path: list[int]) -> tuple[list[str], list[tuple[int, int]]]:
    results = [""] * len(requests)
    running = {number: each(world) for number, each in enumerate(requests)}
    for coroutine in running.values():
        coroutine.send(None)  # Up to its first operation, which it waits for.
    choices: list[tuple[int, int]] = []
    while running:
        taken = path[len(choices)] if len(choices) < len(path) else 0
        choices.append((taken, len(running)))
        number = list(running)[taken]
        try:
            running[number].send(None)
        except StopIteration as end:
            results[number] = end.value
            del running[number]
        world.check()
    return results, choices


def hold_all(requests: tuple[Request, ...], **options: bool) -> int:
    """Go through all orders and check how they end; how many there were."""
    runs = 0
    for world, results in all_runs(lambda: new_world(**options), requests):
        runs += 1
        done = [each for each, result in zip(requests, results, strict=True) if result == "done"]
        is_over = bool({logout, expire, everywhere} & set(done))
        context = ([NAMES[each] for each in requests], results)
        assert bool(world.opened - world.closed) == (not is_over or reborn(world)), context
        if not is_over:
            held = {name: int(value) for name, value in world.model.fields.items()}
            assert held["count"] == done.count(count), context
            assert held.get("a") == (1 if save_a in done else None), context
            assert held.get("b") == (1 if save_b in done else None), context
    return runs


def reborn(world: World) -> bool:
    """A sign-in after the sign-out everywhere may have made the session one of the new epoch."""
    return any(world.stored(each) is not None for each in world.ids)


ANONYMOUS = (save_a, save_b, count, logout, regenerate, expire)
EVERYTHING = (save_a, count, logout, regenerate, sign_in, expire, everywhere)


def tuples(kinds: tuple[Request, ...], size: int) -> list[tuple[Request, ...]]:
    return list(itertools.combinations_with_replacement(kinds, size))


def names_of(requests: tuple[Request, ...]) -> str:
    return "-".join(NAMES[each] for each in requests)


@pytest.mark.parametrize("requests", tuples(ANONYMOUS, 3), ids=names_of)
def test_three_requests_of_a_visitor(requests: tuple[Request, ...]) -> None:
    assert hold_all(requests, signed_in=False) >= 3


@pytest.mark.parametrize("requests", tuples(EVERYTHING, 2), ids=names_of)
@pytest.mark.parametrize("signed_in", [False, True], ids=["anonymous", "signed-in"])
def test_two_requests_with_users(requests: tuple[Request, ...], signed_in: bool) -> None:
    assert hold_all(requests, signed_in=signed_in) >= 2


@pytest.mark.parametrize(
    "requests",
    [(save_a, logout, everywhere), (save_a, sign_in, everywhere), (sign_in, logout, everywhere)],
    ids=names_of,
)
def test_three_requests_of_a_user(requests: tuple[Request, ...]) -> None:
    """The two reads of a load are one turn here, or there would be ten times as many orders; the pairs part them."""
    assert hold_all(requests, signed_in=True, loads_at_once=True) >= 100


@pytest.mark.parametrize("requests", tuples(ANONYMOUS[1:], 2), ids=names_of)
def test_every_script_is_asked_again_as_if_its_answer_was_lost(requests: tuple[Request, ...]) -> None:
    assert hold_all(requests, signed_in=False, repeats=True) >= 2


@pytest.mark.parametrize(
    "requests", [(begin, logout), (begin, logout, save_a), (begin, logout, regenerate)], ids=names_of
)
def test_a_beginning_that_arrives_late_revives_nothing(requests: tuple[Request, ...]) -> None:
    """The same message once more, after the session it made was ended."""
    assert hold_all(requests, is_born=False, repeats=True) >= 5
