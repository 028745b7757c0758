"""Which of the waiting batches make the next entry when scripts are among them, with effects in place of scripts."""

from collections.abc import Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar

from noctule.core.keyspace.evaluation import Evaluation
from noctule.core.replica.batches import decode_batch, encode_batch
from noctule.core.replica.client_sessions import ClientSessions


class Request(Protocol):
    """Whoever asked for a batch."""

    @property
    def has_scripts(self) -> bool:
        """Whether the batch must be evaluated."""
        ...


_R = TypeVar("_R", bound=Request)


class Chosen(NamedTuple, Generic[_R]):
    """Each with its bytes, as in `Replica`."""

    taken: list[tuple[int, bytes, _R]]
    left: list[tuple[int, bytes, _R]]


def choose_batches(
    waiting: Iterable[tuple[int, bytes, _R]],
    sessions: ClientSessions,
    evaluation: Evaluation,
    stamp_ms: int,
    bytes_target: int,
) -> Chosen[_R]:
    """What to propose now, on the very state and with the very sessions that the entry will meet.

    Evaluated batches come first, so nothing but other evaluated ones is done before them. A batch that will not be
    executed, since it was before or comes too early, is taken as it came: its scripts are not run here either. Of one
    origin one batch is evaluated at a time, and nothing of it is taken out of order.
    """
    evaluated: list[tuple[int, bytes, _R]] = []
    others: list[tuple[int, bytes, _R]] = []
    left: list[tuple[int, bytes, _R]] = []
    taken_of: set[int] = set()
    left_of: set[int] = set()
    size = 0
    for item in waiting:
        length, data, request = item
        batch = decode_batch(data)
        is_full = size and size + length > bytes_target
        if is_full or batch.origin in left_of:
            left.append(item)
            left_of.add(batch.origin)
            continue
        if request.has_scripts and (batch.origin < 0 or sessions.is_due(batch, stamp_ms)):
            if evaluation.is_exhausted:
                left.append(item)
                left_of.add(batch.origin)
                continue
            commands = evaluation.batch(batch.commands)
            data = encode_batch(batch.origin, batch.sequence, batch.acknowledged_below, commands)
            evaluated.append((len(data), data, request))
        elif request.has_scripts and batch.origin in taken_of:
            # It may be due once what is taken now is applied.
            left.append(item)
            left_of.add(batch.origin)
            continue
        else:
            others.append(item)
        taken_of.add(batch.origin)
        size += len(data)
    return Chosen([*evaluated, *others], left)
