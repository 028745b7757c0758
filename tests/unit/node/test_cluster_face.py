"""What stands between a connection and the router: redirections, and the strict refusal of several slots."""

import pytest

from noctule.base.consistency import ConsistencyLevel
from noctule.base.ids import GroupId
from noctule.core.keyspace.commands import COMMANDS
from noctule.core.keyspace.failures import CROSS_SLOT
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.keyspace.spec import CommandSpec
from noctule.core.placement.partition_map import Partition, PartitionMap
from noctule.core.placement.slots import SLOT_COUNT, key_slot
from noctule.node.api import ReplySink
from noctule.node.cluster_face import ClusterRoutes, Face, StrictRoutes
from noctule.node.conversation import Conversation
from noctule.node.slots_led import SlotsLed

HERE, THERE = b"b", b"a"
"""Keys below and above the middle of the slots; the lower half is led here."""


class Sink:
    def __init__(self) -> None:
        self.replies: list[Reply] = []

    def deliver(self, reply: Reply) -> None:
        self.replies.append(reply)


class HandRouter:
    """Answers OK at once, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[bytes]] = []
        self.runs: list[list[tuple[int, int]]] = []
        self.has_copies = False

    def route(
        self,
        spec: CommandSpec,
        args: list[bytes],
        sink: ReplySink,
        *,
        logged: bool,
        lease: bool = False,
        conversation: Conversation,
    ) -> None:
        self.asked.append(args)
        sink.deliver(OK)
        conversation.finished(logged=logged)

    def route_over(
        self,
        runs: list[tuple[int, int]],
        spec: CommandSpec,
        args: list[bytes],
        sink: ReplySink,
        *,
        logged: bool,
        lease: bool = False,
        conversation: Conversation,
    ) -> None:
        self.runs.append(runs)
        self.route(spec, args, sink, logged=logged, conversation=conversation)

    def refusal(self, _spec: CommandSpec, _args: list[bytes]) -> Failure | None:
        return None

    def read_eventually(self, spec: CommandSpec, args: list[bytes], sink: ReplySink) -> bool:
        if self.has_copies:
            sink.deliver(b"copy")
        return self.has_copies

    def read_keys(self, commands: list[list[bytes] | Failure], start: int, wall_ms: int) -> list[Reply]:
        return [b"copy"] if self.has_copies else []


class Directory:
    def redirect(self, slot: int) -> Failure:
        return Failure(b"MOVED %d 10.0.0.2:7802" % slot)


MOVED_THERE = Failure(b"MOVED %d 10.0.0.2:7802" % key_slot(THERE))


@pytest.fixture
def router() -> HandRouter:
    return HandRouter()


def answer(routes: ClusterRoutes | StrictRoutes, line: bytes, consistency: str = "linearizable") -> Reply:
    sink = Sink()
    Face(routes).conversation().submit(line.split(), sink, ConsistencyLevel(consistency))
    (reply,) = sink.replies
    return reply


def cluster_routes(router: HandRouter) -> ClusterRoutes:
    middle = SLOT_COUNT // 2
    led = SlotsLed(PartitionMap([Partition(1, 0, middle - 1, (1, 2)), Partition(2, middle, SLOT_COUNT - 1, (1, 2))]))
    led.change(GroupId(1), is_led=True)
    return ClusterRoutes(router, led, Directory())


def test_the_keys_are_what_this_file_says() -> None:
    assert key_slot(HERE) < SLOT_COUNT // 2 <= key_slot(THERE)


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"GET b", OK),
        (b"SET b 1", OK),
        (b"GET a", MOVED_THERE),
        (b"SET a 1", MOVED_THERE),
        (b"DEL a{a} a", MOVED_THERE),
        (b"MGET b{b} b", OK),
        (b"MGET a b", CROSS_SLOT),
        (b"MSET b 1 a 2", CROSS_SLOT),
        (b"RENAME a b", CROSS_SLOT),
        (b"RENAME b {b}c", OK),
        (b"BUCKET.LIST", OK),
        (b"DBSIZE", OK),
    ],
)
def test_only_what_is_led_here_reaches_the_router(router: HandRouter, line: bytes, reply: Reply) -> None:
    assert answer(cluster_routes(router), line) == reply
    assert router.asked == ([line.split()] if reply == OK else [])


def test_a_wrong_command_is_told_before_where_it_belongs(router: HandRouter) -> None:
    assert answer(cluster_routes(router), b"GET a b") == Failure(b"ERR wrong number of arguments for 'get' command")


@pytest.mark.parametrize("line", [b"DBSIZE", b"KEYS *", b"SCAN 0", b"FLUSHALL", b"FLUSHDB"])
def test_commands_on_all_keys_are_about_those_led_here(router: HandRouter, line: bytes) -> None:
    for consistency in ("linearizable", "eventual"):
        answer(cluster_routes(router), line, consistency)
    assert router.runs == [[(0, SLOT_COUNT // 2 - 1)]] * 2


def test_a_copy_answers_only_where_eventual_reads_are_asked_for(router: HandRouter) -> None:
    router.has_copies = True
    assert answer(cluster_routes(router), b"GET a") == MOVED_THERE
    assert answer(cluster_routes(router), b"GET a", "eventual") == b"copy"
    assert answer(cluster_routes(router), b"SET a 1", "eventual") == MOVED_THERE
    assert answer(cluster_routes(router), b"MGET a b", "eventual") == CROSS_SLOT
    router.has_copies = False
    assert answer(cluster_routes(router), b"GET a", "eventual") == MOVED_THERE


def test_a_refusal_does_not_hold_up_what_comes_next(router: HandRouter) -> None:
    """A conversation counts what it waits for: one that was not told of the end would hold the next write for ever."""
    conversation, sink = Face(cluster_routes(router)).conversation(), Sink()
    for line in (b"GET a", b"SET a 1", b"GET b", b"SET b 1"):
        conversation.submit(line.split(), sink)
    assert sink.replies == [MOVED_THERE, MOVED_THERE, OK, OK]


@pytest.mark.parametrize(
    ("line", "reply"),
    [(b"MGET a b", CROSS_SLOT), (b"DEL a b", CROSS_SLOT), (b"MGET a a{a}", OK), (b"GET a", OK), (b"DBSIZE", OK)],
)
def test_strict_slots_refuse_what_a_cluster_would(router: HandRouter, line: bytes, reply: Reply) -> None:
    router.has_copies = False
    assert answer(StrictRoutes(router), line) == reply
    assert answer(StrictRoutes(router), line, "eventual") == reply


def test_a_command_that_waits_is_redirected_like_any_other() -> None:
    wait = COMMANDS[b"BLPOP"]
    routes = cluster_routes(HandRouter())
    assert routes.refusal(wait, [b"BLPOP", HERE, b"0"]) is None
    assert isinstance(routes.refusal(wait, [b"BLPOP", THERE, b"0"]), Failure)
    assert routes.refusal(wait, [b"BLPOP", HERE, THERE, b"0"]) is CROSS_SLOT
