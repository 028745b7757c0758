"""The command that runs many seeds: what it says of a failure, and by which exit code."""

import subprocess
import sys

import pytest

from noctule.verify.sim import run
from noctule.verify.sim.invariants import LivenessViolation, SafetyViolation
from noctule.verify.sim.world import Outcome, World


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["run", *arguments])
    return run.main()


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (SafetyViolation("two leaders"), 10, "safety: two leaders"),
        (LivenessViolation("no progress"), 11, "liveness: no progress"),
        (KeyError("gone"), 12, "crash: KeyError: 'gone'"),
    ],
)
@pytest.mark.parametrize("arguments", [("--seeds", "5"), ("--seed", "3")])
def test_a_failing_run_names_seed_commit_and_the_command_that_replays_it(
    error: Exception,
    code: int,
    kind: str,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = World.run

    def fail_at_3(self: World, fault_s: float = 1.0) -> Outcome:
        if self.seed == 3:
            raise error
        return original(self, fault_s)

    monkeypatch.setattr(World, "run", fail_at_3)
    monkeypatch.setattr(run, "_git", lambda *words: "abc1234" if words[0] == "rev-parse" else " M changed.py")
    assert _main(monkeypatch, *arguments) == code
    assert f"seed 3: {kind}\ncommit abc1234+changes\nreplay: make sim SEED=3\n" in capsys.readouterr().err


def test_the_commit_is_unknown_outside_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_words: str) -> str:
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(run, "_git", fail)
    assert run.commit_text() == "unknown"


def test_several_processes_tell_what_one_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for jobs in ("1", "2"):
        assert _main(monkeypatch, "--seeds", "4", "--jobs", jobs) == 0
        told = capsys.readouterr()
        texts.append((told.out.splitlines()[:-1], told.err))
        assert "4 seeds held" in told.out
    assert texts[0] == texts[1]
