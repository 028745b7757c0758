"""Who votes in *meta*, and what the leader of *meta* sees of the partitions."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from noctule.base.ids import GroupId
from noctule.core.meta.operations import BeginMigration, BeginSplit, ChangeSettings
from noctule.core.meta.settings import ClusterSettings
from noctule.core.placement.splits import PartitionLoad
from noctule.core.raft.membership import Change, ChangeKind, Membership, change_simply
from noctule.core.roster.loads import GroupLoad, LoadBoard, LoadReport
from noctule.core.roster.members import PRESENT, MemberState
from noctule.node.governor import META_VOTERS_MAX, limits_of, loads_of, next_change
from tests.unit.core.meta.formed import ask, formed

ACTIVE, DRAINING, LEFT, REMOVED = MemberState
VOTER, LEARNER, OUT = ChangeKind
States = dict[int, MemberState]


def active(count: int) -> States:
    return dict.fromkeys(range(1, count + 1), ACTIVE)


def settle(before: Membership, states: States, reliable: set[int], leader: int = 1) -> Membership:
    """The membership when nothing is left to change."""
    membership = before
    for _ in range(4 * len(states) + 8):
        change = next_change(membership, states, reliable=reliable, leader=leader)
        if change is None:
            return membership
        membership = change_simply(membership, [change])
    raise AssertionError(f"no end from {before} with {states} and {reliable}: {membership}")


@pytest.mark.parametrize(("members", "voters"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (6, 5), (7, 5), (40, 5)])
def test_so_many_of_so_many_members_vote_and_the_others_learn(members: int, voters: int) -> None:
    """An even number bears no more losses than the odd one below it; of two, one would be lost with the other."""
    after = settle(Membership(voters=(1,)), active(members), reliable=set(active(members)))
    assert after.voters == tuple(range(1, voters + 1))
    assert after.learners == tuple(range(voters + 1, members + 1))


def test_who_comes_learns_first_and_votes_once_it_has_caught_up() -> None:
    states = active(3)
    before = Membership(voters=(1, 2))
    assert next_change(before, states, reliable={1, 2}, leader=1) == Change(LEARNER, 3)
    learning = Membership(voters=(1, 2), learners=(3,))
    assert next_change(learning, states, reliable={1, 2}, leader=1) is None
    assert next_change(learning, states, reliable={1, 2, 3}, leader=1) == Change(VOTER, 3)


def test_a_dead_voter_is_replaced_before_it_is_taken_back() -> None:
    """The other way round a group of three would for a moment be one of two with no loss to spare."""
    membership, states, alive = Membership(voters=(1, 2, 3), learners=(4,)), active(4), {1, 2, 4}
    assert next_change(membership, states, reliable=alive, leader=1) == Change(VOTER, 4)
    replaced = Membership(voters=(1, 2, 3, 4))
    assert next_change(replaced, states, reliable=alive, leader=1) == Change(LEARNER, 3)
    assert next_change(Membership(voters=(1, 2, 4), learners=(3,)), states, reliable={1, 2, 3, 4}, leader=1) is None


def test_a_dead_voter_that_nobody_replaces_stays() -> None:
    assert next_change(Membership(voters=(1, 2, 3)), active(3), reliable={1, 2}, leader=1) is None


def test_who_drains_hands_its_vote_over_and_keeps_learning() -> None:
    states = active(4) | {2: DRAINING}
    after = settle(Membership(voters=(1, 2, 3), learners=(4,)), states, reliable=set(states))
    assert (after.voters, after.learners) == ((1, 3, 4), (2,))


@pytest.mark.parametrize("state", [LEFT, REMOVED])
def test_who_is_no_member_any_more_is_out_voter_or_learner(state: MemberState) -> None:
    states = active(5) | {3: state, 5: state}
    after = settle(Membership(voters=(1, 2, 3), learners=(4, 5)), states, reliable={1, 2, 4})
    assert (after.voters, after.learners) == ((1, 2, 4), ())


def test_a_leader_that_drains_gives_up_its_own_vote_last_of_all() -> None:
    states = active(3) | {1: DRAINING}
    assert settle(Membership(voters=(1, 2, 3)), states, reliable={1, 2, 3}).voters == (2, 3)
    alone = {1: DRAINING}
    assert settle(Membership(voters=(1,)), alone, reliable={1}).voters == (1,)


def test_a_vote_is_not_taken_from_whom_the_majority_needs() -> None:
    """Nodes 1 and 3 are the majority of three; without 3's vote, node 1 could do nothing until 2 comes back."""
    states = active(2) | {3: DRAINING}
    assert next_change(Membership(voters=(1, 2, 3)), states, reliable={1, 3}, leader=1) is None
    assert next_change(Membership(voters=(1, 2, 3)), states, reliable={1, 2, 3}, leader=1) == Change(LEARNER, 3)


def test_too_many_voters_are_taken_back_the_newest_first_but_not_the_leader() -> None:
    membership = Membership(voters=(1, 2, 3, 4))
    assert next_change(membership, active(4), reliable={1, 2, 3, 4}, leader=4) == Change(LEARNER, 3)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Membership, States, set[int], int]:
    """Any membership, any states, and a leader that a majority of reliable voters can follow."""
    nodes = range(1, draw(st.integers(1, 9)) + 1)
    states = {node: draw(st.sampled_from(MemberState)) for node in nodes}
    voters = draw(st.sets(st.sampled_from(nodes), min_size=1))
    learners = draw(st.sets(st.sampled_from(nodes))) - voters
    leader = draw(st.sampled_from(sorted(voters)))
    reliable = draw(st.sets(st.sampled_from(nodes))) | {leader}
    assume(2 * len(voters & reliable) > len(voters))
    return Membership(voters=tuple(sorted(voters)), learners=tuple(sorted(learners))), states, reliable, leader


@given(situations())
def test_it_comes_to_an_end_and_a_majority_of_the_voters_is_there_all_the_way(
    situation: tuple[Membership, States, set[int], int],
) -> None:
    membership, states, reliable, leader = situation
    for _ in range(40):
        change = next_change(membership, states, reliable=reliable, leader=leader)
        if change is None:
            break
        after = change_simply(membership, [change])
        assert after != membership
        made = set(after.voters) - set(membership.voters)
        assert all(node in reliable and states[node] is ACTIVE for node in made)
        assert 2 * len(set(after.voters) & reliable) > len(after.voters), f"{change} of {membership}"
        membership = after
    else:
        raise AssertionError("it never ends")
    present = {node for node, state in states.items() if state in PRESENT}
    assert present <= set(membership.members())
    assert not set(membership.learners) - present
    if present <= reliable and any(states[node] is ACTIVE for node in present):
        # Nobody is missing: then those who vote are as many as should, and all of them active.
        actives = sum(states[node] is ACTIVE for node in present)
        wanted = min(actives, META_VOTERS_MAX)
        assert len(membership.voters) == (wanted - 1 if wanted in (4,) else wanted)
        assert all(states[node] is ACTIVE for node in membership.voters)


# What partitions bear -------------------------------------------------------------------------------------------------


def test_loads_are_in_the_order_of_slots_and_nobody_s_word_is_none() -> None:
    state, board = formed(), LoadBoard()
    child = ask(state, BeginSplit(1, 2_000))
    ask(state, BeginMigration(4, 4, 2))
    board.take(3, LoadReport([GroupLoad(2, 1, bytes_used=500, requests_per_s=20)]))
    assert child == 5
    assert loads_of(state, board) == [
        PartitionLoad(1, 0, 4_095, 0, 0.0, has_operation=True),
        PartitionLoad(2, 4_096, 8_191, 500, 20),
        PartitionLoad(3, 8_192, 12_287, 0, 0.0),
        PartitionLoad(4, 12_288, 16_383, 0, 0.0, has_operation=True),
    ]


def test_a_limit_of_zero_is_none_and_without_merges_there_are_never_fewer_partitions() -> None:
    limits = limits_of(ClusterSettings(split_bytes=0, split_requests_per_s=0), 12)
    assert (limits.bytes_max > 1 << 60, limits.requests_per_s_max, limits.partitions_min) == (True, float("inf"), 12)
    limits = limits_of(ClusterSettings(split_bytes=7, split_requests_per_s=8, merge_enabled=True, merge_bytes=9), 12)
    assert (limits.bytes_max, limits.requests_per_s_max, limits.merge_bytes_max) == (7, 8, 9)
    assert limits.partitions_min == 1


def test_the_limits_are_those_that_the_cluster_has_now() -> None:
    state = formed()
    ask(state, ChangeSettings({"split_after_s": 5.0, "partitions_max": 6}))
    limits = limits_of(state.settings, len(state.map))
    assert (limits.over_for_s, limits.partitions_max) == (5.0, 6)
    assert state.map.get(GroupId(1)) is not None
