"""Majorities: tables of cases, and what must hold for any."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.core.raft.membership import Membership
from noctule.core.raft.quorum import VoteResult, committed_index, majority, vote_result

WON, LOST, PENDING = VoteResult.WON, VoteResult.LOST, VoteResult.PENDING

nodes = st.integers(1, 7)
halves = st.sets(nodes, max_size=5).map(lambda half: tuple(sorted(half)))
indexes = st.dictionaries(nodes, st.integers(0, 9))
votes = st.dictionaries(nodes, st.booleans())


@pytest.mark.parametrize(("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_a_majority_is_more_than_half(voters: int, needed: int) -> None:
    assert majority(voters) == needed


@pytest.mark.parametrize(
    ("matched", "index"),
    [
        ([], 0),
        ([7], 7),
        ([7, 3], 3),
        ([7, 3, 0], 3),
        ([5, 5, 5], 5),
        ([9, 7, 3, 1], 3),
        ([9, 9, 9, 1], 9),
        ([9, 7, 5, 3, 1], 5),
        ([9, 9, 0, 0, 0], 0),
    ],
)
def test_what_a_majority_has_is_committed(matched: list[int], index: int) -> None:
    for order in itertools.permutations(matched):
        assert committed_index(range(len(order)), dict(enumerate(order))) == index


@pytest.mark.parametrize(
    ("voters", "answers", "result"),
    [
        ((), {}, LOST),  # A node that knows no membership yet elects nobody.
        ((1,), {}, PENDING),
        ((1,), {1: True}, WON),
        ((1,), {1: False}, LOST),
        ((1, 2), {1: True}, PENDING),
        ((1, 2), {1: True, 2: False}, LOST),
        ((1, 2, 3), {1: True, 2: True}, WON),
        ((1, 2, 3), {1: True, 2: False}, PENDING),
        ((1, 2, 3), {2: False, 3: False}, LOST),
        ((1, 2, 3), {1: True, 8: True, 9: True}, PENDING),  # Strangers have no vote.
        ((1, 2, 3, 4), {1: True, 2: True}, PENDING),
        ((1, 2, 3, 4), {3: False, 4: False}, LOST),
    ],
)
def test_votes_win_lose_or_decide_nothing_yet(
    voters: tuple[int, ...], answers: dict[int, bool], result: VoteResult
) -> None:
    assert vote_result(voters, answers) is result


@pytest.mark.parametrize(
    ("voters", "outgoing", "answers", "result"),
    [
        ((1, 2, 3), (), {1: True, 2: True}, WON),
        ((1, 2, 4), (1, 2, 3), {1: True, 2: True}, WON),
        ((3, 4, 5), (1, 2, 3), {3: True, 4: True, 5: True}, PENDING),
        ((3, 4, 5), (1, 2, 3), {1: True, 2: True, 3: True}, PENDING),
        ((3, 4, 5), (1, 2, 3), {1: False, 2: False, 3: True, 4: True, 5: True}, LOST),
        ((3, 4, 5), (1, 2, 3), {1: True, 3: True, 4: True}, WON),
        ((2,), (1,), {2: True}, PENDING),
        ((2,), (1,), {1: True, 2: True}, WON),
        ((2,), (1,), {1: True, 2: False}, LOST),
    ],
)
def test_a_joint_membership_needs_both_halves(
    voters: tuple[int, ...], outgoing: tuple[int, ...], answers: dict[int, bool], result: VoteResult
) -> None:
    """Thesis 4.3: elections and commitment need “majorities from both the old and new configurations.”"""
    membership = Membership(voters=voters, outgoing=outgoing)
    assert membership.vote_result(answers) is result
    matched = {node: 5 for node, granted in answers.items() if granted}
    assert membership.committed_index(matched) == (5 if result is WON else 0)


@settings(derandomize=True, deadline=None)
@given(voters=halves.filter(bool), outgoing=halves, matched=indexes)
def test_exactly_what_a_quorum_has_is_committed(
    voters: tuple[int, ...], outgoing: tuple[int, ...], matched: dict[int, int]
) -> None:
    membership = Membership(voters=voters, outgoing=outgoing)
    committed = membership.committed_index(matched)
    for index in range(1, 10):
        have_it = {node: at >= index for node, at in matched.items()}
        assert (membership.vote_result(have_it) is WON) == (index <= committed)


@settings(derandomize=True, deadline=None)
@given(voters=halves, outgoing=halves, answers=votes, late=nodes, granted=st.booleans())
def test_a_vote_that_comes_late_takes_no_decision_back(
    voters: tuple[int, ...], outgoing: tuple[int, ...], answers: dict[int, bool], late: int, *, granted: bool
) -> None:
    membership = Membership(voters=voters, outgoing=outgoing)
    before = membership.vote_result(answers)
    after = membership.vote_result({late: granted, **answers})
    assert before is PENDING or after is before


@settings(derandomize=True, deadline=None)
@given(voters=halves, outgoing=halves, answers=votes)
def test_learners_and_strangers_change_nothing(
    voters: tuple[int, ...], outgoing: tuple[int, ...], answers: dict[int, bool]
) -> None:
    membership = Membership(voters=voters, outgoing=outgoing, learners=(8, 9))
    for granted in (True, False):
        assert membership.vote_result({**answers, 8: granted, 9: granted}) is membership.vote_result(answers)
    matched = {node: 1 for node, granted in answers.items() if granted}
    assert membership.committed_index({**matched, 8: 7, 9: 7}) == membership.committed_index(matched)
