"""Leaders find replicas that differ by the way they have in production, where nobody else looks."""

from collections.abc import Sequence

import pytest

from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import Reply
from noctule.verify.sim.invariants import Invariants, SafetyViolation
from noctule.verify.sim.machine import Machine
from noctule.verify.sim.run import world_of
from tests.simulation.planted import known_first

SEEDS_TO_FIND_MAX = 20
COMPARING = range(1, 2 * SEEDS_TO_FIND_MAX, 2)
"""Leaders compare in the worlds of odd seeds."""


def plant_divergence(monkeypatch: pytest.MonkeyPatch, node: int) -> None:
    """This node's replicas put something else under each key that is SET."""
    wrong: set[int] = set()
    turn = Machine._turn
    execute = Keyspace.execute

    def noting(self: Machine) -> None:
        if self.node_id == node:
            wrong.clear()
            wrong.update(id(replica.keyspace) for replica in self.replicas.values())
        turn(self)

    def executed(self: Keyspace, args: Sequence[bytes], now_ms: int) -> Reply:
        if id(self) in wrong and args[0] == b"SET":
            args = [args[0], args[1], args[2] + b"!", *args[3:]]
        return execute(self, list(args), now_ms)

    monkeypatch.setattr(Machine, "_turn", noting)
    monkeypatch.setattr(Keyspace, "execute", executed)


def test_replicas_that_differ_are_found_by_their_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_divergence(monkeypatch, node=2)
    monkeypatch.setattr(Invariants, "digested", lambda *_: None)
    monkeypatch.setattr(Invariants, "_check_state", lambda *_: None)
    for seed in known_first(1, len(COMPARING)):
        try:
            world_of(seed).run(fault_names=("crash_for_a_while",))
        except SafetyViolation as violation:
            assert "differ from" in str(violation)
            return
    pytest.fail(f"{SEEDS_TO_FIND_MAX} worlds did not find it")
