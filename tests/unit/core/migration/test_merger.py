"""Merges by two leaders, neither of whom knows what the other one does: never do both answer for the same slots."""

import random
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.core.migration.merger import (
    AdvanceMerge,
    CopyToLeft,
    MergeLimits,
    MergeStep,
    NeighbourView,
    next_merge_step,
    unfence_step,
)
from noctule.core.migration.merges import MERGE_ENDED, MERGE_NEXT, Merge, MergeStage
from noctule.core.migration.splitter import LogCommand

FENCE, COPY, DONE, ABORTED = MergeStage
LIMITS = MergeLimits(bytes_max=1_000, stage_s_max=5.0)
LEFT = NeighbourView(1, absorbed=6, absorb_ended=6)
RIGHT = NeighbourView(2, bytes=100, fence_ended=6)


def log(name: str, merge: int = 7) -> LogCommand:
    return LogCommand((f"NOCTULE.{name}".encode(), b"%d" % merge))


@pytest.mark.parametrize(
    ("stage", "view", "changes", "step"),
    [
        (FENCE, RIGHT, {}, log("FENCE")),
        (FENCE, RIGHT, {"fenced": 7}, AdvanceMerge(FENCE, COPY)),
        (FENCE, RIGHT, {"fence_ended": 7}, AdvanceMerge(FENCE, ABORTED, "the fence was taken back")),
        (
            FENCE,
            RIGHT,
            {"bytes": 1_001},
            AdvanceMerge(FENCE, ABORTED, "partition 2 holds 1001 bytes, and 1000 are the most"),
        ),
        (FENCE, RIGHT, {"is_cancelled": True}, AdvanceMerge(FENCE, ABORTED, "cancelled")),
        (FENCE, LEFT, {}, None),
        (FENCE, LEFT, {"in_stage_s": 5.1}, AdvanceMerge(FENCE, ABORTED, "not done in 5 s")),
        (COPY, RIGHT, {"fenced": 7}, CopyToLeft()),
        (COPY, RIGHT, {"fenced": 7, "is_copying": True}, None),
        (COPY, RIGHT, {"fenced": 7, "is_copying": True, "is_cancelled": True}, None),
        (COPY, RIGHT, {}, None),
        (COPY, LEFT, {}, None),
        (COPY, LEFT, {"is_cancelled": True}, log("ABSORB-DROP")),
        (COPY, LEFT, {"in_stage_s": 5.1}, log("ABSORB-DROP")),
        (COPY, LEFT, {"absorbed": 7, "absorb_ended": 7, "is_cancelled": True}, AdvanceMerge(COPY, DONE)),
        (
            COPY,
            LEFT,
            {"absorb_ended": 7},
            AdvanceMerge(COPY, ABORTED, "the copy was given up before it was whole"),
        ),
        (DONE, LEFT, {"is_cancelled": True}, None),
        (ABORTED, RIGHT, {"fenced": 7}, None),
    ],
)
def test_what_is_next(stage: MergeStage, view: NeighbourView, changes: dict[str, int], step: MergeStep | None) -> None:
    assert next_merge_step(Merge(7, 1, 2, stage), msgspec.structs.replace(view, **changes), LIMITS) == step


def test_a_fence_is_taken_away_only_by_who_knows_that_its_merge_was_given_up() -> None:
    fenced = msgspec.structs.replace(RIGHT, fenced=7)
    assert unfence_step(fenced, Merge(7, 1, 2, ABORTED), merge_id_next=8) == log("UNFENCE")
    assert unfence_step(fenced, None, merge_id_next=500) == log("UNFENCE")
    assert unfence_step(fenced, None, merge_id_next=7) is None
    assert unfence_step(fenced, Merge(7, 1, 2, COPY), merge_id_next=8) is None
    assert unfence_step(RIGHT, None, merge_id_next=500) is None


@dataclass
class World:
    """Both partitions as their logs have them, *meta*'s history, and what each leader has heard of it."""

    chance: random.Random
    stages: list[MergeStage] = field(default_factory=lambda: [FENCE])
    """Of merge 1, from its beginning on."""
    heard: dict[int, int] = field(default_factory=lambda: {1: 0, 2: 0})
    """By partition how many of the stages its leader knows; 0: not even that there is a merge."""
    left: NeighbourView = field(default_factory=lambda: NeighbourView(1))
    right: NeighbourView = field(default_factory=lambda: NeighbourView(2))
    copies: int = 0
    """That were begun and may yet arrive, however late."""

    def execute(self, command: tuple[bytes, ...]) -> None:
        """By the rules of the keyspace's commands."""
        left, right = self.left, self.right
        match command[0]:
            case b"NOCTULE.FENCE" if right.fence_ended < 1:
                self.right = msgspec.structs.replace(right, fenced=1)
            case b"NOCTULE.UNFENCE":
                self.right = msgspec.structs.replace(right, fenced=0, fence_ended=1)
            case b"NOCTULE.ABSORB-DROP" if left.absorbed < 1:
                self.left = msgspec.structs.replace(left, absorb_ended=1)
            case b"NOCTULE.ABSORB-END" if left.absorb_ended < 1:
                self.left = msgspec.structs.replace(left, absorbed=1, absorb_ended=1)
            case _:
                pass

    def drive(self, partition: int, *, times: int, is_late: bool) -> None:
        """Let a leader decide by what it has heard, and do it so many times."""
        known = self.heard[partition]
        own = self.right if partition == 2 else self.left
        view = msgspec.structs.replace(own, in_stage_s=9.0 if is_late else 0.0)
        merge = Merge(1, 1, 2, self.stages[known - 1]) if known else None
        step: MergeStep | None = None
        if merge is not None and merge.stage not in MERGE_ENDED:
            step = next_merge_step(merge, view, LIMITS)
        elif partition == 2:
            step = unfence_step(view, merge, merge_id_next=2 if known else 1)
        for _ in range(times):
            match step:
                case LogCommand(command=command):
                    self.execute(command)
                case CopyToLeft():
                    self.copies += 1
                case AdvanceMerge(stage=stage, to=to):
                    if stage is self.stages[-1] and to in MERGE_NEXT[stage]:
                        self.stages.append(to)
                case None:
                    pass
            self.check()

    def check(self) -> None:
        """The left one answers for the slots of the right one from the moment that it took them in."""
        assert not (self.left.absorbed == 1 and self.right.fenced != 1), "both answer"
        assert self.stages[-1] is not DONE or self.left.absorbed == 1, "nobody answers"
        assert self.stages[-1] is not ABORTED or self.left.absorbed == 0, "what was taken in was given up"

    def disturb(self) -> None:
        """One thing that may happen."""
        chance, partition = self.chance, self.chance.choice([1, 2])
        match chance.randrange(5):
            case 0:
                self.heard[partition] = min(self.heard[partition] + 1, len(self.stages))
            case 1:
                # Another leader, who knows less; but never of another history.
                self.heard[partition] = chance.randint(0, self.heard[partition])
            case 2 if self.copies:
                self.copies -= chance.choice([0, 1])
                self.execute((b"NOCTULE.ABSORB-END", b"1"))
                self.check()
            case _:
                self.drive(partition, times=chance.choice([0, 1, 1, 2]), is_late=chance.random() < 0.2)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 32), steps=st.integers(0, 80))
def test_whatever_happens_one_of_the_two_answers_in_the_end(seed: int, steps: int) -> None:
    world = World(random.Random(seed))
    for _ in range(steps):
        world.disturb()
    for _ in range(10):
        for partition in (1, 2):
            world.heard[partition] = len(world.stages)
            world.drive(partition, times=1, is_late=False)
        if world.copies:
            world.execute((b"NOCTULE.ABSORB-END", b"1"))
    world.check()
    assert world.stages[-1] in MERGE_ENDED
    assert (world.right.fenced, world.left.absorbed) == ((1, 1) if world.stages[-1] is DONE else (0, 0))
