"""What a replica knows of its own age."""

import random

import pytest

from noctule.base.ids import Instant
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.events import Received
from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import Membership
from noctule.core.raft.messages import Append, Entry, Heartbeat, Message
from noctule.core.raft.node import RaftNode
from noctule.core.raft.staleness import NEVER, staleness_s


class Follower:
    """Node 2 of three, which hears node 1."""

    def __init__(self) -> None:
        self.node = RaftNode(
            node_id=2,
            config=RaftConfig(),
            chance=random.Random(1),
            now=Instant(0.0),
            log=RaftLog(membership=Membership(voters=(1, 2, 3))),
        )

    def hear(self, at: float, message: Message) -> None:
        self.node.handle(Received(1, message), Instant(at))

    def staleness_s(self, now: float) -> float | None:
        return staleness_s(Instant(now), fresh_at=self.node.fresh_at(Instant(now)))


def test_unknown_until_the_leader_was_heard() -> None:
    follower = Follower()
    assert follower.staleness_s(5.0) is None
    follower.hear(6.0, Heartbeat(1, 0, 0))
    assert follower.staleness_s(6.5) == 0.5


def test_a_replica_that_lacks_committed_entries_ages_though_it_hears_its_leader() -> None:
    """Counted from the last frame alone it would be called fresh while it is a second behind."""
    follower = Follower()
    follower.hear(1.0, Append(1, 0, 0, 1, [Entry(1, b"")]))
    follower.hear(2.0, Heartbeat(1, 9, 0))
    follower.hear(3.0, Append(1, 7, 1, 9, [Entry(1, b"x")]))
    assert follower.staleness_s(3.0) == 2.0
    follower.hear(4.0, Append(1, 1, 1, 2, [Entry(1, b"y")]))
    assert follower.staleness_s(4.0) == 0.0


def test_an_entry_that_is_not_committed_makes_nobody_older() -> None:
    follower = Follower()
    follower.hear(1.0, Append(1, 0, 0, 0, [Entry(1, b"")]))
    assert follower.staleness_s(1.0) == 0.0


def test_words_of_a_leader_of_the_past_say_nothing() -> None:
    follower = Follower()
    follower.hear(1.0, Heartbeat(5, 0, 0))
    follower.hear(2.0, Heartbeat(4, 0, 0))
    assert follower.staleness_s(2.0) == 1.0


@pytest.mark.parametrize(
    ("fresh_at", "asleep_heard_at", "expected"),
    [
        (NEVER, Instant(9.0), None),
        (Instant(4.0), None, 6.0),
        (Instant(4.0), Instant(9.0), 1.0),
        (Instant(9.0), Instant(4.0), 1.0),
    ],
)
def test_while_a_group_sleeps_the_nodes_speak_for_it(
    fresh_at: Instant, asleep_heard_at: Instant | None, expected: float | None
) -> None:
    assert staleness_s(Instant(10.0), fresh_at=fresh_at, asleep_heard_at=asleep_heard_at) == expected
