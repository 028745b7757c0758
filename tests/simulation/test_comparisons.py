"""Leaders find replicas that differ by the way they have in production, where nobody else looks."""

import pytest

from noctule.core.replica.replica import Replica
from noctule.verify.sim.invariants import Invariants, SafetyViolation
from noctule.verify.sim.run import world_of

ODD = 2
COMPARING = range(1, 40, 2)
"""Leaders compare in the worlds of odd seeds."""


def test_a_replica_that_differs_is_found_by_its_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """One node's replicas take every stamp for a millisecond later; no client would notice that."""
    apply = Replica._apply

    def apply_late(self: Replica, index: int, term: int, data: bytes) -> None:
        apply(self, index, term, data)
        self.stamp_ms += self.raft.node_id == ODD

    monkeypatch.setattr(Replica, "_apply", apply_late)
    monkeypatch.setattr(Invariants, "digested", lambda *_: None)
    monkeypatch.setattr(Invariants, "_check_state", lambda *_: None)

    def compare() -> None:
        for seed in COMPARING:
            world_of(seed).run(fault_names=("crash_for_a_while",))

    with pytest.raises(SafetyViolation, match=r"finds that \(2,\) differ from"):
        compare()
