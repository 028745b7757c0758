"""Bytes to records and back."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.adapters.wal_format import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    WalDamage,
    WalIdentity,
    decode_records,
    decode_segment_header,
    encode_frame,
    encode_records,
    find_later_frame,
    frame_bytes,
    parse_segment_name,
    read_frame_header,
    read_frame_payload,
    record_bytes,
    segment_name,
)
from noctule.adapters.wal_records import Entries, Forgotten, HardState, Record, SnapshotMark, Summary
from noctule.base.errors import ConfigError

SALT = 0x1122334455667788
numbers = st.integers(0, 2**64 - 1)
groups = st.integers(0, 2**32 - 1)
entries = st.builds(Entries, groups, numbers, st.lists(st.tuples(numbers, st.binary(max_size=40)), max_size=4))
records = st.lists(
    st.one_of(
        entries,
        st.builds(HardState, groups, numbers, numbers, numbers),
        st.builds(SnapshotMark, groups, numbers, numbers),
        st.builds(Forgotten, groups),
    ),
    max_size=4,
)


@given(records)
def test_records_come_back_and_their_size_is_known(batch: list[Record]) -> None:
    payload = encode_records(batch)
    assert decode_records(payload) == batch
    assert len(payload) <= sum(map(record_bytes, batch)) + len(encode_records([]))


def test_a_summary_comes_back() -> None:
    summary = Summary(1, 2, 3, 4, 5, 6, 7)
    assert decode_records(encode_records([summary, summary])) == [summary, summary]


@given(records, st.data())
def test_a_payload_that_ends_early_is_damage(batch: list[Record], data: st.DataObject) -> None:
    payload = encode_records(batch)
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(WalDamage):
        decode_records(payload[:cut])


@pytest.mark.parametrize(
    "records",
    [
        [[99, 1, 2, 3]],  # a kind that this version does not know
        [[3, 1, 2]],  # a field too few
        [[3, 1, 2, 3, 4]],  # a field too many
        [[3, 1, 2, "3"]],
        {"group": 1},
    ],
)
def test_records_that_this_version_never_writes_are_damage(records: object) -> None:
    with pytest.raises(WalDamage, match="cannot be read"):
        decode_records(msgspec.msgpack.encode(records))


def test_the_largest_numbers_fit_the_promised_size() -> None:
    group, number = 2**32 - 1, 2**64 - 1
    for record in (
        HardState(group, number, number, number),
        SnapshotMark(group, number, number),
        Entries(group, number, [(number, bytes(300))] * 70_000),
    ):
        assert len(encode_records([record])) <= record_bytes(record) + 1
        assert decode_records(encode_records([record])) == [record]


@given(st.binary(max_size=100), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_a_frame_comes_back_at_any_place(payload: bytes, sequence: int, previous_crc: int) -> None:
    frame, crc = encode_frame(payload, salt=SALT, sequence=sequence, previous_crc=previous_crc)
    assert len(frame) == frame_bytes(len(payload))
    assert len(frame) % 8 == 0
    header = read_frame_header(bytes(16) + frame, 16, SALT)
    assert header is not None
    assert (header.sequence, header.previous_crc, header.crc) == (sequence, previous_crc, crc)
    assert (header.payload_offset, header.end) == (16 + FRAME_HEADER_BYTES, 16 + len(frame))
    assert read_frame_payload(bytes(16) + frame, header) == payload


def test_a_frame_of_another_salt_or_beyond_the_end_is_none() -> None:
    frame, _crc = encode_frame(b"payload", salt=SALT, sequence=1, previous_crc=0)
    assert read_frame_header(frame, 0, SALT) is not None
    assert read_frame_header(frame, 0, SALT + 1) is None
    assert read_frame_header(frame[:-1], 0, SALT) is None
    assert read_frame_header(frame[:20], 0, SALT) is None
    assert read_frame_header(b"", 0, SALT) is None


def test_only_later_frames_at_multiples_of_eight_are_found() -> None:
    def frame(sequence: int) -> bytes:
        return encode_frame(b"payload", salt=SALT, sequence=sequence, previous_crc=0)[0]

    assert find_later_frame(bytes(8) + frame(6), 0, SALT, 5) == 8
    assert find_later_frame(bytes(8) + frame(5), 0, SALT, 5) is None, "the bad frame itself, or an older one"
    assert find_later_frame(bytes(9) + frame(6), 0, SALT, 5) is None
    assert find_later_frame(bytes(9) + frame(6) + bytes(7) + frame(7), 0, SALT, 5) == 16 + len(frame(6))


def test_a_segment_header_comes_back() -> None:
    identity = WalIdentity("bats", 3)
    header = SegmentHeader(identity.cluster_hash(), 3, SALT, 17, 4096)
    data = header.encode()
    assert len(data) == SEGMENT_HEADER_BYTES
    assert decode_segment_header(data, "here") == header
    header.check_identity(identity, "here")
    with pytest.raises(ConfigError, match="here belongs to node 3, this is node 4"):
        header.check_identity(WalIdentity("bats", 4), "here")


@pytest.mark.interpreted
def test_a_header_of_another_version_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noctule.adapters.wal_format.FORMAT_VERSION", 3)
    data = SegmentHeader(bytes(8), 3, SALT, 17, 4096).encode()
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="here has log format 3, this Noctule reads 2"):
        decode_segment_header(data, "here")


def test_names() -> None:
    assert segment_name(255) == "wal-00000000000000ff.log"
    assert parse_segment_name("wal-00000000000000ff.log") == 255
    for name in ("wal-ff.log", "wal-00000000000000ff.log.tmp", "LOCK", "wal-next.log.tmp"):
        assert parse_segment_name(name) is None
