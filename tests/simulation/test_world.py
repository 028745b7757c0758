"""Whole clusters under faults, and proof that the simulator can fail: planted bugs are found."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from noctule.base.errors import NoctuleError
from noctule.core.raft.leadership import Leadership
from noctule.core.raft.node import RaftNode
from noctule.core.replica.client_sessions import ClientSessions
from noctule.verify.sim.invariants import LivenessViolation, SafetyViolation
from noctule.verify.sim.machine import Machine
from noctule.verify.sim.run import run_seed

SEEDS = range(1, 41)


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_holds_under_faults(seed: int) -> None:
    """`make sim SEED=n` replays one; `make sim SEEDS=10000` runs more."""
    outcome = run_seed(seed)
    assert outcome.operations > 50


def test_faults_really_happen() -> None:
    """A simulator that never crashes anything proves nothing."""
    counts: dict[str, int] = {}
    for seed in range(1, 11):
        for what, count in run_seed(seed).counts.items():
            counts[what] = counts.get(what, 0) + count
    for what in ("crash", "power cut", "snapshot written", "snapshot received", "transfer", "cut both"):
        assert counts.get(what, 0) > 0, what


def test_the_same_seed_gives_the_same_trace_in_another_process_with_another_hash_seed() -> None:
    script = "import sys; from noctule.verify.sim.run import run_seed; print(run_seed(int(sys.argv[1])).digest)"
    for seed in (1, 2, 3):
        digests = {
            subprocess.run(
                [sys.executable, "-c", script, str(seed)],
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for hash_seed in ("0", "4711")
        }
        assert len(digests) == 1


def _vote_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica votes for whoever asks: two votes in one term (camunda/camunda#5356)."""
    original = RaftNode._step_vote_request

    def step(self: RaftNode, sender: int, message: Any) -> None:
        self.vote = 0 if not message.pre else self.vote
        self.leader = 0
        original(self, sender, message)

    monkeypatch.setattr("noctule.core.raft.node._STEPS", {**_steps(), type_of("VoteRequest"): step})


def _acknowledge_before_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promises leave before the disk has what they promise (etcd-io/etcd#14370)."""
    monkeypatch.setattr(RaftNode, "send_when_durable", RaftNode.send)


def _commit_by_counting_older_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads are served and followers told without a commit in the own term (paper, figure 8)."""

    def read(self: Leadership, context: int) -> None:
        from noctule.core.raft.events import ReadReady

        self._node.emit(ReadReady(context, self._node.applied))

    monkeypatch.setattr(Leadership, "read", read)


def _apply_retries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retried batch is applied as if it were new (etcd-io/etcd#18424)."""
    monkeypatch.setattr(
        ClientSessions, "apply", lambda _self, batch, execute: [execute(command) for command in batch.commands]
    )


def _keep_the_stale_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conflicting entry is taken for a match (mofa-org/mofa#1151)."""
    original = RaftNode._accept

    def accept(self: RaftNode, previous: int, entries: list[Any]) -> None:
        have = self.log.last_index - previous
        original(self, max(previous, self.log.last_index), entries[max(have, 0) :])

    monkeypatch.setattr(RaftNode, "_accept", accept)


def _forget_the_vote_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Term and vote are not kept (bakwc/PySyncObj#202)."""
    original = Machine.persist

    def persist(self: Machine, group: Any, persist: Any) -> None:
        from noctule.core.raft.events import Persist

        original(
            self,
            group,
            Persist(
                None,
                persist.first_index,
                persist.entries,
                persist.after,
                persist.index,
                persist.term,
                persist.mark,
                persist.replace_log,
            ),
        )

    monkeypatch.setattr(Machine, "persist", persist)


def _steps() -> dict[type, Any]:
    from noctule.core.raft import node

    return node._STEPS


def type_of(name: str) -> type:
    from noctule.core.raft import messages

    return getattr(messages, name)


@pytest.mark.parametrize(
    "plant",
    [
        _acknowledge_before_sync,
        _apply_retries_again,
        _commit_by_counting_older_terms,
        _forget_the_vote_on_disk,
        _keep_the_stale_tail,
        _vote_without_memory,
    ],
)
def test_a_planted_bug_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(1, 121):
        try:
            run_seed(seed)
        except (SafetyViolation, LivenessViolation, NoctuleError):
            return
    pytest.fail("120 seeds did not find it")
