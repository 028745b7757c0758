"""What was lost on its way is sent again, whatever else the leader is busy with."""

from dataclasses import replace

import pytest

from noctule.core.raft import events as raft
from noctule.core.raft.messages import Heartbeat
from noctule.verify.sim.driving import TINY, Group, Wanted, chosen

WATCHED = replace(TINY, quiet_after_s=TINY.heartbeat_s)
"""As in production: entries stand for heartbeats."""


def test_reads_without_a_pause_do_not_keep_a_follower_from_catching_up() -> None:
    """Each read round sends heartbeats, so none was ever due, and repair waited for one: a restarted follower of a
    partition that was always read never got another entry."""
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.stabilise_among(1, 2)
    for number in range(40):
        group.tick(group.config.heartbeat_s / 5, [1])
        group.give(1, raft.ReadIndex(number))
        group.stabilise()
    assert group.applied[3] == [b"a"]


def write_on(group: Group, seconds: float, lost: Wanted = lambda *_: False) -> int:
    """The leader, 1, is given an entry every 10 ms and takes no break; returns how many heartbeats it sent."""
    for number in range(round(seconds / 0.01)):
        group.propose(1, b"%d" % number)
        group.stabilise(lambda *letter: not lost(*letter))
        group.tick(0.01)
        group.stabilise(lambda *letter: not lost(*letter))
    sent = (effect for effect in group.effects[1] if isinstance(effect, raft.Send))
    return sum(isinstance(effect.message, Heartbeat) for effect in sent)


def group_with_one_back() -> Group:
    """Led by 1; node 3 was killed, and is started and trusted again: what the leader sent it is on its way."""
    group = Group(3, WATCHED)
    group.elect(1)
    group.crash(3)
    for other in (1, 2):
        group.suspect(other, 3)
    write_on(group, 0.1)
    group.start(3)
    for other in (1, 2):
        group.trust(other, 3)
    return group


@pytest.mark.parametrize("lost", [chosen(to=3), chosen(sender=3)], ids=["what the leader sent it", "what it answered"])
def test_entries_without_a_pause_do_not_keep_a_follower_that_is_back_from_catching_up(lost: Wanted) -> None:
    """A node that is back may be dialled before it has dialled anyone, and its first answers are lost; the other way
    round the leader's first words are. As entries stood for heartbeats, and it gets none before it has answered, a
    follower of a partition that was always written to never heard of its leader again, and asked for votes for ever."""
    group = group_with_one_back()
    group.stabilise(lambda *letter: not lost(*letter))
    write_on(group, 1.0)
    assert group.nodes[3].leader == 1
    assert group.applied[3][:50] == group.applied[1][:50]


def test_entries_without_a_pause_do_not_keep_a_follower_from_catching_up_whose_entries_were_all_lost() -> None:
    """A frame is dropped where too many bytes wait; as many entries as may be on their way are then waited for."""
    group = Group(3, WATCHED)
    group.elect(1)
    write_on(group, 0.2, lost=chosen("Append", to=3))
    write_on(group, 1.0)
    assert group.applied[3][:50] == group.applied[1][:50]


def test_where_everyone_who_lives_gets_its_entries_there_is_no_heartbeat_beside_them() -> None:
    group = Group(3, WATCHED)
    group.elect(1)
    before = write_on(group, 0.1)
    assert write_on(group, 2.0) == before
    group.crash(3)
    group.suspect(1, 3)
    assert write_on(group, 2.0) == before, "whoever is away waits for none"
