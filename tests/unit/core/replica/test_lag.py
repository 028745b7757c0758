"""How far behind a member is, in entries, bytes and seconds."""

from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import Membership, encode_membership
from noctule.core.raft.messages import Entry
from noctule.core.replica.batches import decode_stamp, encode_batch, encode_entry
from noctule.core.replica.lag import ENTRIES_COUNTED_MAX, Lag, lag_behind

NOW_MS = 100_000


def entry(stamp_ms: int) -> Entry:
    return Entry(1, encode_entry(stamp_ms, [encode_batch(1, 1, 1, [[b"SET", b"k", b"v"]])]))


SIZE = len(entry(NOW_MS).data)


def behind(log: RaftLog, match: int) -> Lag:
    return lag_behind(log, match, state_bytes=5_000, wall_ms=NOW_MS)


def log_of(count: int) -> RaftLog:
    log = RaftLog(membership=Membership(voters=(1, 2, 3)))
    log.append([entry(NOW_MS - 1_000 * (count - number)) for number in range(count)])
    return log


def test_a_member_that_has_everything_lacks_nothing() -> None:
    assert behind(log_of(3), 3) == Lag(0, 0, 0.0)
    assert behind(log_of(3), 4) == Lag(0, 0, 0.0)


def test_the_oldest_entry_that_it_lacks_tells_how_long() -> None:
    assert behind(log_of(5), 3) == Lag(2, 2 * SIZE, 2.0)


def test_entries_without_a_stamp_are_passed_over() -> None:
    log = RaftLog(membership=Membership(voters=(1, 2, 3)))
    log.append([Entry(1, b""), Entry(1, encode_membership(Membership(voters=(1, 2)))), entry(NOW_MS - 500)])
    assert behind(log, 0).seconds == 0.5
    log.truncate_from(3)
    assert behind(log, 0).seconds == 0.0


def test_one_that_needs_a_snapshot_lacks_the_state_too() -> None:
    log = log_of(5)
    log.compact(3)
    assert behind(log, 1) == Lag(4, 5_000 + 2 * SIZE, 2.0)
    assert behind(log, 3) == Lag(2, 2 * SIZE, 2.0)


def test_one_that_was_long_away_is_estimated() -> None:
    count = ENTRIES_COUNTED_MAX * 2
    lag = behind(log_of(count), count // 4)
    assert lag.entries == count * 3 // 4
    assert abs(lag.bytes - lag.entries * SIZE) < SIZE * lag.entries // 50


def test_a_clock_that_went_back_makes_no_negative_age() -> None:
    log = RaftLog(membership=Membership(voters=(1, 2, 3)))
    log.append([entry(NOW_MS + 9_000)])
    assert behind(log, 0).seconds == 0.0


def test_the_stamp_is_read_without_the_rest() -> None:
    assert decode_stamp(entry(1_700_000_000_123).data) == 1_700_000_000_123
