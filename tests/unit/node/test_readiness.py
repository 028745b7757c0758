"""What a node waits for before it says that it is ready, as far as it follows from what members have said."""

from types import SimpleNamespace

import pytest

from noctule.core.roster.members import Member, MemberState
from noctule.node.node import LocalNode

OLD, NEW = ("migrate",), ("migrate", "data-model-2")


@pytest.mark.parametrize(
    ("said", "opened", "to_come"),
    [
        ([NEW, NEW, NEW], set(), {"migrate", "data-model-2"}),
        ([NEW, NEW, NEW], {"migrate"}, {"data-model-2"}),
        ([NEW, NEW, NEW], {"migrate", "data-model-2"}, set()),
        ([NEW, NEW, OLD], {"migrate"}, set()),
        ([NEW, NEW, None], set(), set()),
        ([], set(), set()),
    ],
    ids=["new cluster", "opening", "open", "an older release is there", "one was never heard", "nobody is known yet"],
)
def test_only_what_all_members_can_do_is_waited_for(
    said: list[tuple[str, ...] | None], opened: set[str], to_come: set[str]
) -> None:
    hellos = {number: SimpleNamespace(features=features) for number, features in enumerate(said) if features}
    roster = {number: Member(id=number, peer=f"n{number}:7600") for number in range(len(said))}
    gone = Member(id=9, peer="n9:7600", state=MemberState.LEFT)
    node = SimpleNamespace(
        steward=SimpleNamespace(meta=SimpleNamespace(roster=roster | {9: gone}, features=opened)), hello_of=hellos.get
    )
    assert LocalNode._features_to_come(node) == to_come  # type: ignore[arg-type]
