"""Noctule against the real redis-server, as a state machine: the same random commands, byte for byte the same replies.

There is one machine for each family of commands and each protocol, with a rule for each usage in redis_grammar.py; so
Hypothesis tries runs that know some of the commands only, and shrinks what fails to the fewest. Commands that Noctule
does not have yet make no rule. What differs on purpose stands in the table of deviations, and a test proves each.

REDIS_MACHINE_EXAMPLES=1000 makes it long, with new chance in every run; otherwise it is the same run each time.
"""

import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from redis_grammar import FAMILIES, Args, command, usages
from redis_replies import BY_CHANCE, Transcript, Tree, read_reply, same
from resp_served import Served, serving
from resp_served import command as spelt

from noctule.core.keyspace.commands import COMMANDS
from noctule.core.keyspace.compatibility import DEVIATIONS, Deviation
from noctule.core.keyspace.spec import Scope
from noctule.servers.resp_parser import split_inline

pytest_plugins = ("engines",)
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

EXAMPLES = int(os.environ.get("REDIS_MACHINE_EXAMPLES", "30"))
STEPS = 40
ANSWER_S_MAX = 5.0


class Peer:
    """One connection to one of the two servers."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(ANSWER_S_MAX)

    def ask(self, args: Args) -> Tree:
        """The reply to a command."""
        self.connection.sendall(spelt(*args))
        received = b""
        while True:
            data = self.connection.recv(65_536)
            if not data:
                raise ConnectionError(f"the server closed the connection after {args}")
            received += data
            found = read_reply(received)
            if found is not None:
                assert found[1] == len(received), f"more than one reply to {args}"
                return found[0]


class Pair(RuleBasedStateMachine):
    """Both servers, empty at first."""

    connect: Callable[[], tuple[Peer, Peer]]
    protocol: int
    served: Served

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.theirs = type(self).connect()
        self.agree = True
        self.is_queuing = False
        """Whether MULTI was sent and no end of it."""
        for peer in (self.ours, self.theirs):
            peer.ask([b"HELLO", b"%d" % self.protocol])
            for emptying in ([b"FLUSHALL"], [b"SCRIPT", b"FLUSH"]):
                assert peer.ask(emptying) == (b"+", b"OK")

    def send(self, args: Args) -> None:
        """One command to both."""
        name = args[0].upper()
        ours, theirs = self.ours.ask(args), self.theirs.ask(args)
        is_same = same(name, ours, theirs)
        self.agree = is_same or is_excused(args)
        self.follow(args)
        assert self.agree, Transcript(args, ours, theirs)
        if name in BY_CHANCE or not is_same:
            # It may hold something else in each now.
            for peer in (self.ours, self.theirs):
                peer.ask([b"DEL", *args[1:2], *(COMMANDS[name].keys(args) if name in COMMANDS else ())])
            return
        is_queued = theirs == (b"+", b"QUEUED")
        if name in COMMANDS and COMMANDS[name].is_write and args[1:] and not is_queued:
            self.send([b"PEXPIRETIME", args[1]])  # What happened to a deadline shows in no reply.

    def follow(self, args: Args) -> None:
        """Know of transactions what Redis knows."""
        name = args[0].upper()
        if len(args) > 1:
            return
        if name == b"MULTI":
            self.is_queuing = True
        elif name == b"RESET" or (name in (b"EXEC", b"DISCARD") and self.is_queuing):
            self.is_queuing = False

    def teardown(self) -> None:
        """What both hold is the same, too, and ours is sound."""
        try:
            if self.agree:
                for peer in (self.ours, self.theirs):
                    peer.ask([b"DISCARD"])
                self.compare_data()
            self.served.check()
        finally:
            self.ours.connection.close()
            self.theirs.connection.close()

    def compare_data(self) -> None:
        """Every key, its type, its deadline and its value."""
        _, keys = self.theirs.ask([b"KEYS", b"*"])
        assert isinstance(keys, tuple)
        self.send([b"DBSIZE"])
        for _, key in keys:
            assert isinstance(key, bytes)
            _, kind = self.theirs.ask([b"TYPE", key])
            for before, *after in ([b"TYPE"], [b"PEXPIRETIME"], READS[kind]):
                self.send([before, key, *after])


READS = {
    b"string": [b"GET"],
    b"hash": [b"HGETALL"],
    b"list": [b"LRANGE", b"0", b"-1"],
    b"set": [b"SMEMBERS"],
    b"zset": [b"ZRANGE", b"0", b"-1", b"WITHSCORES"],
    b"stream": [b"XRANGE", b"-", b"+"],
    b"none": [b"GET"],
}
"""Type to the command that reads the whole value."""


def is_excused(args: Args) -> bool:
    """Whether a deviation that we name allows this command to be answered differently."""
    name = args[0].upper().decode("latin-1")
    return any(
        deviation.argument
        and name in deviation.commands.split()
        and any(re.fullmatch(deviation.argument.encode(), argument, re.DOTALL) for argument in args[1:])
        for deviation in DEVIATIONS
    )


def machine(family: str, connect: Callable[[], tuple[Peer, Peer]], protocol: int, served: Served) -> type[Pair] | None:
    """The machine of a family; None while its first command is not here."""
    first, *_ = every = usages(family)
    own = [usage for usage in every if name_of(usage) in COMMANDS]
    if first not in own:
        return None
    rules = {f"send_{place}": rule(args=command(usage))(sender(usage)) for place, usage in enumerate(own)}
    space = {"connect": staticmethod(connect), "protocol": protocol, "served": served}
    return type(f"{family.title().replace(' ', '')}Pair", (Pair,), rules | space)


def name_of(usage: str) -> bytes:
    return usage.split()[0].encode()


def sender(usage: str) -> Callable[[Pair, Args], None]:
    """A rule that Hypothesis shows by the name of its command."""

    def send(self: Pair, args: Args) -> None:
        self.send(args)

    send.__name__ = f"send_{name_of(usage).decode().lower()}"
    return send


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving("uvloop") as running:
        yield running


@pytest.fixture
def connect(served: Served, redis_socket: Path) -> Callable[[], tuple[Peer, Peer]]:
    def connect_both() -> tuple[Peer, Peer]:
        real = socket.socket(socket.AF_UNIX)
        real.connect(str(redis_socket))
        return Peer(served.connect()), Peer(real)

    return connect_both


@pytest.mark.timeout(30 + EXAMPLES)
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_reply_is_that_of_redis(
    served: Served, connect: Callable[[], tuple[Peer, Peer]], family: str, protocol: int
) -> None:
    found = machine(family, connect, protocol, served)
    assert found is not None, f"no command of the family is here: {family}"
    run_state_machine_as_test(
        found,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize="REDIS_MACHINE_EXAMPLES" not in os.environ,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],  # To explain, Hypothesis would trace every line, for minutes.
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("deviation", [each for each in DEVIATIONS if each.example], ids=lambda each: each.commands)
def test_a_deviation_that_is_named_can_be_seen(connect: Callable[[], tuple[Peer, Peer]], deviation: Deviation) -> None:
    """Else the page would tell of a difference that is none any more."""
    both = connect()
    for peer in both:
        peer.ask([b"FLUSHALL"])
    for line in deviation.example:
        ours, theirs = (answer(peer, split_inline(line.encode())) for peer in both)
    assert ours != theirs
    for peer in both:
        peer.connection.close()


BLOCKING = {b"BLMOVE", b"BLMPOP", b"BLPOP", b"BRPOP", b"BRPOPLPUSH", b"BZMPOP", b"BZPOPMAX", b"BZPOPMIN"}
"""They wait, for which one connection is not enough: each has tests of its own."""
ELSEWHERE = BLOCKING | {b"MEMORY", b"OBJECT", b"PUBLISH", b"SPUBLISH", b"XINFO"}


def test_every_command_of_redis_that_is_here_is_among_the_random_ones() -> None:
    random = {name_of(usage) for family in FAMILIES for usage in usages(family)}
    handled = {spec.name for spec in COMMANDS.values() if spec.handler and spec.scope is not Scope.INTERNAL}
    own = {name for name in handled if b"." in name}
    assert handled - own - ELSEWHERE <= random


def answer(peer: Peer, args: Args) -> "Tree | None":
    """The reply, or None from a server that closes instead."""
    try:
        return peer.ask(args)
    except ConnectionError:
        return None
