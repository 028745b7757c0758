"""One connection's commands take effect in the order sent: a read sees every write before it and none after it."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.consistency import ConsistencyLevel
from noctule.base.ids import GroupId
from noctule.core.keyspace.failures import CROSS_SLOT
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import NULL_ARRAY, OK, Failure, Reply
from noctule.core.keyspace.transactions import EXEC, FINGERPRINT, Watched, transaction
from noctule.core.placement.slots import key_slot
from noctule.core.replica.client_sessions import ClientSessions, Verdict
from noctule.node import router as router_module
from noctule.node.api import Dialogue
from noctule.node.conversation import Conversation
from noctule.node.lanes import RETRY_DELAY_S
from noctule.node.router import ANSWER_TIMEOUT_S

from .fake_dispatch import DEADLINE_S, SLOT_TABLE, Asked, FakeDispatch, Sink, Written, group_of

NOW_MS = 1_000


@pytest.fixture
def node() -> FakeDispatch:
    return FakeDispatch()


def say(
    connection: Dialogue, *lines: bytes, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
) -> list[Sink]:
    sinks = []
    for line in lines:
        sinks.append(Sink())
        name, *keys = line.split()
        if name == b"TOGETHER":
            connection.submit_own(together(keys), sinks[-1], consistency)
        else:
            connection.submit([name, *keys], sinks[-1], consistency)
    return sinks


def together(keys: list[bytes], watched: list[Watched] | None = None) -> list[bytes]:
    """A transaction that changes each of these keys."""
    return transaction(watched or [], [[b"APPEND", key, b"x"] for key in keys], keys, is_write=True)


def test_a_read_behind_an_unanswered_write_goes_through_the_log_behind_it(node: FakeDispatch) -> None:
    """Asked as a query it could overtake the write and miss it."""
    say(node.router.conversation(), b"SET a 1", b"GET a")
    writes, queries = node.turn()
    assert ([each.lines for each in writes], queries) == ([[b"SET a 1", b"GET a"]], [])


def test_a_read_after_an_answered_write_is_a_query_again(node: FakeDispatch) -> None:
    connection = node.router.conversation()
    say(connection, b"SET a 1")
    (write,), _ = node.turn()
    node.answer(write, OK)
    say(connection, b"GET a")
    assert [each.lines for each in node.turn()[1]] == [[b"GET a"]]


def test_a_write_behind_an_unanswered_read_waits_and_what_follows_waits_with_it(node: FakeDispatch) -> None:
    """The query may reach the leader after the write, and would see what was sent after it."""
    sinks = say(node.router.conversation(), b"GET a", b"GET b", b"SET a 1", b"GET a", b"SET b 1")
    writes, (first, second) = node.turn()
    assert writes == []
    node.answer(first, None)
    assert node.turn() == ([], [])  # One of the two reads is still on its way.
    node.answer(second, None)
    writes, queries = node.turn()
    assert ([each.lines for each in writes], queries) == ([[b"SET a 1", b"GET a"], [b"SET b 1"]], [])
    node.answer(writes[1], OK)
    node.answer(writes[0], OK, b"1")
    assert [sink.replies for sink in sinks] == [[None], [None], [OK], [b"1"], [OK]]


def test_connections_do_not_wait_for_each_other(node: FakeDispatch) -> None:
    one, other = node.router.conversation(), node.router.conversation()
    say(one, b"GET a", b"SET a 1")
    say(other, b"SET a 2")
    assert [each.lines for each in node.turn()[0]] == [[b"SET a 2"]]


def test_an_eventual_read_waits_for_this_connection_s_own_writes(node: FakeDispatch) -> None:
    """A client that allows old data still expects its own writes."""
    connection = node.router.conversation()
    node.local = {b"GET a": b"old"}
    (before,) = say(connection, b"GET a", consistency=ConsistencyLevel.EVENTUAL)
    say(connection, b"SET a 1")
    (after,) = say(connection, b"GET a", consistency=ConsistencyLevel.EVENTUAL)
    assert (before.replies, after.replies) == ([b"old"], [])
    assert [each.lines for each in node.turn()[0]] == [[b"SET a 1", b"GET a"]]


def test_what_cannot_run_holds_nobody_up(node: FakeDispatch) -> None:
    """A failure that was not counted as finished kept every later write of the connection waiting."""
    connection = node.router.conversation()
    sinks = say(connection, b"NOSUCH", b"RENAME a b", b"PING", b"GET", b"GET a", b"PING", b"RENAME a b")
    assert [type(sink.replies[0]) for sink in sinks[:4]] == [Failure] * 4
    (query,) = node.turn()[1]
    assert sinks[6].replies == []  # A write: behind the read.
    node.answer(query, None)
    assert [type(sink.replies[0]) for sink in sinks[5:]] == [Failure] * 2
    say(connection, b"GET a")
    assert [each.lines for each in node.turn()[1]] == [[b"GET a"]]


def test_what_is_given_up_lets_go_of_what_waits_behind_it(node: FakeDispatch) -> None:
    sinks = say(node.router.conversation(), b"GET a", b"SET a 1")
    node.turn()
    (write,), _ = node.after(DEADLINE_S + 0.01)
    assert [len(sink.replies) for sink in sinks] == [1, 0]
    node.answer(write, OK)
    assert sinks[1].replies == [OK]


def transact(connection: Conversation, keys: list[bytes], watched: list[Watched] | None = None) -> Sink:
    sink = Sink()
    connection.submit_own(together(keys, watched), sink)
    return sink


def test_a_transaction_is_in_order_with_what_its_connection_sent(node: FakeDispatch) -> None:
    connection = node.router.conversation()
    say(connection, b"SET {t}a 1")
    transact(connection, [b"{t}a", b"{t}b"])
    say(connection, b"GET {t}a")
    ((batch,), queries) = node.turn()
    assert [line.split()[0] for line in batch.lines] == [b"SET", EXEC, b"GET"]
    assert queries == []


def test_what_a_watch_asks_is_read_behind_the_writes_before_it(node: FakeDispatch) -> None:
    connection = node.router.conversation()
    say(connection, b"SET a 1")
    connection.submit_own([FINGERPRINT, b"a", b"token"], Sink())
    ((batch,), queries) = node.turn()
    assert [line.split()[0] for line in batch.lines] == [b"SET", FINGERPRINT]
    assert queries == []


def test_a_transaction_on_several_partitions_is_refused_and_on_several_slots_of_one_it_is_not() -> None:
    node = FakeDispatch()
    by_group: dict[int, list[bytes]] = {}
    for key in (b"k%d" % number for number in range(8)):
        by_group.setdefault(SLOT_TABLE[key_slot(key)], []).append(key)
    (first, second, *_), (other, *_) = sorted(by_group.values(), key=len, reverse=True)[:2]
    assert transact(node.router.conversation(), [first, other]).replies == [CROSS_SLOT]
    assert transact(node.router.conversation(), [first], [Watched(other, b"")]).replies == [CROSS_SLOT]
    transact(node.router.conversation(), [first, second])
    assert len(node.turn()[0]) == 1


def test_a_client_cannot_send_what_a_server_makes(node: FakeDispatch) -> None:
    (sink,) = say(node.router.conversation(), b"NOCTULE.EXEC x a")
    assert isinstance(sink.replies[0], Failure)


# Any order of messages ------------------------------------------------------------------------------------------------


class Leaders:
    """All partitions' leaders with real sessions and keyspaces, behind a network that a script rules."""

    def __init__(self, node: FakeDispatch) -> None:
        self.node = node
        node.opens_sessions = False  # The sessions here are real.
        self.requests: list[Written | Asked] = []
        self.answers: list[tuple[Written | Asked, list[Reply]]] = []
        self._sessions: dict[GroupId, ClientSessions] = {}
        self._keyspaces: dict[GroupId, Keyspace] = {}

    def collect(self, sent: tuple[list[Written], list[Asked]]) -> None:
        self.requests += [*sent[0], *sent[1]]

    def step(self, number: int, what: str) -> None:
        """One thing happens to one of the requests or answers that are on their way."""
        if what == "time passes":
            self.collect(self.node.after(RETRY_DELAY_S if number % 2 else ANSWER_TIMEOUT_S + 0.01))
        elif what == "answer arrives" and self.answers:
            request, results = self.answers.pop(number % len(self.answers))
            self.node.answer(request, *results)
        elif what == "answer is lost" and self.answers:
            self.answers.pop(number % len(self.answers))
        elif what == "request is doubled" and self.requests:
            self.requests.append(self.requests[number % len(self.requests)])
        elif what == "request is lost" and self.requests:
            self.requests.pop(number % len(self.requests))
        elif what == "request is refused" and self.requests:
            self.node.refuse(self.requests.pop(number % len(self.requests)))
        elif what == "request arrives" and self.requests:
            self._execute(self.requests.pop(number % len(self.requests)))
        self.collect(self.node.turn())

    def _execute(self, request: Written | Asked) -> None:
        keyspace = self._keyspaces.setdefault(request.group, Keyspace())
        if isinstance(request, Asked):
            results = [keyspace.execute(line.split(), NOW_MS) for line in request.lines]
            self.answers.append((request, results))
            return
        sessions = self._sessions.setdefault(request.group, ClientSessions())
        applied = sessions.apply(request.batch, NOW_MS, lambda command: keyspace.execute(command, NOW_MS))
        if isinstance(applied, Verdict):
            self.node.refuse(request)
        else:
            self.answers.append((request, applied))

    def settle(self) -> None:
        """From now on everything arrives, the newest first but every third time: nothing is held back for ever."""
        for number in range(2_000):
            if not self.requests and not self.answers and not self.node.router.waiting:
                return
            self.step(-1 if number % 3 else 0, "answer arrives" if self.answers else "request arrives")
            if number % 10 == 0:
                self.step(number // 10, "time passes")
        raise AssertionError("something is never answered")


EVENTS = (
    "answer arrives",
    "answer arrives",
    "request arrives",
    "request arrives",
    "request is doubled",
    "request is lost",
    "request is refused",
    "answer is lost",
    "time passes",
)
KEYS = (b"a", b"b", b"{a}x")
"""Two of one partition, one of another."""


@st.composite
def lines(draw: st.DrawFn, connection: int) -> bytes:
    """One command of a connection, on keys of its own in partitions of all."""
    suffix = b"%d" % connection
    key, other = (
        key + suffix if b"{" in key else b"{" + key + b"}" + suffix for key in draw(st.permutations(KEYS))[:2]
    )
    value = b"%d" % draw(st.integers(0, 99))
    return draw(
        st.sampled_from(
            [
                b"SET %b %b" % (key, value),
                b"GET %b" % key,
                b"APPEND %b %b" % (key, value),
                b"MSET %b %b %b %b" % (key, value, other, value),
                b"MGET %b %b" % (key, other),
                b"DEL %b %b" % (key, other),
                b"TOGETHER %b %b.2 %b.3" % (key, key, key),
            ]
        )
    )


SCRIPTS = st.lists(
    st.one_of(
        st.integers(0, 1).flatmap(lambda connection: st.tuples(st.just(connection), lines(connection))),
        st.tuples(st.integers(0, 20), st.sampled_from(EVENTS)),
    ),
    max_size=60,
)


def expected(program: list[bytes]) -> Iterator[Reply]:
    """What one server alone would answer to one connection."""
    alone = Keyspace()
    for line in program:
        name, *keys = line.split()
        yield alone.execute(together(keys) if name == b"TOGETHER" else [name, *keys], NOW_MS)


@given(SCRIPTS, st.sampled_from([1, router_module.BATCH_BYTES_TARGET]))
def test_whatever_happens_on_the_way_each_connection_sees_its_commands_in_order(
    script: list[tuple[int, bytes | str]], batch_bytes_target: int
) -> None:
    """Lost, doubled, refused and reordered requests and answers: replies are those of a server with one client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(router_module, "BATCH_BYTES_TARGET", batch_bytes_target)  # The small one: a batch each.
        programs, sinks, node = played(script)
    for program, delivered in zip(programs, sinks, strict=True):
        assert [sink.replies for sink in delivered] == [[reply] for reply in expected(program)]
    assert node.router.waiting == 0


def played(script: list[tuple[int, bytes | str]]) -> tuple[list[list[bytes]], list[list[Sink]], FakeDispatch]:
    """What two connections said, and what they were told, once a script is over and everything has arrived."""
    node = FakeDispatch(deadline_s=1e9)
    leaders = Leaders(node)
    connections = [node.router.conversation() for _ in range(2)]
    programs: list[list[bytes]] = [[], []]
    sinks: list[list[Sink]] = [[], []]
    for number, what in script:
        if isinstance(what, bytes):
            programs[number].append(what)
            sinks[number] += say(connections[number], what)
            if len(programs[number]) % 3 == 0:
                leaders.collect(node.turn())
        else:
            leaders.step(number, what)
    leaders.collect(node.turn())
    leaders.settle()
    return programs, sinks, node


# Commands that wait for a key -----------------------------------------------------------------------------------------


def looks(asked: list[Asked]) -> list[bytes]:
    return [line for query in asked for line in query.lines]


def test_a_blocking_command_waits_for_all_before_it_and_all_behind_it_for_its_reply(node: FakeDispatch) -> None:
    node.open_sessions()
    connection = node.router.conversation()
    sinks = say(connection, b"SET a 1", b"BLPOP q 0", b"GET a", b"SET a 2")
    (write,), queries = node.turn()
    assert (write.lines, queries) == ([b"SET a 1"], [])
    node.answer(write, OK)
    (look,) = node.turn()[1]
    assert look.lines == [b"NOCTULE.AWAIT q %d list" % node.node_id]
    node.answer(look, 2)
    (pop,), queries = node.turn()
    assert (pop.lines, queries) == ([b"BLPOP q 0"], [])
    assert sinks[1].replies == []
    node.answer(pop, [b"q", b"x"])
    assert sinks[1].replies == [[b"q", b"x"]]
    (query,) = node.turn()[1]
    assert query.lines == [b"GET a"]
    node.answer(query, b"1")
    (write,), _ = node.turn()
    assert write.lines == [b"SET a 2"]


def test_a_blocking_command_behind_a_read_waits_for_it(node: FakeDispatch) -> None:
    say(node.router.conversation(), b"GET a", b"BLPOP q 0")
    (query,) = node.turn()[1]
    assert query.lines == [b"GET a"]
    node.answer(query, None)
    assert looks(node.turn()[1]) == [b"NOCTULE.AWAIT q %d list" % node.node_id]


def test_the_deadline_of_other_commands_is_not_that_of_waiting(node: FakeDispatch) -> None:
    (sink,) = say(node.router.conversation(), b"BLPOP q 0")
    (look,) = node.turn()[1]
    node.answer(look, 0)
    for _ in range(20):
        for query in node.after(DEADLINE_S / 4)[1]:
            node.answer(query, 0)
    assert sink.replies == []


def test_keys_of_several_partitions_are_looked_at_where_they_are(node: FakeDispatch) -> None:
    node.open_sessions()
    (sink,) = say(node.router.conversation(), b"BLPOP a b 0")
    asked = node.turn()[1]
    assert {query.group for query in asked} == {group_of(b"a"), group_of(b"b")}
    for query in asked:
        node.answer(query, 0 if query.group == group_of(b"a") else 1)
    (pop,) = node.turn()[0]
    assert (pop.group, pop.lines) == (group_of(b"b"), [b"BLPOP b 0"])
    node.answer(pop, [b"b", b"x"])
    assert sink.replies == [[b"b", b"x"]]


def test_source_and_destination_in_two_partitions_cross(node: FakeDispatch) -> None:
    sinks = say(node.router.conversation(), b"BLMOVE a b LEFT LEFT 0", b"BRPOPLPUSH a b 0", b"BLPOP q x", b"BLPOP q")
    assert [reply.text.split()[0] for sink in sinks for reply in sink.replies if isinstance(reply, Failure)] == [
        b"CROSSSLOT",
        b"CROSSSLOT",
        b"ERR",
        b"ERR",
    ]


def test_another_leader_is_looked_at_at_once(node: FakeDispatch) -> None:
    say(node.router.conversation(), b"BLPOP a 0")
    (look,) = node.turn()[1]
    node.answer(look, 0)
    node.lead(group_of(b"a"), 2, 7)
    node.router.leader_changed(group_of(b"a"))
    (look,) = node.after(0.01)[1]
    assert (look.to, look.lines) == (2, [b"NOCTULE.AWAIT a %d list" % node.node_id])


def test_without_a_connection_nothing_waits(node: FakeDispatch) -> None:
    node.open_sessions()
    node.submit(b"BLPOP a 0")
    (write,), queries = node.turn()
    assert (write.lines, queries) == ([b"BLPOP a 0"], [])


def test_who_leaves_takes_nothing_and_does_nothing_more(node: FakeDispatch) -> None:
    connection = node.router.conversation()
    sinks = say(connection, b"BLPOP q 0", b"DEL q")
    (look,) = node.turn()[1]
    node.answer(look, 1)
    connection.leave()
    assert node.turn() == ([], [])
    assert [sink.replies for sink in sinks] == [[NULL_ARRAY], []]
    assert node.router.waiting == node.router.waiting_room.waiting == 0


def test_who_hangs_up_takes_what_is_there_and_does_not_wait(node: FakeDispatch) -> None:
    node.open_sessions()
    for found, replies in ((1, [[b"q", b"x"]]), (0, [NULL_ARRAY])):
        connection = node.router.conversation()
        (sink,) = say(connection, b"BLPOP q 0")
        (look,) = node.turn()[1]
        assert not connection.hang_up()
        node.answer(look, found)
        for pop in node.turn()[0]:
            node.answer(pop, [b"q", b"x"])
        assert sink.replies == replies
    connection = node.router.conversation()
    (sink,) = say(connection, b"BLPOP q 0")
    node.answer(node.turn()[1][0], 0)
    assert connection.hang_up()
    assert sink.replies == [NULL_ARRAY]


def test_a_node_that_stops_answers_those_who_wait(node: FakeDispatch) -> None:
    connection = node.router.conversation()
    sinks = say(connection, b"BLPOP q 0", b"BLPOP r 0")
    node.answer(node.turn()[1][0], 0)
    connection.end_waits(Failure(b"UNBLOCKED"))
    assert [sink.replies for sink in sinks] == [[Failure(b"UNBLOCKED")]] * 2
    (sink,) = say(node.router.conversation(), b"BLPOP q 0")
    node.router.stop("the disk failed")
    (reply,) = sink.replies
    assert isinstance(reply, Failure)
    assert reply.text.startswith(b"CLUSTERDOWN this node has stopped")


def test_thousands_behind_a_blocked_command_go_on_without_recursion(node: FakeDispatch) -> None:
    connection = node.router.conversation()
    sinks = say(connection, b"BLPOP q 0", *[b"GET a"] * 5_000)
    node.answer(node.turn()[1][0], 0)
    node.router.stop("the disk failed")
    assert all(len(sink.replies) == 1 for sink in sinks)
