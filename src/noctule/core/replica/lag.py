"""How far the other members of a group are behind its leader: worked out when somebody looks, so it costs nothing else.

Bytes and seconds need entries; of a member that lacks more than the log holds, both are told as far as can be known.
"""

from dataclasses import dataclass
from typing import Final

from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import MARK
from noctule.core.replica.batches import decode_stamp

ENTRIES_COUNTED_MAX: Final = 1_000
"""Beyond it bytes are estimated from the mean of the log; a member that is away long must not make looking dear."""


@dataclass(frozen=True)
class Lag:
    """What one member does not have yet, as far as its leader has heard."""

    entries: int
    bytes: int
    """Of log; of log and state when it needs a snapshot first. An estimate beyond ENTRIES_COUNTED_MAX entries."""
    seconds: float
    """Since the oldest of these entries was stamped; at least so long when the log does not reach back to it."""


def lag_behind(log: RaftLog, match: int, *, state_bytes: int, wall_ms: int) -> Lag:
    """Of a member whose log matches up to `match`; `state_bytes` is what a snapshot would carry, `wall_ms` the clock
    that stamps are of."""
    entries = log.last_index - match
    if entries <= 0:
        return Lag(0, 0, 0.0)
    first = max(match + 1, log.first_index)
    held = log.last_index - log.snapshot_index
    if match < log.snapshot_index:
        size = state_bytes + log.bytes_held
    elif entries <= ENTRIES_COUNTED_MAX:
        size = sum(len(entry.data) for entry in log.between(first, log.last_index))
    else:
        size = log.bytes_held * entries // held
    return Lag(entries, size, _age_s(log, first, wall_ms))


def _age_s(log: RaftLog, first: int, wall_ms: int) -> float:
    """Of the first entry from there on that has a stamp; a term's opening and a change of membership have none."""
    for entry in log.between(first, min(log.last_index, first + ENTRIES_COUNTED_MAX)):
        if entry.data and entry.data[:1] != MARK:
            return max(wall_ms - decode_stamp(entry.data), 0) / 1_000
    return 0.0
