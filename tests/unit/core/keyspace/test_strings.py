"""Strings: what the comparison with Redis cannot show, or what must be plain to see."""

import pytest

from noctule.base.bounds import VALUE_BYTES_MAX
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import OK, Failure, Reply

NOW = 1_000_000


@pytest.fixture
def keyspace() -> Keyspace:
    return Keyspace()


def run(keyspace: Keyspace, line: str, now_ms: int = NOW) -> Reply:
    reply = keyspace.execute(line.encode().split(), now_ms)
    keyspace.check()
    return reply


def test_set_and_get(keyspace: Keyspace) -> None:
    assert run(keyspace, "SET k v") == OK
    assert run(keyspace, "GET k") == b"v"
    assert run(keyspace, "GET other") is None


def test_set_takes_the_deadline_away_unless_told_to_keep_it(keyspace: Keyspace) -> None:
    run(keyspace, "SET k v PX 500")
    run(keyspace, "SET k w KEEPTTL")
    assert run(keyspace, "PTTL k") == 500
    run(keyspace, "SET k x")
    assert run(keyspace, "PTTL k") == -1


@pytest.mark.parametrize(
    ("option", "deadline"),
    [("EX 2", NOW + 2_000), ("PX 2", NOW + 2), ("EXAT 5000", 5_000_000), ("PXAT 1000001", 1_000_001)],
)
def test_each_unit_of_a_deadline(keyspace: Keyspace, option: str, deadline: int) -> None:
    run(keyspace, f"SET k v {option}")
    assert keyspace.deadlines == {b"k": deadline}


def test_set_nx_with_get_answers_the_old_value(keyspace: Keyspace) -> None:
    """Allowed since Redis 7.0: None says that the key was set."""
    assert run(keyspace, "SET k v NX GET") is None
    assert run(keyspace, "SET k w NX GET") == b"v"
    assert run(keyspace, "GET k") == b"v"


@pytest.mark.parametrize(
    "options", ["NX XX", "EX 1 PX 1", "EX 1 KEEPTTL", "KEEPTTL EX 1", "EX", "PERSIST", "GET GET bogus", "EXAT 1 EX 1"]
)
def test_options_that_exclude_each_other(keyspace: Keyspace, options: str) -> None:
    assert run(keyspace, f"SET k v {options}") == Failure(b"ERR syntax error")
    assert keyspace.key_count == 0


def test_deadline_that_does_not_fit_64_bits(keyspace: Keyspace) -> None:
    for options in (f"EX {2**63 // 1000}", f"PX {2**63 - 1}", "EX 0", "PX -1"):
        assert run(keyspace, f"SET k v {options}") == Failure(b"ERR invalid expire time in 'set' command")
    assert run(keyspace, f"SETEX k {2**63 // 1000} v") == Failure(b"ERR invalid expire time in 'setex' command")
    assert run(keyspace, "psetex k 0 v") == Failure(b"ERR invalid expire time in 'psetex' command")
    assert keyspace.key_count == 0


def test_getex_with_a_time_in_the_past_removes_the_key(keyspace: Keyspace) -> None:
    run(keyspace, "SET k v")
    assert run(keyspace, "GETEX k PXAT 1") == b"v"
    assert keyspace.key_count == 0


def test_a_refused_command_changes_nothing(keyspace: Keyspace) -> None:
    run(keyspace, "SET k text EX 10")
    before = keyspace.digest()
    for line in ("INCR k", "INCRBYFLOAT k 1", "HSET k f v", "SETRANGE k -1 x", "MSET a 1 b", "INCRBY k x"):
        assert isinstance(run(keyspace, line), Failure), line
    assert keyspace.digest() == before


def test_a_string_that_would_grow_over_the_bound(keyspace: Keyspace) -> None:
    """A long offset must be refused before the memory is taken."""
    run(keyspace, "SET k v")
    refused = Failure(b"ERR string exceeds maximum allowed size (VALUE_BYTES_MAX, 8388608 bytes)")
    assert run(keyspace, f"SETRANGE k {VALUE_BYTES_MAX} x") == refused
    assert run(keyspace, f"SETRANGE k {2**62} x") == refused
    assert keyspace.execute([b"APPEND", b"k", bytes(VALUE_BYTES_MAX)], NOW) == refused
    assert keyspace.execute([b"APPEND", b"k", bytes(VALUE_BYTES_MAX - 1)], NOW) == VALUE_BYTES_MAX
    assert run(keyspace, f"SETRANGE k {VALUE_BYTES_MAX - 1} x") == VALUE_BYTES_MAX


def test_increments_stop_at_64_bits(keyspace: Keyspace) -> None:
    run(keyspace, f"SET k {2**63 - 1}")
    assert run(keyspace, "INCR k") == Failure(b"ERR increment or decrement would overflow")
    assert run(keyspace, f"DECRBY k {-(2**63)}") == Failure(b"ERR decrement would overflow")
    assert run(keyspace, "DECR k") == 2**63 - 2


@pytest.mark.parametrize(
    ("start", "amount", "total"),
    [
        ("0.1", "0.2", b"0.3"),
        ("10.50", "0.1", b"10.6"),
        ("5.0e3", "2.0e2", b"5200"),
        ("3", "-3", b"0"),
        ("-1", "0.9999999999999999999999", b"0"),
        ("1e17", "0.1", b"100000000000000000.1015625"),
        ("0", "1e-18", b"0"),
        ("0", "-1e-18", b"0"),
    ],
)
def test_float_sums(keyspace: Keyspace, start: str, amount: str, total: bytes) -> None:
    run(keyspace, f"SET k {start}")
    assert run(keyspace, f"INCRBYFLOAT k {amount}") == total
    assert run(keyspace, "GET k") == total


def test_float_sum_beyond_a_double_is_refused(keyspace: Keyspace) -> None:
    run(keyspace, "SET k 1.7e308")
    assert run(keyspace, "INCRBYFLOAT k 1.7e308") == Failure(b"ERR increment would produce NaN or Infinity")
    assert run(keyspace, "INCRBYFLOAT k 1e99999999999999") == Failure(b"ERR value is not a valid float")
    assert run(keyspace, "INCRBYFLOAT k inf") == Failure(b"ERR increment would produce NaN or Infinity")


@pytest.mark.parametrize(
    ("bounds", "found"),
    [("0 -1", b"bats"), ("1 2", b"at"), ("2 0", b""), ("9 3", b""), ("9 99", b""), ("-1 -2", b""), ("3 -4", b"")],
)
def test_a_range_that_ends_before_it_begins_is_empty(keyspace: Keyspace, bounds: str, found: bytes) -> None:
    run(keyspace, "SET k bats")
    assert run(keyspace, f"GETRANGE k {bounds}") == found
