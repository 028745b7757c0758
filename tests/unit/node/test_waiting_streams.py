"""Who waits for entries of a stream: all readers get them, of a group one consumer each, and nobody is woken for less.

The room itself is held by test_waiting_room.py, whose leader this borrows.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.core.keyspace.blocking_streams import stream_readiness, wait_for_streams
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Named, Reply
from noctule.core.keyspace.waits import Question, Wait

from .test_waiting_room import Client, Leader

ENTRY: Reply = [b"9-1", [b"f", b"v"]]


@pytest.fixture
def leader() -> Leader:
    leader = Leader()
    leader.write(b"XADD s 5-1 f v")
    leader.write(b"XGROUP CREATE s g $")
    return leader


def consumers(leader: Leader, count: int, options: bytes = b"") -> list[Client]:
    clients = [leader.enter(b"XREADGROUP GROUP g c%d %b BLOCK 0 STREAMS s >" % (n, options)) for n in range(count)]
    leader.settle()
    return clients


def test_an_entry_is_tried_for_once_however_many_wait(leader: Leader) -> None:
    clients = consumers(leader, 20)
    assert leader.attempts == 0
    leader.write(b"XADD s 9-1 f v")
    leader.settle()
    assert [client.replies for client in clients] == [[Named([(b"s", [ENTRY])])], *[[]] * 19]
    assert leader.attempts == 1


def test_entries_that_come_together_are_shared_out(leader: Leader) -> None:
    clients = consumers(leader, 3, b"COUNT 1")
    for number in range(3):
        leader.write(b"XADD s 9-%d f v" % (number + 1))
    leader.settle()
    assert [len(client.replies) for client in clients] == [1, 1, 1]
    assert len({repr(client.replies) for client in clients}) == 3


def test_acknowledging_and_trimming_wake_nobody(leader: Leader) -> None:
    leader.write(b"XADD s 8-1 f v")
    leader.write(b"XREADGROUP GROUP g somebody STREAMS s >")
    consumers(leader, 1)
    looks = leader.looks
    for line in (b"XACK s g 8-1", b"XDEL s 8-1", b"XTRIM s MAXLEN 0", b"XGROUP CREATECONSUMER s g d"):
        leader.write(line)
        leader.settle()
    assert (leader.attempts, leader.looks) == (0, looks)


def test_a_stream_that_is_renamed_is_told(leader: Leader) -> None:
    client = leader.enter(b"XREAD BLOCK 0 STREAMS {s}t 0")
    leader.settle()
    leader.write(b"RENAME s {s}t")
    leader.settle()
    assert len(client.replies) == 1


@pytest.mark.parametrize("line", [b"XGROUP SETID s g 0", b"XGROUP DESTROY s g"])
def test_what_changes_the_group_is_told(leader: Leader, line: bytes) -> None:
    [client] = consumers(leader, 1)
    leader.write(line)
    leader.settle()
    [reply] = client.replies
    assert isinstance(reply, Failure if b"DESTROY" in line else Named)


def test_everybody_who_reads_is_told(leader: Leader) -> None:
    clients = [leader.enter(b"XREAD BLOCK 0 STREAMS none s 0 5-1") for _ in range(3)]
    leader.settle()
    leader.write(b"XADD s 9-1 f v")
    leader.settle()
    assert [client.replies for client in clients] == [[Named([(b"s", [ENTRY])])]] * 3


@pytest.mark.parametrize(
    "line",
    [
        b"XREAD STREAMS s 0",
        b"XREAD BLOCK x STREAMS s 0",
        b"XREAD BLOCK 0 STREAMS s >",
        b"XREAD BLOCK 0 STREAMS s s 0",
        b"XREADGROUP GROUP g c BLOCK 0 STREAMS s t > 0",
        b"XREADGROUP GROUP g c BLOCK 0 STREAMS s $",
        b"XREAD BLOCK 0 STREAMS s bad",
    ],
)
def test_what_can_be_answered_at_once_does_not_wait(line: bytes) -> None:
    assert wait_for_streams(line.split()) is None


def test_a_dollar_sign_is_asked_for_once() -> None:
    question = wait_for_streams(b"XREAD COUNT 2 BLOCK 7 STREAMS a $ b $ 3-0 $".split())
    assert isinstance(question, Question)
    assert question.args == b"NOCTULE.TOPS a $ b".split()
    keyspace = Keyspace()
    keyspace.execute(b"XADD b 8-1 f v".split(), 0)
    args = question.then(keyspace.read(question.args, 0))  # type: ignore[arg-type]
    assert args == b"XREAD COUNT 2 BLOCK 7 STREAMS a $ b 0-0 3-0 8-1".split()
    wait = wait_for_streams(args)
    assert isinstance(wait, Wait)
    assert [each.detail for each in wait.tries] == [b"(0-0", b"(3-0", b"(8-1"]
    keyspace.execute(b"SET a x".split(), 0)
    assert isinstance(question.then(keyspace.read(question.args, 0)), Failure)  # type: ignore[arg-type]


IDS = st.integers(0, 4).map(lambda ms: b"%d-0" % ms)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([b"XADD s *", b"XDEL s 1-0 2-0", b"DEL s", b"XGROUP CREATE s g $ MKSTREAM", b"SET s x"])),
    IDS,
)
def test_a_stream_is_ready_exactly_when_its_command_has_an_answer(lines: list[bytes], after: bytes) -> None:
    keyspace = Keyspace()
    for now_ms, line in enumerate(lines):
        keyspace.execute([*line.split(), *([b"f", b"v"] if b"XADD" in line else [])], now_ms + 1)
    for line in (b"XREAD BLOCK 0 STREAMS s " + after, b"XREADGROUP GROUP g c BLOCK 0 STREAMS s >"):
        wait = wait_for_streams(line.split())
        assert isinstance(wait, Wait)
        ready = stream_readiness(keyspace.get(b"s"), wait.tries[0].detail)
        reply = keyspace.execute(wait.tries[0].args, 100)
        assert (reply is not NULL_ARRAY) == (ready > 0)
