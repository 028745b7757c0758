"""Membership arithmetic, its bytes, and how a log keeps the memberships that stand in it."""

import itertools
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.base.errors import InternalError, RequestError, StorageError
from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import (
    MARK,
    Change,
    ChangeKind,
    Membership,
    change_simply,
    check_membership,
    decode_membership,
    encode_membership,
    enter_joint,
    leave_joint,
    readmit,
)
from noctule.core.raft.messages import Entry
from noctule.core.raft.quorum import VoteResult

VOTER, LEARNER, REMOVED = ChangeKind.VOTER, ChangeKind.LEARNER, ChangeKind.REMOVED
THREE = Membership(voters=(1, 2, 3))
ALL = (1, 2, 3, 4, 5)


# Steps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "after"),
    [
        ([(VOTER, 4)], Membership(voters=(1, 2, 3, 4))),
        ([(LEARNER, 4)], Membership(voters=(1, 2, 3), learners=(4,))),
        ([(REMOVED, 2)], Membership(voters=(1, 3))),
        ([(LEARNER, 2)], Membership(voters=(1, 3), learners=(2,))),
        ([(LEARNER, 5), (LEARNER, 4), (REMOVED, 1)], Membership(voters=(2, 3), learners=(4, 5))),
        ([(VOTER, 4), (REMOVED, 4)], THREE),
        ([(REMOVED, 9)], THREE),
        ([], THREE),
    ],
)
def test_a_simple_change(changes: list[tuple[ChangeKind, int]], after: Membership) -> None:
    assert change_simply(THREE, itertools.starmap(Change, changes)) == after


def test_a_learner_becomes_a_voter() -> None:
    assert change_simply(Membership(voters=(1,), learners=(2, 3)), [Change(VOTER, 3)]) == Membership(
        voters=(1, 3), learners=(2,)
    )


def test_through_a_joint_membership_and_out_of_it() -> None:
    joint = enter_joint(THREE, [Change(VOTER, 4), Change(REMOVED, 1), Change(LEARNER, 5)], auto_leave=True)
    assert joint == Membership(voters=(2, 3, 4), outgoing=(1, 2, 3), learners=(5,), auto_leave=True)
    assert joint.members() == ALL
    assert leave_joint(joint) == Membership(voters=(2, 3, 4), learners=(5,))


def test_a_voter_becomes_a_learner_only_when_its_half_is_left() -> None:
    joint = enter_joint(THREE, [Change(LEARNER, 3), Change(VOTER, 4)], auto_leave=False)
    assert joint == Membership(voters=(1, 2, 4), outgoing=(1, 2, 3), learners_next=(3,))
    assert (joint.is_voter(3), joint.members()) == (True, (1, 2, 3, 4))
    assert leave_joint(joint) == Membership(voters=(1, 2, 4), learners=(3,))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (THREE, Membership(voters=(1, 2), learners=(3,), returning=(3,), directories=((3, 7),))),
        (  # Its disk was lost again, before it was a voter again.
            Membership(voters=(1, 2), learners=(3,), returning=(3,), directories=((2, 5), (3, 6))),
            Membership(voters=(1, 2), learners=(3,), returning=(3,), directories=((2, 5), (3, 7))),
        ),
        (  # It had no voice before and gets none.
            Membership(voters=(1, 2), learners=(3, 4), returning=(4,), directories=((4, 5),)),
            Membership(voters=(1, 2), learners=(3, 4), returning=(4,), directories=((3, 7), (4, 5))),
        ),
    ],
)
def test_a_member_that_lost_its_disk_is_readmitted_as_a_learner(before: Membership, after: Membership) -> None:
    assert readmit(before, 3, 7) == after
    assert after.directory_of(3) == 7
    assert after.directory_of(1) == 0


def test_a_directory_is_remembered_when_its_node_is_removed() -> None:
    """Else what the lost directory had promised would count again, once the node is added again."""
    back = change_simply(readmit(THREE, 3, 7), [Change(VOTER, 3)])
    removed = change_simply(back, [Change(REMOVED, 3)])
    assert removed == Membership(voters=(1, 2), directories=((3, 7),))
    assert change_simply(removed, [Change(VOTER, 3)]).directory_of(3) == 7


@pytest.mark.parametrize("kind", list(ChangeKind))
def test_whoever_is_told_what_becomes_of_it_does_not_return_by_itself(kind: ChangeKind) -> None:
    assert change_simply(readmit(THREE, 3, 7), [Change(kind, 3)]).returning == ()


# Refusals -------------------------------------------------------------------------------------------------------------

JOINT = enter_joint(THREE, [Change(VOTER, 4)], auto_leave=False)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([Change(VOTER, 4), Change(VOTER, 5)], "nodes 4, 5 cannot change their vote in one simple step"),
        ([Change(VOTER, 4), Change(REMOVED, 1)], "nodes 1, 4 cannot change their vote in one simple step"),
        ([Change(LEARNER, 1), Change(REMOVED, 2)], "nodes 1, 2 cannot change their vote in one simple step"),
        ([Change(REMOVED, node) for node in (1, 2, 3)], "a group without voters could never change again"),
        ([Change(VOTER, 0)], "0 is no node: ids begin at 1"),
    ],
)
def test_a_simple_change_is_refused_with_a_sentence(changes: list[Change], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        change_simply(THREE, changes)


def test_the_other_refusals_with_their_sentences() -> None:
    with pytest.raises(RequestError, match="the group is joint: leave that membership first"):
        change_simply(JOINT, [Change(LEARNER, 9)])
    with pytest.raises(RequestError, match="the group is joint already: leave that membership first"):
        enter_joint(JOINT, [Change(LEARNER, 9)], auto_leave=True)
    with pytest.raises(RequestError, match="a group without voters could never change again"):
        enter_joint(Membership(voters=(1,)), [Change(LEARNER, 1)], auto_leave=True)
    with pytest.raises(RequestError, match="the group is not joint: there is nothing to leave"):
        leave_joint(THREE)
    with pytest.raises(RequestError, match="node 9 is no member"):
        readmit(THREE, 9, 7)
    with pytest.raises(RequestError, match="the group is joint"):
        readmit(JOINT, 3, 7)
    with pytest.raises(RequestError, match="a group without voters"):
        readmit(Membership(voters=(3,)), 3, 7)


@pytest.mark.parametrize(
    "broken",
    [
        Membership(voters=(1, 2), learners=(2,)),
        Membership(voters=(1,), outgoing=(1, 2), learners=(2,)),
        Membership(voters=(1,), outgoing=(1,), learners_next=(2,)),
        Membership(voters=(1, 2), outgoing=(1, 2), learners_next=(2,)),
        Membership(voters=(1, 2), returning=(2,)),
        Membership(voters=(1, 2), auto_leave=True),
    ],
)
def test_parts_that_do_not_fit_each_other_are_a_bug(broken: Membership) -> None:
    with pytest.raises(InternalError):
        check_membership(broken)


# Overlap --------------------------------------------------------------------------------------------------------------


def subsets(of: tuple[int, ...] = ALL) -> Iterator[tuple[int, ...]]:
    return itertools.chain.from_iterable(itertools.combinations(of, size) for size in range(len(of) + 1))


def overlap(one: Membership, other: Membership) -> bool:
    """Whether no majority of one can be found among those whom a majority of the other leaves out."""

    def wins(membership: Membership, nodes: set[int]) -> bool:
        return membership.vote_result(dict.fromkeys(nodes, True)) is VoteResult.WON

    return not any(wins(one, set(some)) and wins(other, set(ALL) - set(some)) for some in subsets())


def test_disjoint_majorities_are_told_from_others() -> None:
    assert overlap(THREE, Membership(voters=(1, 2, 3, 4)))
    assert not overlap(THREE, Membership(voters=ALL))
    assert not overlap(Membership(voters=(1,)), Membership(voters=(2,)))


@pytest.mark.parametrize("voters", [voters for voters in subsets() if voters])
def test_majorities_overlap_across_every_step_of_up_to_five_nodes(voters: tuple[int, ...]) -> None:
    """Thesis 4.1 and 4.3: all that keeps two leaders from deciding apart while the membership changes."""
    before = Membership(voters=voters, learners=tuple(node for node in ALL if node not in voters and node % 2))
    check_membership(before)
    for node, kind in itertools.product(ALL, ChangeKind):
        try:
            after = change_simply(before, [Change(kind, node)])
        except RequestError:
            assert voters == (node,)
            continue
        check_membership(after)
        assert overlap(before, after)
    for wanted in (wanted for wanted in subsets() if wanted):
        changes = [Change(VOTER if node in wanted else LEARNER if node == 5 else REMOVED, node) for node in ALL]
        joint = enter_joint(before, changes, auto_leave=True)
        after = leave_joint(joint)
        check_membership(joint)
        check_membership(after)
        assert (joint.voters, joint.outgoing, after.voters) == (wanted, voters, wanted)
        assert overlap(before, joint)
        assert overlap(joint, after)
    for node in voters if len(voters) > 1 else ():
        without = readmit(before, node, 7)
        check_membership(without)
        assert overlap(before, without)
        assert overlap(without, change_simply(without, [Change(VOTER, node)]))


changes_of_any_kind = st.lists(st.builds(Change, st.sampled_from(list(ChangeKind)), st.integers(1, 6)), max_size=3)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["simple", "joint", "leave", "readmit"]), changes_of_any_kind), max_size=12))
def test_whatever_steps_are_taken_the_parts_fit_and_nobody_is_named_twice(
    steps: list[tuple[str, list[Change]]],
) -> None:
    membership = THREE
    for directory, (step, changes) in enumerate(steps, 1):
        try:
            match step:
                case "simple":
                    membership = change_simply(membership, changes)
                case "joint":
                    membership = enter_joint(membership, changes, auto_leave=directory % 2 == 0)
                case "leave":
                    membership = leave_joint(membership)
                case _:
                    membership = readmit(membership, changes[0].node if changes else 1, directory)
        except RequestError:
            continue
        check_membership(membership)
        assert membership.voters
        for part in (membership.voters, membership.outgoing, membership.learners, membership.members()):
            assert list(part) == sorted(set(part))
        named = [node for node, _ in membership.directories]
        assert named == sorted(set(named))


# Bytes ----------------------------------------------------------------------------------------------------------------

ids = st.lists(st.integers(1, 1 << 40), max_size=5).map(tuple)
memberships = st.builds(
    Membership, ids, ids, ids, ids, ids, st.booleans(), st.lists(st.tuples(ids.map(len), ids.map(len))).map(tuple)
)


@settings(derandomize=True, deadline=None)
@given(memberships)
def test_bytes_and_back(membership: Membership) -> None:
    data = encode_membership(membership)
    assert data[:1] == MARK
    assert decode_membership(data) == membership


@settings(derandomize=True, deadline=None)
@given(st.one_of(st.none(), st.booleans(), st.integers(0, 9), st.text(), st.binary(), st.lists(st.integers(0, 9))))
def test_no_message_pack_value_looks_like_a_membership(value: object) -> None:
    """What a replica proposes is MessagePack, and must never be taken for a change of the membership."""
    assert msgspec.msgpack.encode(value)[:1] != MARK


GOOD = encode_membership(THREE)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(MARK, id="only the mark"),
        pytest.param(GOOD[1:], id="no mark"),
        pytest.param(GOOD[:-1], id="cut short"),
        pytest.param(GOOD + b"x", id="too long"),
        pytest.param(MARK + msgspec.msgpack.encode(["1"]), id="text for voters"),
        pytest.param(MARK + msgspec.msgpack.encode({"voters": [1]}), id="a map"),
        pytest.param(MARK + b"\xc1", id="no MessagePack"),
    ],
)
def test_bytes_that_hold_no_membership_are_an_error_of_the_storage(bad: bytes) -> None:
    with pytest.raises(StorageError, match="membership"):
        decode_membership(bad)


# In the log -----------------------------------------------------------------------------------------------------------

FOUR = Membership(voters=(1, 2, 3, 4))
FIVE = Membership(voters=ALL)


def entry(membership: Membership | None = None, term: int = 1) -> Entry:
    return Entry(term, encode_membership(membership) if membership is not None else b"data")


@pytest.fixture
def log() -> RaftLog:
    """Index 2 holds `FOUR`, index 4 `FIVE`; `THREE` held before."""
    return RaftLog(entries=[entry(), entry(FOUR), entry(), entry(FIVE), entry()], membership=THREE)


def test_the_newest_membership_in_the_log_is_in_force(log: RaftLog) -> None:
    assert (log.membership, log.membership_index) == (FIVE, 4)
    log.append([entry(), entry(THREE)])
    assert (log.membership, log.membership_index) == (THREE, 7)
    assert [log.membership_at(index) for index in range(1, 8)] == [THREE, FOUR, FOUR, FIVE, FIVE, FIVE, THREE]
    assert log.memberships_between(2, 4) == [(2, FOUR), (4, FIVE)]


@pytest.mark.parametrize(("index", "left", "at"), [(5, FIVE, 4), (4, FOUR, 2), (3, FOUR, 2), (2, THREE, 0)])
def test_cutting_the_log_takes_memberships_back(log: RaftLog, index: int, left: Membership, at: int) -> None:
    log.truncate_from(index)
    assert (log.membership, log.membership_index) == (left, at)


@pytest.mark.parametrize("index", [1, 2, 3, 4, 5])
def test_compacting_keeps_the_one_that_holds_where_the_log_begins(log: RaftLog, index: int) -> None:
    expected = [log.membership_at(at) for at in range(index, 6)]
    log.compact(index)
    assert [log.membership_at(at) for at in range(index, 6)] == expected
    assert log.membership == FIVE
    if index < 5:
        log.truncate_from(index + 1)
    assert log.membership == expected[0]


def test_a_received_snapshot_takes_the_place_of_all(log: RaftLog) -> None:
    log.reset(9, 3, THREE)
    assert (log.membership, log.membership_index, log.memberships_between(1, 9)) == (THREE, 9, [(9, THREE)])


@pytest.mark.parametrize(("applied", "committed"), [(0, FOUR), (2, FOUR), (3, FOUR), (4, FIVE), (5, FIVE)])
def test_a_membership_is_committed_when_applied_or_followed_by_another(
    log: RaftLog, applied: int, committed: Membership
) -> None:
    assert log.committed_membership(applied) == committed


def test_the_first_membership_needs_no_commit() -> None:
    assert RaftLog(entries=[entry()], membership=THREE).committed_membership(0) == THREE


@pytest.mark.parametrize(("covered", "known"), [(2, FOUR), (3, FOUR), (4, FIVE)])
def test_after_a_restart_snapshot_and_log_tell_the_membership(covered: int, known: Membership) -> None:
    """The log may begin before its snapshot ends: what stands there is older than the snapshot's."""
    kept = [entry(FOUR), entry(), entry(FIVE), entry()]
    log = RaftLog(1, 1, kept, membership=known, membership_index=covered)
    assert log.membership == FIVE
    assert [at for at, _ in log.memberships_between(0, 9)] == sorted({covered, 4})
    log.truncate_from(covered + 1)
    assert log.membership == known
