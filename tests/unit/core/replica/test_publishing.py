"""What is published through the log leaves once at most: from the leader that made the entry, when it applies it."""

from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import OK, Failure
from noctule.core.raft.messages import Append
from noctule.core.replica.events import Answer, Publish
from tests.unit.core.replica.colony import GROUP, Colony, write

ONE = (False, b"c", b"one")
TWO = (True, b"s", b"two")


def test_the_leader_publishes_in_order_and_nobody_else_does() -> None:
    colony = Colony(3)
    leader = colony.elect(1)
    leader.take(write(1, 1, b"NOCTULE.PUBLISH 0 c one", b"SET k v", b"NOCTULE.PUBLISH 1 s two"))
    colony.settle()
    assert [answer.results for answer in leader.taken_answers() if isinstance(answer, Answer)] == [[0, OK, 0]]
    for _ in range(3):
        colony.heartbeat(1)
    assert [machine.published for machine in colony.machines.values()] == [[Publish([ONE, TWO])], [], []]
    assert all(machine.replicas[GROUP].keyspace.published == [] for machine in colony.machines.values())


def test_a_batch_that_is_sent_again_publishes_nothing_more() -> None:
    colony = Colony(3)
    leader = colony.elect(1)
    for _ in range(2):
        leader.take(write(1, 1, b"NOCTULE.PUBLISH 0 c one"))
        colony.settle()
    assert leader.published == [Publish([ONE])]


def test_a_later_leader_does_not_publish_what_an_earlier_one_may_have_published() -> None:
    """The second one applies the entry, and cannot know whether the first one had published before it was lost."""
    colony = Colony(3)
    leader = colony.elect(1)
    leader.take(write(1, 1, b"NOCTULE.PUBLISH 0 c one", b"SET k v"))
    colony.settle(lambda _sender, _to, message: isinstance(message, Append))
    assert leader.published == [], "nothing is committed yet"
    heir = colony.elect(2, among=(2, 3))
    assert heir.replicas[GROUP].read_local([b"GET", b"k"], 0) == b"v"
    assert heir.published == []
    heir.take(write(2, 1, b"NOCTULE.PUBLISH 1 s two"))
    colony.settle()
    assert [machine.published for machine in colony.machines.values()] == [[], [Publish([TWO])], []]


def test_a_channel_with_too_long_a_name_is_refused() -> None:
    keyspace = Keyspace()
    reply = keyspace.execute([b"NOCTULE.PUBLISH", b"0", b"c" * 1_025, b"one"], 0)
    assert reply == Failure(b"ERR channel of 1025 bytes, CHANNEL_BYTES_MAX is 1024")
    assert keyspace.published == []


def test_what_a_journal_takes_back_is_not_published() -> None:
    keyspace = Keyspace()
    keyspace.execute([b"NOCTULE.PUBLISH", b"0", b"c", b"one"], 0)
    keyspace.begin_journal()
    keyspace.execute([b"NOCTULE.PUBLISH", b"1", b"s", b"two"], 0)
    keyspace.roll_back()
    assert keyspace.published == [ONE]
