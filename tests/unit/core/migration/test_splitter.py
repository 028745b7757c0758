"""What the leader of a partition that is being split does next."""

import pytest

from noctule.core.migration.splits import Split
from noctule.core.migration.splitter import Finish, GiveUp, LogCommand, ParentView, SplitStep, next_split_step

SPLIT = Split(child=9, parent=2, at_slot=500)
CUT = LogCommand((b"NOCTULE.SPLIT", b"9", b"500"))


@pytest.mark.parametrize(
    ("view", "step"),
    [
        (ParentView(0, 999, 8, is_settled=True), CUT),
        (ParentView(0, 999, 8, is_settled=False), CUT),
        (ParentView(0, 500, 8, is_settled=True), CUT),
        (ParentView(0, 499, 9, is_settled=False), Finish()),
        (ParentView(0, 499, 8, is_settled=False), None),
        (ParentView(0, 499, 8, is_settled=True), GiveUp("the partition holds slots 0 to 499, which 500 does not cut")),
        (
            ParentView(500, 999, 8, is_settled=True),
            GiveUp("the partition holds slots 500 to 999, which 500 does not cut"),
        ),
    ],
)
def test_what_is_next(view: ParentView, step: SplitStep | None) -> None:
    assert next_split_step(SPLIT, view) == step
