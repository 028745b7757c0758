"""Changes of the membership, simple and joint: thesis 4.1, 4.2.2 and 4.3."""

from collections.abc import Callable

import pytest

from noctule.core.raft import events as raft
from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import Change, ChangeKind, Membership, encode_membership
from noctule.core.raft.messages import AppendReply, Entry, HardState, TimeoutNow
from noctule.verify.sim.driving import Group, chosen, snapshot_of

VOTER, LEARNER, REMOVED = ChangeKind.VOTER, ChangeKind.LEARNER, ChangeKind.REMOVED
SIMPLE, JOINT, EXPLICIT = raft.Transition.SIMPLE, raft.Transition.JOINT, raft.Transition.JOINT_EXPLICIT

THREE = Membership(voters=(1, 2, 3))
MOVE = (Change(VOTER, 4), Change(VOTER, 5), Change(REMOVED, 1), Change(REMOVED, 2))
MOVING = Membership(voters=(3, 4, 5), outgoing=(1, 2, 3))
"""From nodes 1, 2, 3 to 3, 4, 5: neither half has a majority of the other."""


def moving() -> Group:
    """Node 3 leads, and has appended the joint membership of `MOVE`, which it leaves when told; nobody else has it."""
    group = Group()
    group.elect(3)
    group.join(4)
    group.join(5)
    group.change(3, *MOVE, transition=EXPLICIT)
    return group


def beats(group: Group, leader: int, *among: int, count: int = 4) -> None:
    """Let the leader's time pass and everything arrive among these nodes, all by default."""
    for _ in range(count):
        group.tick(group.config.heartbeat_s, [leader])
        group.stabilise_among(*(among or group.members))


def told(group: Group, node: int) -> list[tuple[Membership, bool]]:
    """The memberships that the node told its surroundings of, and whether they were committed."""
    return [(e.membership, e.committed) for e in group.effects[node] if isinstance(e, raft.MembershipChanged)]


def refusal(effects: list[raft.Effect]) -> str:
    """The reason of the only effect, which is a refusal."""
    (effect,) = effects
    assert isinstance(effect, raft.MembershipRefused)
    return effect.reason


# In force when appended -----------------------------------------------------------------------------------------------


def test_a_membership_is_in_force_before_it_is_committed() -> None:
    group = moving()
    assert (group.state(3).membership, group.state(3).commit) == (MOVING, 1)
    assert set(group.state(3).peers) == {1, 2, 4, 5}
    assert told(group, 3) == [(MOVING, False)]


@pytest.mark.parametrize(
    ("reached", "commits"),
    [((1, 2), False), ((4, 5), False), ((1, 2, 4), True), ((1, 4, 5), True), ((1, 4), True), ((1,), False)],
)
def test_a_joint_group_commits_by_majorities_of_both_halves(reached: tuple[int, ...], *, commits: bool) -> None:
    """With node 3, which leads and is in both halves."""
    group = moving()
    beats(group, 3, 3, *reached)
    assert (group.state(3).commit == 2) == commits


@pytest.mark.parametrize(
    ("candidate", "reached", "wins"),
    [
        (1, (2,), False),
        (4, (5,), False),
        (1, (2, 4), False),
        (1, (4, 5), False),
        (1, (2, 4, 5), True),
        (4, (1, 2, 5), True),
    ],
)
def test_a_joint_group_elects_by_majorities_of_both_halves(
    candidate: int, reached: tuple[int, ...], *, wins: bool
) -> None:
    group = moving()
    beats(group, 3)
    group.crash(3)
    group.tick(2 * group.config.election_timeout_s_max, [])
    group.campaign(candidate)
    group.stabilise_among(candidate, *reached)
    assert (group.state(candidate).role == "leader") == wins


@pytest.mark.parametrize(("reached", "stays"), [((1, 2), False), ((4, 5), False), ((1, 4), True)])
def test_a_joint_leader_needs_both_halves_to_stay_and_to_read(reached: tuple[int, ...], *, stays: bool) -> None:
    group = moving()
    beats(group, 3)
    group.read_index(3, 7)
    beats(group, 3, 3, *reached, count=50)
    assert (group.state(3).role == "leader") == stays
    assert any(isinstance(effect, raft.ReadReady) for effect in group.effects[3]) == stays


def test_a_simple_change_counts_at_once() -> None:
    """Of four voters two are no majority, of three they are: a removal is committed by the voters that remain."""
    group = Group(4)
    group.elect(1)
    group.change(1, Change(REMOVED, 4), transition=SIMPLE)
    group.stabilise_among(1, 2)
    assert (group.state(1).membership, group.state(1).commit) == (THREE, 2)


# Leaving --------------------------------------------------------------------------------------------------------------


def test_the_leader_leaves_by_itself_once_the_joint_membership_is_committed() -> None:
    group = Group()
    group.elect(1)
    group.join(4)
    group.change(1, Change(VOTER, 4), Change(REMOVED, 3))
    group.stabilise()
    joint = Membership(voters=(1, 2, 4), outgoing=(1, 2, 3), auto_leave=True)
    after = Membership(voters=(1, 2, 4))
    assert told(group, 1) == [(joint, False), (joint, True), (after, False), (after, True)]
    assert set(group.state(1).peers) == {2, 4}


def test_or_when_it_is_told() -> None:
    group = moving()
    beats(group, 3)
    assert (group.state(3).membership, group.state(3).commit) == (MOVING, 2)
    assert raft.Proposed(3, 1) in group.leave_joint(3)
    group.stabilise()
    assert group.state(4).membership == Membership(voters=(3, 4, 5))
    assert set(group.state(3).peers) == {4, 5}


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("transition", [JOINT, EXPLICIT])
def test_the_next_leader_leaves_what_its_predecessor_entered(*, committed: bool, transition: raft.Transition) -> None:
    group = Group()
    group.elect(1)
    group.join(4)
    group.change(1, Change(VOTER, 4), Change(REMOVED, 3), transition=transition)
    group.deliver(chosen("Append"))
    if committed:
        group.deliver(chosen("AppendReply", sender=2))
        group.stabilise(chosen("Append", to=4))
    group.crash(1)
    group.mail.clear()
    group.elect(2, among=(2, 3, 4))
    if transition is EXPLICIT:
        assert group.state(2).membership.is_joint()
        group.leave_joint(2)
    beats(group, 2)
    assert group.state(2).membership == group.state(4).membership == Membership(voters=(1, 2, 4))
    assert group.state(2).commit == group.state(2).membership_index + (group.state(2).log_terms[-1] != 2)


def test_a_membership_goes_back_with_its_entry() -> None:
    group = moving()
    group.mail.clear()
    group.elect(1, among=(1, 2))
    beats(group, 1)
    assert group.state(3).log_terms == (1, 2)
    assert (group.state(3).membership, group.state(3).membership_index) == (THREE, 0)
    assert told(group, 3) == [(MOVING, False), (THREE, False)]


def test_a_snapshot_that_commits_a_known_membership_says_so() -> None:
    """The entries behind the snapshot stay, so nothing is in force anew; yet it is final now."""
    four = Membership(voters=(1, 2, 3, 4))
    group = Group()
    entries = [Entry(1, b""), Entry(1, encode_membership(four)), Entry(1, b"a"), Entry(1, b"b")]
    group.start(2, RaftLog(entries=entries), HardState(1, 0))
    group.install(2, snapshot_of(b"a", voters=four.voters), term=1, index=3, index_term=1)
    assert (group.state(2).snapshot, group.state(2).log_terms) == ((3, 1), (1,))
    assert told(group, 2) == [(four, True)]


def test_what_is_committed_before_the_change_settles_nothing() -> None:
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.change(1, Change(VOTER, 4), Change(REMOVED, 1))
    for node in (2, 3):
        group.give(1, raft.Received(node, AppendReply(1, True, 2)))
    assert (group.state(1).commit, group.state(1).log_terms, group.state(1).role) == (2, (1, 1, 1), "leader")
    assert group.state(1).membership.is_joint()


# Out of the group -----------------------------------------------------------------------------------------------------


def test_a_leader_that_leaves_leads_until_then_without_counting_itself() -> None:
    """Thesis 4.2.2."""
    group = Group()
    group.elect(1)
    before = group.now
    group.change(1, Change(REMOVED, 1), transition=SIMPLE)
    group.deliver(chosen("Append", to=2))
    group.deliver(chosen("AppendReply", sender=2))
    assert (group.state(1).role, group.state(1).commit) == ("leader", 1)
    group.stabilise()
    assert (group.state(1).commit, group.effects[1].count(raft.Send(2, TimeoutNow(1)))) == (2, 1)
    assert (group.state(2).role, group.now) == ("leader", before)
    group.tick(100.0, [1])
    assert (group.state(1).role, group.mail) == ("follower", [])


def test_without_an_heir_that_has_everything_the_others_elect_one() -> None:
    """What was proposed behind the change may be on nobody else's disk when the change is committed."""
    group = Group()
    group.elect(1)
    group.change(1, Change(REMOVED, 1), transition=SIMPLE)
    letters = list(group.mail)
    group.propose(1, b"lost")
    group.mail = letters
    group.stabilise()
    assert group.state(1).role == "follower"
    assert not any(isinstance(e, raft.Send) and isinstance(e.message, TimeoutNow) for e in group.effects[1])
    group.campaign(2)
    group.stabilise()
    assert (group.state(2).role, group.applied[2]) == ("leader", [])


@pytest.mark.parametrize("order", [(2, 3), (3, 2)])
@pytest.mark.parametrize("transition", [SIMPLE, JOINT])
def test_who_is_removed_learns_of_it_and_rests(order: tuple[int, ...], transition: raft.Transition) -> None:
    """Also when the others committed it before its own answer came: the leader had forgotten it by then, and it asked
    for votes for ever."""
    group = Group()
    group.elect(1)
    group.change(1, Change(REMOVED, 3), transition=transition)
    for _ in range(4):
        group.deliver(chosen(sender=1))
        for node in order:
            group.deliver(chosen(sender=node))
    group.stabilise()
    assert (Membership(voters=(1, 2)), True) in told(group, 3)
    assert set(group.state(1).peers) == {2}
    group.tick(100.0, [3])
    assert (group.state(3).role, group.mail) == ("follower", [])


def test_who_is_removed_and_does_not_answer_is_forgotten() -> None:
    group = Group()
    group.elect(1)
    group.change(1, Change(REMOVED, 3), transition=SIMPLE)
    beats(group, 1, 1, 2, count=60)
    assert set(group.state(1).peers) == {2}


def test_who_is_removed_and_far_behind_is_told_after_it_got_the_rest() -> None:
    group = Group()
    group.elect(1)
    for _ in range(10):
        group.propose(1, b"x" * 90)
        group.stabilise_among(1, 2)
    group.compact(1, 5)
    group.change(1, Change(REMOVED, 3), transition=SIMPLE)
    group.stabilise_among(1, 2)
    beats(group, 1, count=8)
    assert (Membership(voters=(1, 2)), True) in told(group, 3)
    assert set(group.state(1).peers) == {2}


# Refused --------------------------------------------------------------------------------------------------------------


def before_the_no_op(group: Group) -> None:
    group.tick(2 * group.config.election_timeout_s_max, [1])
    group.stabilise(lambda _sender, _to, message: not message.__class__.__name__.startswith("Append"))


def uncommitted(group: Group) -> None:
    group.elect(1)
    group.change(1, Change(LEARNER, 4), transition=SIMPLE)


def in_transfer(group: Group) -> None:
    group.elect(1)
    group.propose(1, b"a")
    group.transfer(1, 2)


def with_two_dead(group: Group) -> None:
    group.elect(1)
    group.join(4)
    group.change(1, Change(VOTER, 4), transition=SIMPLE)
    group.stabilise()
    group.crash(4)
    beats(group, 1, count=60)


def joint(group: Group) -> None:
    group.elect(1)
    group.join(4)
    group.change(1, Change(LEARNER, 4), transition=EXPLICIT)
    group.stabilise()


def led(group: Group) -> None:
    group.elect(1)


@pytest.mark.parametrize(
    ("arrange", "changes", "transition", "reason"),
    [
        (led, [Change(VOTER, 2)], SIMPLE, "nothing would change"),
        (led, [Change(VOTER, 2)], JOINT, "nothing would change"),
        (led, [], EXPLICIT, "nothing would change"),
        (led, [Change(VOTER, 0)], JOINT, "0 is no node: ids begin at 1"),
        (joint, [Change(VOTER, 5)], JOINT, "the group is joint already: leave that membership first"),
        (joint, [Change(VOTER, 5)], SIMPLE, "the group is joint: leave that membership first"),
        (uncommitted, [Change(LEARNER, 5)], SIMPLE, "the change before is not committed yet: try again"),
        (before_the_no_op, [Change(VOTER, 4)], SIMPLE, "nothing of this term is committed yet: try again"),
        (in_transfer, [Change(VOTER, 4)], SIMPLE, "leadership is being handed over: try again"),
        (
            with_two_dead,
            [Change(REMOVED, 2), Change(REMOVED, 3)],
            JOINT,
            "too few of those who would vote were heard lately: it might never be committed",
        ),
    ],
)
def test_a_change_that_must_not_begin_is_refused_with_a_reason(
    arrange: Callable[[Group], None], changes: list[Change], transition: raft.Transition, reason: str
) -> None:
    group = Group()
    arrange(group)
    assert group.state(1).role == "leader"
    before = group.state(1)
    assert refusal(group.change(1, *changes, transition=transition)).startswith(reason)
    assert group.state(1) == before


def test_only_the_leader_changes_and_leaves_and_only_a_joint_membership_is_left() -> None:
    group = Group()
    group.elect(1)
    assert group.change(2, Change(VOTER, 4)) == [raft.MembershipRefused("this replica does not lead", 1)]
    assert group.leave_joint(2) == [raft.MembershipRefused("this replica does not lead", 1)]
    assert refusal(group.leave_joint(1)) == "the group is not joint: there is nothing to leave"


def test_a_joint_membership_is_left_only_once_it_is_committed() -> None:
    group = moving()
    assert refusal(group.leave_joint(3)) == "the change before is not committed yet: try again"
    beats(group, 3)
    assert raft.Proposed(3, 1) in group.leave_joint(3)
