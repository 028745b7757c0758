"""A cluster of five nodes and four partitions as *meta* sees it, and how to ask it for something."""

from noctule.base.errors import RequestError
from noctule.core.meta.operations import Answer, Form, Operation, decode_answer, encode_operation
from noctule.core.meta.state import MetaState
from noctule.core.placement.partition_map import Partition
from noctule.core.roster.features import FEATURES
from noctule.core.roster.members import Member

NEWER = (*FEATURES, "new")
"""What a release after this one may have."""
FORM = Form(
    "bats",
    [Member(node, f"host{node}:7601", features=FEATURES if node == 5 else NEWER) for node in range(1, 6)],
    [(1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 1)],
    3,
)
NOW_MS = 1_000


def formed() -> MetaState:
    """The state once the cluster is formed, with nothing changed since."""
    state = MetaState()
    ask(state, FORM)
    state.take_changes()
    return state


def ask(state: MetaState, operation: Operation, now_ms: int = NOW_MS) -> Answer:
    """What the operation answers; `RequestError` when it was refused."""
    return decode_answer(state.execute(encode_operation(operation), now_ms))


def refusal(state: MetaState, operation: Operation, now_ms: int = NOW_MS) -> str:
    """Why the operation is refused, having seen that nothing changed by it."""
    before = state.digest(), state.version
    try:
        answer = ask(state, operation, now_ms)
    except RequestError as error:
        assert (state.digest(), state.version) == before
        assert not state.take_changes()
        return str(error)
    raise AssertionError(f"{operation} was not refused and answered {answer!r}")


def part(state: MetaState, group: int) -> Partition:
    """A partition that is in the map."""
    partition = state.map.get(group)
    assert partition is not None
    return partition


def reloaded(state: MetaState) -> MetaState:
    """The state from its own snapshot, small chunks."""
    return MetaState.load(state.picture().chunks(200))
