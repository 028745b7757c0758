"""What simulated clients were answered passes the checkers, and does not when a bug is planted."""

import subprocess
import sys
from pathlib import Path

import pytest

from noctule.base.errors import NoctuleError
from noctule.verify.checkers.history import load_history
from noctule.verify.checkers.judge import judge
from noctule.verify.sim.invariants import LivenessViolation, SafetyViolation
from noctule.verify.sim.run import world_of
from tests.simulation.test_world import _apply_retries_again


@pytest.mark.parametrize("seed", range(1, 9))
def test_a_sound_world_has_a_sound_history(seed: int) -> None:
    world = world_of(seed)
    outcome = world.run()
    operations = world.history.operations()
    assert sum(each.outcome == "ok" for each in operations) > outcome.operations / 4, "all but what has no model"
    verdict = judge(operations)
    assert verdict.holds, verdict.violations
    assert verdict.keys == {"counter": 6, "set": 6}


def test_increments_applied_twice_are_in_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """The world stops at what it finds wrong first; the checker finds it in the history without being told."""
    _apply_retries_again(monkeypatch)
    for seed in range(1, 121):
        world = world_of(seed)
        try:
            world.run()
        except (SafetyViolation, LivenessViolation, NoctuleError):
            verdict = judge(world.history.operations())
            if not verdict.holds:
                assert verdict.violations[0].key.startswith(("counter:", "set:"))
                return
    pytest.fail("no history of 120 seeds is wrong")


def test_a_run_writes_its_history(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    command = [sys.executable, "-m", "noctule.verify.sim.run", "--seed", "5", "--history", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    world = world_of(5)
    world.run()
    assert load_history(file) == world.history.operations()
