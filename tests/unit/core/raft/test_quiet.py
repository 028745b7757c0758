"""Groups in which nothing happens sleep; what wakes them, and what they must not do before they are awake."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from noctule.base.ids import END_OF_TIME
from noctule.core.raft import events as raft
from noctule.core.raft.membership import Change, ChangeKind
from noctule.core.raft.messages import Heartbeat
from noctule.core.raft.node import Role
from noctule.verify.sim.driving import TINY, Group, chosen

QUIET = replace(TINY, quiet_after_s=0.1)


def rest(group: Group, seconds: float = 0.3) -> None:
    """Time passes and all messages arrive."""
    for _ in range(round(seconds / 0.05)):
        group.tick(0.05)
        group.stabilise()


def quiet_group(voters: int = 3, config: object = QUIET, **options: object) -> Group:
    """A group led by 1 in which everyone sleeps."""
    group = Group(voters, config, **options)  # type: ignore[arg-type]
    group.elect(1)
    rest(group)
    assert sleepers(group) == list(group.members)
    return group


def sleepers(group: Group) -> list[int]:
    """Those who have no deadline."""
    return [node for node in group.members if group.nodes[node].next_deadline() == END_OF_TIME]


def test_nobody_says_a_word_for_an_hour() -> None:
    group = quiet_group()
    for _ in range(60):
        group.tick(60.0)
        assert group.mail == []
    assert group.nodes[1].is_leader()


def test_without_the_setting_no_group_ever_sleeps() -> None:
    group = Group(3, TINY)
    group.elect(1)
    rest(group, 5.0)
    assert sleepers(group) == []


def test_learners_and_lonely_leaders_sleep_too() -> None:
    quiet_group(learners=[4])
    quiet_group(voters=1)


@pytest.mark.parametrize(
    "stir",
    [
        lambda group: group.propose(1, b"a"),
        lambda group: group.read_index(1, 7),
        lambda group: group.read_index(2, 7),
        lambda group: group.transfer(1, 2),
        lambda group: group.change(1, Change(ChangeKind.LEARNER, 3)),
    ],
    ids=["proposal", "read", "read on a follower", "transfer", "change"],
)
def test_whatever_is_to_be_done_wakes_it_and_is_done(stir: Callable[[Group], object]) -> None:
    group = quiet_group()
    group.tick(3600.0)
    stir(group)
    group.stabilise()
    assert not any(isinstance(effect, raft.MembershipRefused) for effect in group.effects[1])
    rest(group, 1.0)
    assert sleepers(group) == list(group.members), "and then it sleeps again"
    applied = {group.nodes[node].applied for node in group.members}
    assert len(applied) == 1


def test_a_sleeping_leader_has_no_lease() -> None:
    """It promised itself nothing: others may have elected meanwhile, so a read by lease goes the long way."""
    config = replace(QUIET, lease_s=0.4)
    group = quiet_group(config=config)
    assert not any(isinstance(effect, raft.ReadReady) for effect in group.read_index(1, 7, lease=True))
    group.stabilise()
    assert raft.ReadReady(7, group.nodes[1].commit) in group.effects[1]


def test_a_follower_that_suspects_its_leader_campaigns_and_a_late_word_of_the_dead_does_not_stop_it() -> None:
    group = quiet_group()
    group.crash(1)
    group.suspect(2, 1)
    commit = group.nodes[2].commit
    group.give(2, raft.Received(1, Heartbeat(1, commit, 0, True)))
    assert group.nodes[2].next_deadline() < END_OF_TIME
    group.suspect(3, 1)
    rest(group, 3.0)
    assert {group.nodes[node].leader for node in (2, 3)} <= {2, 3}


def test_a_dead_follower_does_not_keep_the_group_awake_and_is_brought_up_to_date_when_it_is_back() -> None:
    group = quiet_group()
    group.crash(3)
    group.suspect(1, 3)
    assert sleepers(group)[:2] == [1, 2], "nobody woke"
    group.propose(1, b"a")
    rest(group, 1.0)
    assert sleepers(group)[:2] == [1, 2]
    group.start(3)
    group.trust(1, 3)
    assert not group.nodes[1].is_quiet()
    rest(group, 1.0)
    assert sleepers(group) == [1, 2, 3]
    assert group.applied[3] == [b"a"]


def test_who_is_back_keeps_up_once_it_has_said_so() -> None:
    """While it says nothing a group that is handed over to it takes no writes, and the log is short in vain."""
    group = quiet_group()
    leadership = group.nodes[1].leadership
    assert leadership is not None
    last_index = group.nodes[1].log.last_index

    def keeps_up(lag_entries_max: int = 1_000) -> bool:
        return leadership.progress[3].keeps_up(last_index, lag_entries_max)

    assert keeps_up()
    group.crash(3)
    group.suspect(1, 3)
    group.start(3)
    group.trust(1, 3)
    assert not keeps_up(), "it is there, and has not answered"
    group.stabilise()
    assert keeps_up(1), "it lacks nothing"
    last_index += 10
    assert keeps_up(11)
    assert not keeps_up(10)


def test_a_leader_that_loses_a_majority_wakes_and_gives_up() -> None:
    group = quiet_group()
    group.suspect(1, 2)
    assert group.nodes[1].is_quiet()
    group.suspect(1, 3)
    assert not group.nodes[1].is_quiet()
    for _ in range(60):
        group.tick(0.05, [1])
        group.drop()
    assert not group.nodes[1].is_leader()


def test_a_follower_restarted_in_its_sleep_finds_its_leader_without_being_missed() -> None:
    """Killed and back before anyone noticed: its timer is all there is, and what it asks must depose nobody."""
    group = quiet_group()
    group.crash(3)
    group.start(3)
    rest(group, 2.0)
    assert group.nodes[1].term == 1
    assert group.nodes[1].is_leader()
    assert sleepers(group) == [1, 2, 3]


def test_a_leader_restarted_in_its_sleep_is_elected_by_those_who_still_sleep_under_it() -> None:
    """They trust it; but who asks for votes leads no more."""
    group = quiet_group()
    group.crash(1)
    group.start(1)
    rest(group, 3.0)
    assert [node for node in group.members if group.nodes[node].is_leader()]
    assert sleepers(group) == [1, 2, 3]


def test_a_word_about_sleep_that_comes_behind_a_newer_entry_is_no_word() -> None:
    group = quiet_group()
    group.propose(1, b"a")
    group.deliver(chosen("Append"))
    group.give(2, raft.Received(1, Heartbeat(1, 1, 0, True)))
    assert not group.nodes[2].is_quiet()


def test_late_answers_do_not_wake_a_leader() -> None:
    """On a busy machine thousands of answers come after the leader fell asleep; each would begin another round."""
    group = Group(3, QUIET)
    group.elect(1)
    group.tick(0.05)
    group.deliver(chosen("Heartbeat"))
    late = [letter for letter in group.mail if type(letter.message).__name__ == "HeartbeatReply"]
    assert late
    group.mail.clear()
    rest(group)
    assert group.nodes[1].is_quiet()
    for letter in late:
        group.give(1, raft.Received(letter.sender, letter.message))
    assert group.nodes[1].is_quiet()


def test_a_joint_membership_that_is_kept_keeps_the_group_awake() -> None:
    group = quiet_group()
    group.change(1, Change(ChangeKind.LEARNER, 3), transition=raft.Transition.JOINT_EXPLICIT)
    rest(group, 2.0)
    assert sleepers(group) == []
    group.leave_joint(1)
    rest(group, 2.0)
    assert sleepers(group) == [1, 2, 3]


def test_who_is_to_take_over_waits_for_the_votes_as_anybody_does() -> None:
    """It asked for pre-votes 10 ms later, gave up its term by that, and the group had no leader for half a second."""
    group = quiet_group()
    group.transfer(1, 2)
    group.deliver(chosen("TimeoutNow"))
    assert group.nodes[2].role is Role.CANDIDATE
    group.tick(TINY.election_timeout_s_min / 2)
    assert group.nodes[2].role is Role.CANDIDATE
    group.stabilise()
    assert group.nodes[2].is_leader()
