"""Who waits for a key gets what comes, once, in turn and in time, whatever is lost on the way to the replicas."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.awaited import AWAIT
from noctule.core.keyspace.commands import check_command
from noctule.core.keyspace.container import Container
from noctule.core.keyspace.failures import WRONG_TYPE
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Reply
from noctule.core.keyspace.waits import Wait
from noctule.node import waiting_room
from noctule.node.api import ReplySink
from noctule.node.lanes import Command
from noctule.node.waiters import Waiter
from noctule.node.waiting_room import FIRST_LOOK_S, LOOK_AGAIN_S, WaitingRoom

GROUP = GroupId(1)
NODE = 9
DOWN = Failure(b"CLUSTERDOWN no leader for this partition was found in time; nothing was applied")
CLOSED = Failure(b"CLUSTERDOWN this node has stopped")


class Leader:
    """The router and the one partition behind it: what leaves arrives when a test says so."""

    def __init__(self) -> None:
        self.now = Instant(100.0)
        self.keyspace = Keyspace()
        self.leaving: list[Command] = []
        """Looks and attempts that have not left."""
        self.answers: list[tuple[Command, Reply]] = []
        self.is_down = False
        self.node_id = NODE
        self.looks = self.attempts = 0
        self.room = WaitingRoom(self, lambda: self.now)

    def look(self, args: list[bytes], sink: ReplySink) -> None:
        self.looks += 1
        self.leaving.append(Command(args, sink, None, logged=False))

    def attempt(self, args: list[bytes], sink: ReplySink) -> Command:
        self.attempts += 1
        self.leaving.append(Command(args, sink, None, logged=True))
        return self.leaving[-1]

    def withdraw(self, command: Command) -> bool:
        if command not in self.leaving:
            return False
        self.leaving.remove(command)
        return True

    def problem(self, args: list[bytes]) -> Failure | None:
        return Failure(b"CROSSSLOT") if b"elsewhere" in args else None

    def group_of(self, key: bytes) -> GroupId:
        return GROUP

    # What a test does -------------------------------------------------------------------------------------------------

    def enter(self, line: bytes) -> "Client":
        """A client comes with a blocking command."""
        return Client(self, line)

    def write(self, line: bytes, *, tells: bool = True) -> Reply:
        """Somebody else writes; without `tells` the word of it is lost."""
        reply = self.keyspace.execute(line.split(), 1_000)
        self._tell(tells=tells)
        return reply

    def _tell(self, *, tells: bool = True) -> None:
        ready, self.keyspace.ready = self.keyspace.ready, []
        for node, key, kind in ready if tells else ():
            assert node == NODE
            value = self.keyspace.get(key)
            self.room.key_ready(key, kind, value.servings if isinstance(value, Container) else 0)

    def carry(self) -> None:
        """What has not left reaches the partition; the answers are on their way."""
        leaving, self.leaving = self.leaving, []
        for command in leaving:
            reply: Reply = DOWN
            if not self.is_down:
                run = self.keyspace.execute if command.logged else self.keyspace.read
                result = run(command.args, round(self.now * 1_000))
                assert not isinstance(result, type(None)) or command.logged
                reply = result  # type: ignore[assignment]
            self.answers.append((command, reply))
        self._tell()

    def deliver(self) -> None:
        answers, self.answers = self.answers, []
        for command, reply in answers:
            command.finish(reply)

    def settle(self) -> None:
        """Everything arrives."""
        while self.leaving or self.answers:
            self.carry()
            self.deliver()

    def after(self, seconds: float) -> None:
        """Time passes, and everything arrives."""
        self.now = Instant(self.now + seconds)
        self.room.tick()
        self.settle()


class Client:
    """One who waits, and what it is told."""

    def __init__(self, leader: Leader, line: bytes) -> None:
        self.replies: list[Reply] = []
        args = line.split()
        spec = check_command(args)
        assert not isinstance(spec, Failure)
        assert spec.blocking is not None
        wait = spec.blocking(args)
        assert isinstance(wait, Wait)
        self.waiter = Waiter(wait, self.replies.append)
        leader.room.enter(self.waiter)


@pytest.fixture
def leader() -> Leader:
    return Leader()


def test_what_is_there_is_taken_at_once(leader: Leader) -> None:
    leader.write(b"RPUSH q a b")
    client = leader.enter(b"BLPOP none q 0")
    leader.settle()
    assert client.replies == [[b"q", b"a"]]
    assert (leader.room.waiting, leader.attempts) == (0, 1)


def test_where_there_was_more_nobody_looks_first(leader: Leader) -> None:
    leader.write(b"RPUSH q a b c")
    for number, item in enumerate((b"a", b"b", b"c")):
        client = leader.enter(b"BLPOP q r 0")
        leader.settle()
        assert client.replies == [[b"q", item]]
        assert leader.looks == 2, number
    leader.write(b"RPUSH q d e")
    leader.enter(b"BLPOP q 0")
    leader.settle()
    leader.write(b"DEL q")
    leader.write(b"RPUSH r x")
    client = leader.enter(b"BLPOP q r 0.001")
    leader.after(0.1)
    assert client.replies == [[b"r", b"x"]], "and where there is none any more, all keys are looked at"


@pytest.mark.interpreted
def test_the_memory_of_what_was_left_is_bounded(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_room, "LEFT_MAX", 3)
    for number in range(10):
        leader.write(b"RPUSH q%d a b" % number)
        leader.enter(b"BLPOP q%d 0" % number)
        leader.settle()
    assert len(leader.room._left) == 3


def test_what_comes_later_is_taken_when_it_comes_by_one_attempt(leader: Leader) -> None:
    client = leader.enter(b"BRPOP q r 0")
    leader.settle()
    assert (client.replies, leader.attempts) == ([], 0)
    leader.write(b"RPUSH r a")
    leader.settle()
    assert client.replies == [[b"r", b"a"]]
    assert leader.attempts == 1


def test_the_first_key_in_order_wins(leader: Leader) -> None:
    leader.write(b"RPUSH b 2")
    leader.write(b"RPUSH c 3")
    client = leader.enter(b"BLPOP a b c 0")
    leader.settle()
    assert client.replies == [[b"b", b"2"]]


def test_those_who_wait_are_served_in_the_order_in_which_they_came(leader: Leader) -> None:
    clients = [leader.enter(b"BLPOP q 0") for _ in range(5)]
    leader.settle()
    for number in range(5):
        leader.write(b"RPUSH q %d" % number)
        leader.settle()
        assert [len(client.replies) for client in clients] == [1] * (number + 1) + [0] * (4 - number)
        assert clients[number].replies == [[b"q", b"%d" % number]]


def test_as_many_try_as_there_are_items(leader: Leader) -> None:
    clients = [leader.enter(b"BLPOP q 0") for _ in range(50)]
    leader.settle()
    leader.write(b"RPUSH q " + b" ".join(b"%d" % number for number in range(20)))
    leader.carry()
    leader.deliver()
    assert [client.replies for client in clients[:20]] == [[[b"q", b"%d" % number]] for number in range(20)]
    leader.settle()
    assert leader.attempts == 20, "no thundering herd"
    assert leader.room.waiting == 30


def test_items_that_come_while_others_are_taken_are_found(leader: Leader) -> None:
    """They make no list new, so nobody is told of them."""
    clients = [leader.enter(b"BLPOP q 0") for _ in range(4)]
    leader.settle()
    leader.write(b"RPUSH q a")
    leader.write(b"RPUSH q b c")
    leader.settle()
    assert sorted(len(client.replies) for client in clients) == [0, 1, 1, 1]


def test_who_was_slower_goes_on_waiting(leader: Leader) -> None:
    client = leader.enter(b"BLPOP q 0")
    leader.settle()
    leader.write(b"RPUSH q a")
    assert leader.write(b"LPOP q") == b"a"
    leader.settle()
    assert client.replies == []
    leader.write(b"RPUSH q b")
    leader.settle()
    assert client.replies == [[b"q", b"b"]]


def test_a_lost_word_costs_time_only(leader: Leader) -> None:
    client = leader.enter(b"BLPOP q 0")
    leader.settle()
    leader.write(b"RPUSH q a", tells=False)
    leader.after(LOOK_AGAIN_S / 2)
    assert client.replies == []
    leader.after(LOOK_AGAIN_S / 2)
    assert client.replies == [[b"q", b"a"]]


def test_with_another_leader_the_room_looks_at_the_next_tick(leader: Leader) -> None:
    client = leader.enter(b"BLPOP q 0")
    leader.settle()
    leader.keyspace.awaited.clear()
    leader.room.group_changed(GROUP)
    leader.write(b"RPUSH q a")
    leader.after(0.01)
    assert client.replies == [[b"q", b"a"]]


def test_an_idle_client_costs_looks_and_no_attempt(leader: Leader) -> None:
    clients = [leader.enter(b"BLPOP q 0") for _ in range(100)]
    leader.settle()
    before = leader.looks
    for _ in range(10):
        leader.after(LOOK_AGAIN_S)
    assert leader.looks - before == 10
    assert leader.attempts == 0
    assert leader.room.waiting == len(clients)


def test_a_partition_without_a_leader_is_waited_for(leader: Leader) -> None:
    leader.is_down = True
    client = leader.enter(b"BLPOP q 0")
    leader.settle()
    leader.is_down = False
    leader.write(b"RPUSH q a")
    leader.after(LOOK_AGAIN_S)
    assert client.replies == [[b"q", b"a"]]


# Time -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"BLPOP q r 1.5", b"BLMOVE q q LEFT LEFT 1.5", b"BLMPOP 1.5 2 q r LEFT"])
def test_who_waits_in_vain_is_told_in_time(leader: Leader, line: bytes) -> None:
    client = leader.enter(line)
    leader.settle()
    leader.after(1.49)
    assert client.replies == []
    leader.after(0.02)
    assert client.replies == [NULL_ARRAY]
    assert leader.room.waiting == 0


def test_however_short_the_time_what_is_there_is_taken(leader: Leader) -> None:
    leader.write(b"RPUSH q a b c")
    clients = [leader.enter(b"BLPOP none q 0.001") for _ in range(4)]
    leader.after(0.5)
    leader.after(0.01)
    assert [client.replies for client in clients] == [[[b"q", b"a"]], [[b"q", b"b"]], [[b"q", b"c"]], [NULL_ARRAY]]


def test_what_does_not_answer_holds_nobody_up_for_long(leader: Leader) -> None:
    client = leader.enter(b"BLPOP q 0.1")
    leader.now = Instant(leader.now + FIRST_LOOK_S + 0.01)
    leader.room.tick()
    assert client.replies == [NULL_ARRAY]
    leader.settle()


def test_an_attempt_that_has_not_left_is_taken_back(leader: Leader) -> None:
    client, other = leader.enter(b"BLPOP q 1"), leader.enter(b"BLPOP q 0")
    leader.settle()
    leader.write(b"RPUSH q a")
    leader.room.give_up(client.waiter, NULL_ARRAY)
    assert client.replies == [NULL_ARRAY]
    leader.settle()
    assert other.replies == [[b"q", b"a"]]


def test_an_attempt_that_has_left_is_the_answer_if_it_succeeds(leader: Leader) -> None:
    one, other = leader.enter(b"BLPOP q 0"), leader.enter(b"BLPOP q 0")
    leader.settle()
    leader.write(b"RPUSH q a b")
    leader.write(b"LPOP q")
    leader.carry()
    for client in (one, other):
        leader.room.give_up(client.waiter, Failure(b"UNBLOCKED"))
    assert one.replies == []
    leader.settle()
    assert one.replies == [[b"q", b"b"]]
    assert other.replies == [Failure(b"UNBLOCKED")]
    assert leader.room.waiting == 0


def test_timers_of_those_who_left_do_not_pile_up(leader: Leader) -> None:
    for _ in range(1_000):
        leader.write(b"RPUSH q a")
        leader.enter(b"BLPOP q 1000")
        leader.settle()
    assert len(leader.room._timers) < 100


# What cannot wait -----------------------------------------------------------------------------------------------------


def test_another_type_is_an_error_at_first_and_is_waited_out_later(leader: Leader) -> None:
    waiting = leader.enter(b"BLPOP q 0")
    leader.settle()
    leader.write(b"SET q x")
    refused = leader.enter(b"BLPOP q 0")
    leader.settle()
    leader.after(LOOK_AGAIN_S)
    assert (waiting.replies, refused.replies) == ([], [WRONG_TYPE])
    leader.write(b"DEL q")
    leader.write(b"RPUSH q a")
    leader.settle()
    assert waiting.replies == [[b"q", b"a"]]


def test_a_sorted_set_is_waited_for_in_the_same_way(leader: Leader) -> None:
    waiting, of_lists = leader.enter(b"BZPOPMIN z 0"), leader.enter(b"BLPOP z 0")
    leader.settle()
    leader.write(b"ZADD z 2 b 1 a")
    leader.settle()
    assert (waiting.replies, of_lists.replies) == ([[b"z", b"a", 1.0]], [])


def test_a_key_of_another_type_behind_one_that_is_ready_does_not_matter(leader: Leader) -> None:
    leader.write(b"RPUSH q a")
    leader.write(b"SET s x")
    client = leader.enter(b"BLPOP q s 0")
    leader.settle()
    assert client.replies == [[b"q", b"a"]]


def test_a_destination_of_another_type_is_an_error_when_the_source_comes(leader: Leader) -> None:
    leader.write(b"SET s x")
    client = leader.enter(b"BLMOVE q s LEFT LEFT 0")
    leader.settle()
    leader.write(b"RPUSH q a")
    leader.settle()
    assert client.replies == [WRONG_TYPE]
    assert leader.write(b"LLEN q") == 1


def test_what_can_never_be_tried_is_told_at_once(leader: Leader) -> None:
    client = leader.enter(b"BLMOVE q elsewhere LEFT LEFT 0")
    assert client.replies == [Failure(b"CROSSSLOT")]
    assert leader.room.waiting == 0


@pytest.mark.interpreted
def test_there_are_only_so_many_places(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_room, "PLACES_MAX", 3)
    leader.enter(b"BLPOP a b 0")
    (refusal,) = leader.enter(b"BLPOP a b 0").replies
    assert isinstance(refusal, Failure)
    assert refusal.text.startswith(b"OVERLOADED")
    assert leader.enter(b"BLPOP a 0").replies == []


def test_a_closed_room_tells_all(leader: Leader) -> None:
    client, trying = leader.enter(b"BLPOP q 0"), leader.enter(b"BLPOP r 0")
    leader.settle()
    leader.write(b"RPUSH r a")
    leader.carry()
    leader.room.close(CLOSED)
    assert (client.replies, trying.replies) == ([CLOSED], [])
    leader.settle()
    assert trying.replies == [[b"r", b"a"]]
    assert leader.enter(b"BLPOP q 0").replies == [CLOSED]


def test_a_key_named_twice_takes_one_place(leader: Leader) -> None:
    client = leader.enter(b"BLPOP q q 0")
    leader.settle()
    leader.write(b"RPUSH q a b")
    leader.settle()
    assert client.replies == [[b"q", b"a"]]
    assert leader.write(b"LLEN q") == 1


# Any order of events --------------------------------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(
        st.just("enter"), st.sampled_from([b"BLPOP a 0", b"BRPOP b a 0", b"BLPOP a b 3", b"BLMPOP 0 2 a b LEFT"])
    ),
    st.tuples(st.just("push"), st.sampled_from([b"a", b"b"]), st.integers(1, 3), st.booleans()),
    st.tuples(st.sampled_from(["carry", "deliver", "settle", "tick", "new leader", "down", "up"])),
    st.tuples(st.just("give up"), st.integers(0, 9)),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_every_item_is_given_once_and_nobody_waits_for_what_is_there(steps: list[tuple[object, ...]]) -> None:
    leader = Leader()
    clients: list[Client] = []
    pushed: list[bytes] = []

    def push(key: bytes, count: int, tells: bool) -> None:
        items = [b"%d" % (len(pushed) + number) for number in range(count)]
        pushed.extend(items)
        leader.write(b" ".join([b"RPUSH", key, *items]), tells=tells)

    def new_leader() -> None:
        leader.keyspace.awaited.clear()
        leader.room.group_changed(GROUP)

    def give_up(number: int) -> None:
        if clients:
            leader.room.give_up(clients[number % len(clients)].waiter, NULL_ARRAY)

    does: dict[object, Callable[..., object]] = {
        "enter": lambda line: clients.append(leader.enter(line)),
        "push": push,
        "carry": leader.carry,
        "deliver": leader.deliver,
        "settle": leader.settle,
        "tick": lambda: leader.after(0.7),
        "new leader": new_leader,
        "down": lambda: setattr(leader, "is_down", True),
        "up": lambda: setattr(leader, "is_down", False),
        "give up": give_up,
    }
    for what, *arguments in steps:
        does[what](*arguments)
    leader.is_down = False
    leader.settle()
    for _ in range(3):
        leader.after(LOOK_AGAIN_S)
    given_out: list[bytes] = []
    for client in clients:
        assert len(client.replies) == client.waiter.is_done
        match client.replies:
            case [[bytes(), bytes() as item]]:
                given_out.append(item)
            case [[bytes(), [bytes() as item]]]:
                given_out.append(item)
            case [] | [None]:
                pass
            case [reply]:
                assert reply is NULL_ARRAY
    left = [
        item
        for key in (b"a", b"b")
        for item in leader.keyspace.execute([b"LRANGE", key, b"0", b"-1"], 0)  # type: ignore[union-attr]
    ]
    assert sorted(given_out + left) == sorted(pushed), "each item is given to one, or still there"
    for client in clients:
        keys = [each.key for each in client.waiter.wait.tries]
        assert client.waiter.is_done or leader.keyspace.execute([b"EXISTS", *keys], 0) == 0, "and is not waited for"
    assert leader.room.waiting == sum(not client.waiter.is_done for client in clients)
    if not leader.room.waiting:
        assert (leader.room._queues, leader.room._looked_at, leader.room._places) == ({}, {}, 0)
    leader.keyspace.check()


def test_the_name_of_the_look_is_no_client_s(leader: Leader) -> None:
    assert isinstance(check_command([AWAIT, b"q", b"1", b"list"]), Failure)
