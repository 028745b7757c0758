"""What leaves in place of an answer that no frame can hold."""

from noctule.base.ids import META_GROUP
from noctule.core.wire.messages import Answered, Forward, ReadsAnswered
from noctule.node.host import _without_results
from noctule.node.router import ANSWER_TOO_LARGE


def test_every_command_of_a_group_s_answer_is_told_that_it_is_too_large() -> None:
    answer = Answered(7, False, 3, [b"x", None])
    assert _without_results((2, answer)) == (2, Answered(7, False, 3, [ANSWER_TOO_LARGE] * 2))


def test_all_of_shared_reads_are_left_to_their_groups() -> None:
    """Which ask again for fewer at a time, until it is known whose answer is too large."""
    answer = ReadsAnswered(7, [b"x", None, b"y"], [1])
    assert _without_results((META_GROUP, answer)) == (META_GROUP, ReadsAnswered(7, [None] * 3, [0, 1, 2]))


def test_other_messages_are_left_as_they_are() -> None:
    assert _without_results((2, Forward(1, 2, b"x"))) == (2, Forward(1, 2, b"x"))
