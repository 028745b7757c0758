"""EVAL and SCRIPT at the door: what is sent to the store, what waits for *meta*, and Redis' words for what is wrong."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from noctule.adapters.lua_engine import LuaEngine
from noctule.base.consistency import ConsistencyLevel
from noctule.base.ids import Instant
from noctule.core.keyspace.effects import EVAL, EVAL_READ, ScriptCall
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.keyspace.scripting import NO_ENGINE, NO_SCRIPT, SCRIPT_BYTES_MAX, script_digest
from noctule.core.pubsub.subscriptions import Subscriber
from noctule.node.api import ReplySink
from noctule.node.scripts import Scripts
from noctule.servers.resp_client import Client, Door
from noctule.servers.resp_commands import HANDLERS, answer_command
from noctule.servers.resp_errands import Errand
from noctule.servers.resp_scripts import queued_script

BODY = b"return KEYS"
DIGEST = script_digest(BODY)


class Answering:
    """A store that answers at once: as *meta*, and as the door of a connection, which keeps what it was sent."""

    def __init__(self) -> None:
        self.keyspace = Keyspace()
        self.sent: list[list[bytes]] = []

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        sink.deliver(self.keyspace.execute(args, 1))

    def submit_own(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        self.sent.append(args)
        sink.deliver(b"from the store")


class ScriptDoor:
    """As much of a server as these commands ask for."""

    def __init__(self, meta: Answering) -> None:
        self.scripts: Scripts | None = Scripts(meta, LuaEngine(), lambda: Instant(0.0))


Send = Callable[..., tuple[Reply, list[list[bytes]]]]


@pytest.fixture
def meta() -> Answering:
    return Answering()


@pytest.fixture
def door(meta: Answering) -> ScriptDoor:
    return ScriptDoor(meta)


def new_client() -> Client:
    return Client(1, "", "", Instant(0.0), Subscriber(lambda _message: None))


@pytest.fixture
def client() -> Client:
    return new_client()


@pytest.fixture
def send(door: ScriptDoor, client: Client) -> Send:
    """The reply to a command, and what the store was asked for."""

    def send(*args: bytes) -> tuple[Reply, list[list[bytes]]]:
        store = Answering()
        answer: Any = answer_command(HANDLERS[args[0].upper()], cast("Door", door), client, [*args])
        if not isinstance(answer, Errand):
            return answer, []
        replies: list[Reply] = []
        answer.run(store, lambda results: replies.append(answer.finish(results)))
        (reply,) = replies
        return reply, store.sent

    return send


def test_a_script_goes_to_its_first_key_with_its_body(send: Send) -> None:
    reply, sent = send(b"EVAL", BODY, b"2", b"k", b"l", b"x")
    assert reply == b"from the store"
    assert sent == [ScriptCall(b"k", b"", BODY, [b"k", b"l"], [b"x"]).command()]
    assert send(b"eval_ro", BODY, b"0")[1][0][:2] == [EVAL_READ, b""]


def test_in_another_database_all_of_it_goes_there(send: Send, client: Client) -> None:
    client.database = 3
    assert send(b"EVAL", BODY, b"1", b"k")[1] == [ScriptCall(b"{db:3}k", b"{db:3}", BODY, [b"k"], []).command()]
    assert send(b"EVAL", BODY, b"0", b"x")[1] == [ScriptCall(b"{db:3}", b"{db:3}", BODY, [], [b"x"]).command()]


def test_a_digest_becomes_the_body_wherever_it_was_loaded(send: Send, meta: Answering) -> None:
    assert send(b"SCRIPT", b"LOAD", BODY) == (DIGEST, [])
    elsewhere = Answering()
    elsewhere.keyspace = meta.keyspace
    other = cast("Door", ScriptDoor(elsewhere))
    errand = HANDLERS[b"EVALSHA"](other, new_client(), [b"EVALSHA", DIGEST.upper(), b"1", b"k"])
    assert isinstance(errand, Errand)
    assert errand.holds, "what comes behind it must not overtake it while meta is asked"
    store = Answering()
    errand.run(store, lambda _results: None)
    assert store.sent == [ScriptCall(b"k", b"", BODY, [b"k"], []).command()]
    known = HANDLERS[b"EVALSHA"](other, new_client(), [b"EVALSHA", DIGEST, b"1", b"k"])
    assert isinstance(known, Errand)
    assert not known.holds


def test_eval_lets_its_script_be_known(send: Send) -> None:
    send(b"EVAL", BODY, b"0")
    assert send(b"EVALSHA", DIGEST, b"0")[1][0][0] == EVAL
    assert send(b"SCRIPT", b"EXISTS", DIGEST, b"x")[0] == [1, 0]
    assert send(b"SCRIPT", b"FLUSH", b"ASYNC")[0] == OK
    assert send(b"EVALSHA", DIGEST, b"0") == (NO_SCRIPT, [])


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ([b"EVAL", b"x"], b"ERR wrong number of arguments for 'eval' command"),
        ([b"EVAL", b"x", b"y"], b"ERR value is not an integer or out of range"),
        ([b"EVAL", b"x", b"-1"], b"ERR Number of keys can't be negative"),
        ([b"EVAL", b"x", b"2", b"a"], b"ERR Number of keys can't be greater than number of args"),
        ([b"EVALSHA", b"abc", b"x"], b"NOSCRIPT No matching script. Please use EVAL."),
        ([b"SCRIPT"], b"ERR wrong number of arguments for 'script' command"),
        ([b"SCRIPT", b"foo"], b"ERR unknown subcommand 'foo'. Try SCRIPT HELP."),
        ([b"SCRIPT", b"load"], b"ERR wrong number of arguments for 'script|load' command"),
        ([b"SCRIPT", b"exists"], b"ERR wrong number of arguments for 'script|exists' command"),
        ([b"SCRIPT", b"flush", b"x"], b"ERR SCRIPT FLUSH only support SYNC|ASYNC option"),
        ([b"SCRIPT", b"kill"], b"NOTBUSY No scripts in execution right now."),
    ],
)
def test_what_is_wrong_is_said_as_redis_does(send: Send, command: list[bytes], problem: bytes) -> None:
    assert send(*command) == (Failure(problem), [])


def test_a_script_that_is_too_long_is_refused_and_not_remembered(send: Send, meta: Answering) -> None:
    reply, sent = send(b"EVAL", b"x" * (SCRIPT_BYTES_MAX + 1), b"0")
    assert isinstance(reply, Failure)
    assert sent == []
    assert meta.keyspace.key_count == 0


def test_without_an_engine_there_are_no_scripts(send: Send, door: ScriptDoor) -> None:
    door.scripts = None
    for command in ([b"EVAL", BODY, b"0"], [b"EVALSHA", DIGEST, b"0"], [b"SCRIPT", b"LOAD", BODY]):
        assert send(*command) == (NO_ENGINE, [])


def test_inside_multi_a_digest_must_be_known_here(send: Send, door: ScriptDoor) -> None:
    command = [b"EVALSHA", DIGEST, b"1", b"k"]
    assert queued_script(cast("Door", door), command, 0) == NO_SCRIPT
    send(b"SCRIPT", b"LOAD", BODY)
    assert (
        queued_script(cast("Door", door), command, 2) == ScriptCall(b"{db:2}k", b"{db:2}", BODY, [b"k"], []).command()
    )
