"""What the leader of a partition does next while that is being split: a pure decision, made anew each time.

One command in the partition's log cuts the state at a slot on each replica, and makes the child there. Once it is
applied here it is committed, so every replica will have a child, and the map can give it its slots: until then nobody
answers for them. As in mover.py any step may be lost or done twice.
"""

from typing import TypeAlias

from msgspec import Struct

from noctule.core.migration.splits import Split


class ParentView(Struct, frozen=True):
    """What the leader of the parent sees of its own replica, as far as it has applied the log."""

    first_slot: int
    last_slot: int
    """That it holds, both inclusive."""
    newest_child: int
    """The partition that was split off last."""
    is_settled: bool
    """Whether something of this leader's term is committed: nothing of an earlier one can come up any more."""


class LogCommand(Struct, frozen=True):
    """Log this command in the group; done twice it does nothing more."""

    command: tuple[bytes, ...]


class Finish(Struct, frozen=True):
    """Have *meta* give the child its slots."""


class GiveUp(Struct, frozen=True):
    """Have *meta* forget the child, which will never be."""

    note: str


SplitStep: TypeAlias = LogCommand | Finish | GiveUp


def next_split_step(split: Split, view: ParentView) -> SplitStep | None:
    """What the leader of the parent is to do now; None when there is nothing but to wait.

    It gives up only what the command itself would refuse, and so can never have happened. There is no other way back: a
    command that was logged once may take effect however much later.
    """
    if view.newest_child == split.child:
        return Finish()
    if view.first_slot < split.at_slot <= view.last_slot:
        return LogCommand((b"NOCTULE.SPLIT", b"%d" % split.child, b"%d" % split.at_slot))
    if not view.is_settled:
        return None
    return GiveUp(
        f"the partition holds slots {view.first_slot} to {view.last_slot}, which {split.at_slot} does not cut"
    )
