"""Elements in queues, and who waits for them, while everything fails; and planted bugs that this finds."""

from collections.abc import Callable

import pytest

from noctule.node import waiting_room
from noctule.node.waiting_room import WaitingRoom
from noctule.verify.sim.invariants import LivenessViolation, SafetyViolation
from noctule.verify.sim.world import World

from .queues import Queues

SEEDS = range(6)


def run(seed: int) -> Queues:
    world = World(seed, clients=3, think_s_max=0.05)
    queues = Queues(world)
    world.run(6.0)
    queues.settle()
    return queues


@pytest.mark.parametrize("seed", SEEDS)
def test_every_element_is_given_to_one_consumer(seed: int) -> None:
    queues = run(seed)
    assert len(queues.taken) > 30
    print(
        f"\n{len(queues.pushed)} pushed, {len(queues.taken)} taken, {queues.unknown} pops of unknown outcome, "
        f"{queues.timeouts} timeouts"
    )


def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A room that neither hears of keys nor looks again."""
    monkeypatch.setattr(WaitingRoom, "key_ready", lambda *_: None)
    monkeypatch.setattr(WaitingRoom, "tick", lambda *_: None)


def tries_again_after_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A room that takes an unknown outcome for none."""
    monkeypatch.setattr(waiting_room, "NOTHING_APPLIED", (*waiting_room.NOTHING_APPLIED, b"UNKNOWN"))


@pytest.mark.parametrize("plant", [nobody_looks, tries_again_after_unknown])
def test_planted_bugs_are_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises((LivenessViolation, SafetyViolation)):
        any(run(seed) is None for seed in range(30))
