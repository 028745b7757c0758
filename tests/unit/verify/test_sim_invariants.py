"""Each invariant can fail: what no correct cluster does is told apart from what one may do."""

from types import SimpleNamespace
from typing import Any

import pytest

from noctule.base.ids import GroupId
from noctule.core.raft.events import Persist
from noctule.core.raft.log import RaftLog
from noctule.core.raft.messages import Entry
from noctule.verify.sim.invariants import Invariants, SafetyViolation

GROUP = GroupId(1)


def machine(node: int, terms: list[int], *, term: int = 9, commit: int = 0, life: int = 0) -> Any:
    """One whose log has entries of these terms; the data say which, so equal terms mean equal entries."""
    log = RaftLog(entries=[Entry(each, b"%d" % each) for each in terms])
    consensus = SimpleNamespace(log=log, term=term, commit=commit, applied=commit, check=lambda: None)
    replica = SimpleNamespace(raft=consensus, digest=lambda: b"digest")
    return SimpleNamespace(node_id=node, life=life or node, replicas={GROUP: replica})


def changed(invariants: Invariants, each: Any) -> None:
    invariants.changed(each, GROUP, each.replicas[GROUP].raft)


def test_two_leaders_in_a_term_are_a_violation() -> None:
    invariants = Invariants()
    invariants.leader(GROUP, 2, machine(1, []))
    invariants.leader(GROUP, 2, machine(1, []))
    invariants.leader(GROUP, 3, machine(2, []))
    with pytest.raises(SafetyViolation, match="leaders 1 and 2 in term 2"):
        invariants.leader(GROUP, 2, machine(2, []))


def test_a_leader_that_lacks_a_committed_entry_is_a_violation() -> None:
    invariants = Invariants()
    changed(invariants, machine(1, [1, 1], term=1, commit=2))
    invariants.leader(GROUP, 2, machine(2, [1, 1, 1]))
    with pytest.raises(SafetyViolation, match="lacks entry 2, committed in term 1"):
        invariants.leader(GROUP, 3, machine(3, [1]))


def test_a_late_leader_may_lack_what_a_later_one_committed() -> None:
    invariants = Invariants()
    changed(invariants, machine(1, [1], term=1, commit=1))
    changed(invariants, machine(2, [1, 3], term=3, commit=2))
    invariants.leader(GROUP, 2, machine(3, [1, 1]))


def test_entries_of_one_index_and_term_that_differ_are_a_violation() -> None:
    invariants = Invariants()
    invariants.recovered(machine(1, [1, 2]))
    invariants.recovered(machine(2, [1, 2, 2]))
    other = machine(3, [1, 2])
    persist = Persist(None, 2, [Entry(2, b"other")], [], 2, 2)
    with pytest.raises(SafetyViolation, match="nodes 1 and 3 have different logs up to entry 2"):
        invariants.persisted(other, GROUP, persist)


def test_equal_entries_behind_different_ones_are_a_violation() -> None:
    invariants = Invariants()
    invariants.recovered(machine(1, [1, 3]))
    with pytest.raises(SafetyViolation, match="different logs up to entry 2"):
        invariants.recovered(machine(2, [2, 3]))


def test_another_entry_committed_at_an_index_is_a_violation() -> None:
    invariants = Invariants()
    changed(invariants, machine(1, [1, 2], commit=2))
    with pytest.raises(SafetyViolation, match="node 2 committed another entry at 2"):
        changed(invariants, machine(2, [1, 3], commit=2))


@pytest.mark.parametrize(("applied", "commit"), [(2, 1), (1, 3)])
def test_applied_commit_and_last_index_are_in_order(applied: int, commit: int) -> None:
    each = machine(1, [1, 1], commit=commit)
    each.replicas[GROUP].raft.applied = applied
    with pytest.raises(SafetyViolation, match=f"has applied {applied}, committed {commit}"):
        changed(Invariants(), each)


def test_different_states_at_one_applied_index_are_a_violation() -> None:
    invariants = Invariants()
    one, other = machine(1, [1], commit=1), machine(2, [1], commit=1)
    invariants.states({1: one, 2: other})
    other.replicas[GROUP].digest = lambda: b"another"
    with pytest.raises(SafetyViolation, match="nodes 1 and 2 differ at applied index 1"):
        invariants.states({1: one, 2: other})
