"""Bits of strings against a text of ones and zeros."""

from hypothesis import given
from hypothesis import strategies as st

from noctule.base.bounds import VALUE_BYTES_MAX
from noctule.core.keyspace.failures import STRING_TOO_LONG
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import Failure

VALUES = st.binary(max_size=12)
INDICES = st.integers(-120, 120)


def held(value: bytes) -> Keyspace:
    keyspace = Keyspace()
    keyspace.execute([b"SET", b"k", value], 0)
    return keyspace


def ones_and_zeros(value: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in value)


@given(VALUES, st.integers(0, 120), st.sampled_from([0, 1]))
def test_a_bit_that_was_set_is_read(value: bytes, offset: int, bit: int) -> None:
    keyspace = held(value)
    before = keyspace.execute([b"GETBIT", b"k", b"%d" % offset], 0)
    assert keyspace.execute([b"SETBIT", b"k", b"%d" % offset, b"%d" % bit], 0) == before
    text = ones_and_zeros(value).ljust(offset // 8 * 8 + 8, "0")
    after = keyspace.execute([b"GET", b"k"], 0)
    assert isinstance(after, bytes)
    assert ones_and_zeros(after) == text[:offset] + str(bit) + text[offset + 1 :]
    keyspace.check()


@given(VALUES, INDICES, INDICES, st.sampled_from([0, 1]))
def test_counting_and_finding_within_an_interval_of_bits(value: bytes, start: int, end: int, bit: int) -> None:
    keyspace, text = held(value), ones_and_zeros(value)
    first = max(start + len(text), 0) if start < 0 else start
    last = max(end + len(text), 0) if end < 0 else end
    inside = "" if start < 0 and end < 0 and start > end else text[first : last + 1]
    interval = [b"%d" % start, b"%d" % end, b"BIT"]
    assert keyspace.execute([b"BITCOUNT", b"k", *interval], 0) == inside.count("1")
    inside = text[first : last + 1]
    found = inside.find(str(bit))
    expected = first + found if found >= 0 else -1
    assert keyspace.execute([b"BITPOS", b"k", b"%d" % bit, *interval], 0) == expected


@given(st.integers(0, 40), st.integers(1, 63), st.integers(-(2**63), 2**63 - 1), VALUES)
def test_a_field_is_read_as_it_was_written(offset: int, bits: int, number: int, value: bytes) -> None:
    keyspace = held(value)
    for kind, smallest in ((b"u", 0), (b"i", -(1 << bits - 1))):
        place = [kind + b"%d" % bits, b"%d" % offset]
        keyspace.execute([b"BITFIELD", b"k", b"SET", *place, b"%d" % number], 0)
        wrapped = (number - smallest) % (1 << bits) + smallest
        assert keyspace.execute([b"BITFIELD_RO", b"k", b"GET", *place], 0) == [wrapped]


def test_a_string_over_the_bound_is_refused_before_it_is_made() -> None:
    keyspace = Keyspace()
    beyond = b"%d" % (8 * VALUE_BYTES_MAX)
    assert keyspace.execute([b"SETBIT", b"k", beyond, b"1"], 0) == STRING_TOO_LONG
    assert keyspace.execute([b"BITFIELD", b"k", b"SET", b"u1", beyond, b"1"], 0) == STRING_TOO_LONG
    assert keyspace.key_count == 0


def test_the_result_of_bitop_has_no_deadline_and_may_be_nothing() -> None:
    keyspace = held(b"\x0f")
    keyspace.execute([b"SET", b"{k}d", b"x", b"PX", b"1000"], 0)
    assert keyspace.execute([b"BITOP", b"NOT", b"{k}d", b"k"], 0) == 1
    assert keyspace.execute([b"GET", b"{k}d"], 0) == b"\xf0"
    assert not keyspace.deadlines
    assert keyspace.execute([b"BITOP", b"AND", b"{k}d", b"{k}none"], 0) == 0
    assert keyspace.execute([b"EXISTS", b"{k}d"], 0) == 0


def test_encodings_and_sizes_are_told() -> None:
    keyspace = held(b"x" * 45)
    keyspace.execute([b"HSET", b"h", b"f", b"x" * 65], 0)
    keyspace.execute([b"XADD", b"s", b"1-1", b"f", b"v"], 0)
    for key, encoding in ((b"k", b"raw"), (b"h", b"hashtable"), (b"s", b"stream"), (b"none", None)):
        assert keyspace.execute([b"OBJECT", b"ENCODING", key], 0) == encoding
    used = keyspace.bytes_used
    size = keyspace.execute([b"MEMORY", b"USAGE", b"k"], 0)
    keyspace.execute([b"DEL", b"k"], 0)
    assert used - keyspace.bytes_used == size
    assert isinstance(keyspace.execute([b"MEMORY", b"STATS"], 0), Failure)
