"""Leader leases: thesis 6.4.1, with promises that bind whoever made them whatever it suspects (ADR 0015)."""

from dataclasses import replace

import pytest

from noctule.base.errors import ConfigError
from noctule.base.ids import Instant
from noctule.core.raft import events as raft
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.membership import Change, ChangeKind
from noctule.core.raft.messages import HardState, HeartbeatReply, VoteReply, VoteRequest
from noctule.verify.sim.driving import TINY, Group, chosen, log_of

LEASE_S = 0.4
DRIFT = 0.05
CONFIG = replace(TINY, lease_s=LEASE_S, clock_drift_max=DRIFT)
COUNTED_S = LEASE_S * (1 - DRIFT)
"""By the leader; the followers promise the whole of `LEASE_S`."""


def reads_at_once(group: Group, node: int, context: int = 7) -> bool:
    """Whether a read by lease is answered without asking anyone."""
    effects = group.read_index(node, context, lease=True)
    asked = any(isinstance(effect, raft.Send) for effect in effects)
    ready = any(isinstance(effect, raft.ReadReady) for effect in effects)
    assert asked != ready
    return ready


def leased(voters: int = 3, *, learners: tuple[int, ...] = ()) -> Group:
    """Node 1 leads, and just began a lease that a majority answered at once."""
    group = Group(voters, CONFIG, learners=learners)
    group.elect(1)
    group.tick(CONFIG.heartbeat_s, [1])
    group.stabilise()
    assert reads_at_once(group, 1)
    return group


# The leader's side ----------------------------------------------------------------------------------------------------


def test_a_lease_answers_only_those_reads_that_want_it() -> None:
    group = leased()
    assert any(isinstance(effect, raft.Send) for effect in group.read_index(1, 8, lease=False))
    group.read_index(2, 9, lease=True)
    group.deliver(chosen("ReadRequest"))
    assert not any(type(letter.message).__name__ == "ReadReply" for letter in group.mail)


def test_without_leases_every_read_asks_a_majority() -> None:
    group = Group()
    group.elect(1)
    assert not reads_at_once(group, 1)


def test_a_lease_lasts_from_the_moment_the_heartbeat_was_sent() -> None:
    """Not from its answer, nor from a moment before a pause: tikv/tikv#964, sofastack/sofa-jraft#34."""
    group = leased()
    group.tick(COUNTED_S * 0.99, [])
    assert reads_at_once(group, 1)
    group.tick(COUNTED_S * 0.02, [])
    assert not reads_at_once(group, 1)

    group = leased()
    group.tick(CONFIG.heartbeat_s, [1])
    letters, group.mail = group.mail, []
    group.tick(COUNTED_S * 0.9, [])
    group.mail = letters
    group.stabilise()
    assert reads_at_once(group, 1)
    group.tick(COUNTED_S * 0.2, [])
    assert not reads_at_once(group, 1)


@pytest.mark.parametrize("answering", [(), (4,), (4, 5)])
def test_no_lease_without_a_majority_of_voters(answering: tuple[int, ...]) -> None:
    group = Group(3, CONFIG, learners=[4, 5])
    group.elect(1, among=(1, 2, 3))
    group.tick(LEASE_S, [1])
    for _ in range(3):
        group.stabilise_among(1, *answering)
        group.tick(CONFIG.heartbeat_s, [1])
    group.stabilise_among(1, *answering)
    assert not reads_at_once(group, 1)
    group.stabilise_among(1, 2, *answering)
    assert not any(isinstance(letter.message, HeartbeatReply) for letter in group.mail)
    assert reads_at_once(group, 1, 8)


@pytest.mark.parametrize(("reached", "holds"), [((1, 2), False), ((4, 5), False), ((1, 4), True)])
def test_a_joint_group_s_lease_needs_both_halves(reached: tuple[int, ...], *, holds: bool) -> None:
    group = Group(config=CONFIG)
    group.elect(3)
    group.join(4)
    group.join(5)
    changes = [Change(ChangeKind.VOTER, node) for node in (4, 5)] + [Change(ChangeKind.REMOVED, n) for n in (1, 2)]
    group.change(3, *changes, transition=raft.Transition.JOINT_EXPLICIT)
    group.stabilise()
    for _ in range(10):
        group.tick(CONFIG.heartbeat_s, [3])
        group.stabilise_among(3, *reached)
    assert group.state(3).commit == 2
    assert reads_at_once(group, 3) == holds


def test_no_lease_before_an_entry_of_the_term_is_committed() -> None:
    group = Group(config=CONFIG)
    group.tick(5.0, [1])
    for _ in range(3):
        group.stabilise(lambda _sender, _to, message: not type(message).__name__.startswith("Append"))
        group.tick(CONFIG.heartbeat_s, [1])
    assert group.state(1).role == "leader"
    effects = group.read_index(1, 7, lease=True)
    assert effects == []
    group.stabilise()
    assert raft.ReadReady(7, 1) in group.effects[1]


def test_no_lease_while_leadership_is_handed_over_nor_in_the_rest_of_the_term() -> None:
    """The target may hear of it at any moment, and elects itself against every promise."""
    group = leased()
    group.transfer(1, 2)
    assert not reads_at_once(group, 1)
    late = [letter for letter in group.mail if type(letter.message).__name__ == "TimeoutNow"]
    group.mail = [letter for letter in group.mail if letter not in late]
    for _ in range(20):
        group.tick(CONFIG.heartbeat_s, [1])
        group.stabilise()
    assert raft.Proposed(2, 1) in group.propose(1, b"a"), "the transfer was given up"
    assert not reads_at_once(group, 1, 8)
    group.mail = late
    group.stabilise_among(2, 3)
    group.propose(1, b"b")
    assert not reads_at_once(group, 1, 9)


def test_a_transfer_that_never_reached_its_target_gives_the_lease_back() -> None:
    group = leased()
    group.propose(1, b"a")
    group.transfer(1, 2)
    assert not reads_at_once(group, 1)
    for _ in range(20):
        group.tick(CONFIG.heartbeat_s, [1])
        group.stabilise_among(1, 3)
    assert reads_at_once(group, 1, 8)


def test_a_change_of_the_membership_ends_the_lease_until_the_next_round() -> None:
    group = leased()
    group.join(4)
    group.change(1, Change(ChangeKind.LEARNER, 4), transition=raft.Transition.SIMPLE)
    assert not reads_at_once(group, 1)
    group.stabilise()
    assert reads_at_once(group, 1, 8)


def test_answers_to_rounds_before_the_change_begin_no_lease() -> None:
    group = leased()
    group.join(4)
    group.tick(CONFIG.heartbeat_s, [1])
    group.deliver(chosen("Heartbeat"))
    group.change(1, Change(ChangeKind.LEARNER, 4), transition=raft.Transition.SIMPLE)
    group.deliver(chosen("HeartbeatReply"))
    assert not reads_at_once(group, 1)


# The follower's side --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre", [True, False])
def test_who_hears_a_leader_grants_no_vote_for_so_long_whatever_it_suspects(*, pre: bool) -> None:
    group = leased()
    group.suspect(2, 1)
    for passed, granted in ((0.99, False), (0.02, True)):
        group.tick(LEASE_S * passed, [])
        group.mail.clear()
        group.give(2, raft.Received(3, VoteRequest(9, 9, 9, pre)))
        replies = [letter.message for letter in group.mail if isinstance(letter.message, VoteReply)]
        assert any(reply.granted for reply in replies) == granted
        assert (group.state(2).term == 9) == (granted and not pre)


def test_who_hears_a_leader_does_not_campaign_for_so_long_whatever_it_suspects() -> None:
    group = leased()
    group.suspect(2, 1)
    until = group.now + LEASE_S
    assert until <= group.nodes[2].next_deadline() <= until + CONFIG.suspicion_s_max
    group.tick(LEASE_S * 0.99, [2])
    assert group.state(2).role == "follower"
    group.tick(LEASE_S * 0.01 + CONFIG.suspicion_s_max, [2])
    assert group.state(2).role == "pre-candidate"


def test_a_process_that_starts_keeps_what_an_earlier_life_may_have_promised() -> None:
    group = leased()
    group.crash(2)
    group.start(2)
    assert group.nodes[2].next_deadline() >= group.now + LEASE_S
    group.give(2, raft.Received(3, VoteRequest(9, 9, 9, False)))
    assert (group.state(2).term, group.state(2).vote) == (1, 1)
    group.tick(LEASE_S * 1.01, [])
    group.give(2, raft.Received(3, VoteRequest(9, 9, 9, False)))
    assert (group.state(2).term, group.state(2).vote) == (9, 3)


def test_a_vote_of_a_later_term_waits_for_the_promise_though_nobody_leads_that_term() -> None:
    """A candidate's term may come here by another way than its request."""
    group = leased()
    group.give(2, raft.Received(3, VoteReply(9, False, False)))
    assert (group.state(2).term, group.state(2).leader) == (9, 0)
    group.mail.clear()
    group.give(2, raft.Received(3, VoteRequest(9, 9, 9, False)))
    assert [letter.message for letter in group.mail] == [VoteReply(9, False, False)]


def test_the_leader_that_hands_over_releases_everyone_from_the_promise() -> None:
    group = leased()
    before = group.now
    group.transfer(1, 2)
    group.stabilise()
    assert (group.state(2).role, group.now) == ("leader", before)


# Both sides: no read is stale -----------------------------------------------------------------------------------------


class Drifting(Group):
    """Clocks at different rates, of which the first is node 1's."""

    rates = (1.0, 1.0)

    def clock(self, node: int) -> Instant:
        """Each node's own."""
        return Instant(1000 * node + self.now * self.rates[node != 1])

    def pass_time(self, seconds: float, *nodes: int) -> None:
        """As `tick`, by each node's own clock."""
        self.now = Instant(self.now + seconds)
        for node in nodes:
            self.give(node, raft.Tick())


@pytest.mark.parametrize("suspicion", [False, True])
@pytest.mark.parametrize("rates", [(1.0, 1.0), (1 - DRIFT, 1.0), (1.0, 1 - DRIFT)])
def test_when_another_may_be_elected_the_lease_is_over(
    rates: tuple[float, float], *, suspicion: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vesoft-inc/nebula#2723, tikv/tikv#964: reads by lease from a leader that was paused or cut off, while another
    one had been elected.

    In every step of a millisecond the followers do what they may at the earliest; the leader's clock may be slower.
    """
    monkeypatch.setattr(Drifting, "rates", rates)
    group = Drifting(3, replace(CONFIG, election_timeout_s_min=LEASE_S, election_timeout_s_max=LEASE_S * 1.2))
    group.elect(1)
    for _ in range(4):
        group.pass_time(CONFIG.heartbeat_s, 1)
        group.stabilise()
    campaigned, served = [], []
    for step in range(700):
        for node in (2, 3) if suspicion else ():
            group.suspect(node, 1)
        group.pass_time(0.001, 2, 3)
        if any(group.state(node).role != "follower" for node in (2, 3)):
            campaigned.append(step)
        group.stabilise_among(2, 3)
        if reads_at_once(group, 1, step):
            served.append(step)
    assert max(served) < min(campaigned)
    assert max(served) > 1000 * COUNTED_S * 0.95, "nor was it over long before"
    assert any(group.nodes[node].is_leader() for node in (2, 3))


def test_a_leader_that_was_paused_serves_nothing_stale() -> None:
    """sofastack/sofa-jraft#34: the process stopped for a while; when it goes on, it believes that it leads."""
    group = leased()
    group.tick(LEASE_S + 0.001, [])
    group.campaign(2)
    group.stabilise_among(2, 3)
    group.propose(2, b"new")
    group.stabilise_among(2, 3)
    assert (group.state(1).role, group.state(2).role, group.applied[2]) == ("leader", "leader", [b"new"])
    assert not reads_at_once(group, 1, 8)
    group.stabilise()
    assert raft.ReadRefused(8, 0) in group.effects[1]


def test_a_lease_outlives_no_vote_that_was_given_before_the_promise() -> None:
    """Node 3 voted for node 2 in term 2, and restarts; it answers no heartbeat of term 1 any more."""
    group = leased()
    group.start(3, log_of(1), HardState(2, 2))
    group.tick(COUNTED_S * 1.01, [1])
    group.stabilise_among(1, 3)
    assert not group.nodes[1].is_leader()


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lease_s": 0.09}, "lease_s must be 0, or between two heartbeats and election_timeout_s_min"),
        ({"lease_s": 0.51}, "lease_s must be 0, or between two heartbeats and election_timeout_s_min"),
        ({"clock_drift_max": 1.0}, "clock_drift_max must be at least 0 and below 1"),
        ({"clock_drift_max": -0.1}, "clock_drift_max must be at least 0 and below 1"),
    ],
)
def test_leases_that_make_no_sense_are_refused(changes: dict[str, float], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(RaftConfig(), **changes).validate()
    assert str(caught.value) == sentence


@pytest.mark.parametrize("lease_s", [0.0, 0.1, 0.5])
def test_leases_that_make_sense(lease_s: float) -> None:
    replace(RaftConfig(), lease_s=lease_s).validate()
