"""The five stages of a migration, and the way back; a table of data from which the documents' diagram is drawn.

Each step from one stage to the next is an entry in the log of *meta*, made by whoever leads the partition at that
moment, so anyone can carry on. Before UPDATE any failure goes back; from UPDATE on there is only forward.
"""

from enum import StrEnum

from msgspec import Struct


class Stage(StrEnum):
    """Where a migration is. A replica that is only added has no source, one that is only dropped has no target."""

    PREPARE = "prepare"
    """The target becomes a learner: room and rate are reserved."""
    TRANSFER = "transfer"
    """It gets a snapshot in chunks, then the log, until it has caught up."""
    VERIFY = "verify"
    """Source and target hash the state at the same applied index, and the leader compares."""
    UPDATE = "update"
    """One joint change makes the target a voter and takes the source out."""
    CLEANUP = "cleanup"
    """The map has a new epoch without the source, which removes its replica when it sees that."""
    DONE = "done"
    ROLLBACK = "rollback"
    """The target is taken out again."""
    ROLLED_BACK = "rolled back"


NEXT: dict[Stage, tuple[Stage, ...]] = {
    Stage.PREPARE: (Stage.TRANSFER, Stage.ROLLBACK),
    Stage.TRANSFER: (Stage.VERIFY, Stage.ROLLBACK),
    Stage.VERIFY: (Stage.UPDATE, Stage.ROLLBACK),
    Stage.UPDATE: (Stage.CLEANUP,),
    Stage.CLEANUP: (Stage.DONE,),
    Stage.DONE: (),
    Stage.ROLLBACK: (Stage.ROLLED_BACK,),
    Stage.ROLLED_BACK: (),
}
"""From each stage the stages that may follow it."""

ENDED = (Stage.DONE, Stage.ROLLED_BACK)


class Migration(Struct, frozen=True):
    """One replica of one partition on its way."""

    id: int
    partition: int
    source: int
    """The node that loses its replica; 0: the replica is added."""
    target: int
    """The node that gets one; 0: a replica is dropped, and the migration begins in UPDATE."""
    stage: Stage
    reason: str = ""
    """Why it was begun, in a few words: who wanted it, or what the planner saw."""
    note: str = ""
    """Why it went back, in words for an operator."""
    begun_ms: int = 0
    stage_ms: int = 0
    """When it began, and when it came into this stage, by the stamps of *meta*."""
    ended_ms: int = 0


def render_diagram() -> str:
    """The stages and the ways between them as a mermaid state diagram, for the documents."""
    names = {stage: stage.name for stage in Stage}
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    [*] --> {names[Stage.PREPARE]}", f"    [*] --> {names[Stage.UPDATE]}: nothing is copied"]
    lines += [f"    {names[stage]} --> {names[to]}" for stage, ways in NEXT.items() for to in ways]
    lines += [f"    {names[stage]} --> [*]" for stage in ENDED]
    return "\n".join([*lines, "```", ""])
