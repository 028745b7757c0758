"""The driving interface itself: what it keeps, what it refuses, and that its checks can fail."""

from collections.abc import Callable

import pytest

from noctule.base.errors import InternalError, RequestError
from noctule.core.raft import events as raft
from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import Membership
from noctule.core.raft.messages import Append, Entry, HardState
from noctule.verify.sim.driving import Crashed, Delivered, Group, Lost, PeerState, chosen, log_of
from noctule.verify.sim.driving_disk import HandDisk
from noctule.verify.sim.invariants import SafetyViolation


def persist(first_index: int, entries: list[Entry]) -> raft.Persist:
    return raft.Persist(None, first_index, entries, [], 0, 0)


def test_the_same_seed_makes_the_same_journal() -> None:
    def journal(seed: int) -> list[object]:
        group = Group(5, seed=seed)
        for _ in range(30):
            group.tick(0.1)
            group.stabilise()
        return list(group.journal)

    assert journal(1) == journal(1)
    assert journal(1) != journal(2)


def test_two_leaders_of_a_term_are_found() -> None:
    """As when every disk forgets its term and vote (bakwc/PySyncObj#202)."""
    group = Group()
    group.elect(1)
    for node in (1, 2, 3):
        group.crash(node)
        group.disk[node].hard_state = HardState()
        group.disk[node].entries = []
        group.start(node)
    with pytest.raises(SafetyViolation, match="nodes 1 and 2 both lead in term 1"):
        group.elect(2)


def test_another_entry_committed_at_an_index_is_found() -> None:
    group = Group()
    group.elect(1)
    group.crash(2)
    group.start(2, RaftLog(entries=[Entry(1, b"forged")]))
    with pytest.raises(SafetyViolation, match=r"node 2 commits .* at 1"):
        group.give(2, raft.Received(1, Append(1, 1, 1, 1, [])))


def test_a_hole_in_the_log_on_disk_is_found() -> None:
    disk = HandDisk(Membership(voters=(1,)))
    disk.keep(persist(1, [Entry(1, b"a")]))
    with pytest.raises(InternalError, match="no hole"):
        disk.keep(persist(3, [Entry(1, b"c")]))


def test_what_was_not_synced_is_lost_and_what_was_is_not() -> None:
    group = Group()
    group.elect(1)
    group.hold(1)
    group.propose(1, b"a")
    group.sync(1)
    group.propose(1, b"b")
    group.crash(1)
    assert group.journal[-1] == Crashed(1, 1)
    group.start(1)
    assert (group.terms(1), group.disk[1].entries[-1]) == ([1, 1], Entry(1, b"a"))


def test_letters_are_delivered_dropped_and_doubled_as_chosen() -> None:
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    assert [(letter.sender, letter.to) for letter in group.mail] == [(1, 2), (1, 3)]
    assert group.double(chosen("Append", to=2)) == 1
    assert group.drop(chosen(to=3)) == 1
    assert isinstance(group.journal[-1], Lost)
    assert group.drop(chosen("Heartbeat")) == 0
    assert group.deliver(chosen(sender=1)) == 2
    assert [letter.to for letter in group.mail] == [1, 1]
    assert sum(isinstance(happening, Delivered) and happening.letter.to == 3 for happening in group.journal) > 0


def test_letters_to_a_node_that_is_down_are_lost() -> None:
    group = Group()
    group.elect(1)
    group.crash(3)
    group.propose(1, b"a")
    group.stabilise()
    assert [happening.reason for happening in group.journal if isinstance(happening, Lost)] == ["the receiver is down"]
    assert group.applied[1] == [b"a"]


def test_state_is_plain_values() -> None:
    group = Group((4, 7))
    group.start(7, log_of(1, 1))
    group.elect(7)
    state = group.state(7)
    assert (state.role, state.term, state.vote, state.leader, state.commit) == ("leader", 2, 7, 7, 3)
    assert state.log_terms == (1, 1, 2)
    assert state.peers == {4: PeerState("replicate", 3, 4, 0)}
    assert group.state(4).peers == {}


def test_a_group_that_never_rests_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()
    group.elect(1)
    monkeypatch.setattr("noctule.verify.sim.driving.ROUNDS_MAX", 4)

    def while_time_passes(_sender: int, _to: int, _message: object) -> bool:
        group.tick(group.config.heartbeat_s, [1])
        return True

    group.tick(group.config.heartbeat_s, [1])
    with pytest.raises(SafetyViolation, match="does not come to rest in 4 rounds"):
        group.stabilise(while_time_passes)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda group: group.crash(9), "node 9 is not in the group: its members are 1, 2, 3"),
        (lambda group: group.transfer(1, 9), "node 9 is not in the group"),
        (lambda group: group.propose(3, b"a"), "node 3 is down: start it first"),
        (lambda group: group.campaign(1), "node 1 leads already"),
        (lambda group: group.compact(1, 5), "node 1 cannot compact to 5: it has applied 1"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(act: Callable[[Group], object], sentence: str) -> None:
    group = Group()
    group.elect(1)
    group.crash(3)
    happened = len(group.journal)
    with pytest.raises(RequestError, match=sentence):
        act(group)
    assert len(group.journal) == happened
