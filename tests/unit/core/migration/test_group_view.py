"""What a leader sees of its own group."""

from noctule.core.migration.group_view import view_group
from noctule.core.raft import events as raft
from noctule.core.raft.membership import Change, ChangeKind
from noctule.verify.sim.driving import Group, chosen


def test_only_a_leader_has_a_view() -> None:
    group = Group()
    group.elect(1)
    assert view_group(group.nodes[2], group.now) is None
    view = view_group(group.nodes[1], group.now)
    assert view is not None
    assert (view.node, view.term, view.commit, view.match) == (1, 1, 1, {2: 1, 3: 1})
    assert view.is_committed
    assert all(seconds <= 0.5 for seconds in view.heard_s.values())


def test_a_change_on_its_way_is_not_committed() -> None:
    group = Group()
    group.elect(1)
    group.change(1, Change(ChangeKind.LEARNER, 4), transition=raft.Transition.SIMPLE)
    view = view_group(group.nodes[1], group.now)
    assert view is not None
    assert (view.is_committed, view.membership.learners) == (False, (4,))


def test_nothing_is_committed_before_something_of_this_term_is() -> None:
    """An earlier leader's change may be in another log, and come back if that one leads next."""
    group = Group()
    group.elect(1)
    group.tick(2.0, [2])
    group.deliver(chosen("VoteRequest"))
    group.deliver(chosen("VoteReply"))
    group.deliver(chosen("VoteRequest"))
    group.deliver(chosen("VoteReply"))
    view = view_group(group.nodes[2], group.now)
    assert view is not None
    assert not view.is_committed


def test_a_snapshot_on_its_way_is_told_in_bytes() -> None:
    group = Group()
    group.elect(1)
    group.propose(1, b"some data, and more of it than one chunk holds")
    group.stabilise()
    group.compact(1)
    group.join(4)
    group.change(1, Change(ChangeKind.LEARNER, 4), transition=raft.Transition.SIMPLE)
    seen = []
    for _ in range(20):
        view = view_group(group.nodes[1], group.now, target=4)
        assert view is not None
        seen.append((view.snapshot_bytes_sent, view.snapshot_bytes))
        group.deliver()
    on_its_way = [(sent, total) for sent, total in seen if total]
    assert on_its_way == sorted(on_its_way)
    assert all(0 <= sent <= total for sent, total in on_its_way)
    assert on_its_way
    assert seen[0] == seen[-1] == (0, 0)
