"""What was lost on its way is sent again, whatever else the leader is busy with."""

from noctule.core.raft import events as raft
from noctule.verify.sim.driving import Group


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
