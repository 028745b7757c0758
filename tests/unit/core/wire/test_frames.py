"""Peer frames: whatever is cut, damaged, foreign or from another version is told apart from what is not."""

from contextlib import suppress

import google_crc32c
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import ProtocolError
from noctule.core.keyspace.reply import NULL_ARRAY, OK, Failure, Named, Reply, Status
from noctule.core.raft.messages import (
    Append,
    AppendReply,
    Entry,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from noctule.core.wire.frames import (
    HEADER_BYTES,
    FrameReader,
    decode_envelopes,
    decode_hello,
    encode_frame,
    encode_hello,
)
from noctule.core.wire.messages import (
    Answered,
    Envelope,
    Forward,
    ForwardQuery,
    ForwardReads,
    Hello,
    KeyReady,
    PeerMessage,
    Published,
    ReadRound,
    ReadRoundReply,
    ReadsAnswered,
    Refused,
)

NUMBERS = st.integers(0, 2**63 - 1)
TEXT = st.binary(max_size=40)
REPLIES: st.SearchStrategy[Reply] = st.recursive(
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | TEXT
    | TEXT.map(Status)
    | TEXT.map(Failure)
    | st.just(NULL_ARRAY),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXT, inner, max_size=3)
        | st.lists(st.tuples(inner, inner), max_size=3).map(Named)
    ),
    max_leaves=8,
)
ENTRIES = st.lists(st.builds(Entry, NUMBERS, TEXT), max_size=4)
COMMANDS = st.lists(st.lists(TEXT, min_size=1, max_size=4), max_size=4)
MESSAGES: st.SearchStrategy[PeerMessage] = st.one_of(
    st.builds(Append, NUMBERS, NUMBERS, NUMBERS, NUMBERS, ENTRIES),
    st.builds(Published, st.booleans(), TEXT, TEXT),
    st.builds(AppendReply, NUMBERS, st.booleans(), NUMBERS, NUMBERS, NUMBERS),
    st.builds(Heartbeat, NUMBERS, NUMBERS, NUMBERS),
    st.builds(HeartbeatReply, NUMBERS, NUMBERS),
    st.builds(VoteRequest, NUMBERS, NUMBERS, NUMBERS, st.booleans(), st.booleans()),
    st.builds(VoteReply, NUMBERS, st.booleans(), st.booleans()),
    st.builds(InstallSnapshot, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, TEXT, NUMBERS),
    st.builds(InstallSnapshotReply, NUMBERS, NUMBERS, NUMBERS),
    st.builds(TimeoutNow, NUMBERS),
    st.builds(Forward, NUMBERS, NUMBERS, TEXT, NUMBERS),
    st.builds(ForwardQuery, NUMBERS, NUMBERS, COMMANDS),
    st.builds(Answered, NUMBERS, st.booleans(), NUMBERS, st.lists(REPLIES, max_size=4)),
    st.builds(Refused, NUMBERS, st.booleans(), NUMBERS, NUMBERS),
    st.builds(KeyReady, TEXT, TEXT, NUMBERS),
    st.builds(ForwardReads, NUMBERS, st.lists(NUMBERS, max_size=4), COMMANDS),
    st.builds(ReadsAnswered, NUMBERS, st.lists(REPLIES, max_size=4), st.lists(NUMBERS, max_size=4)),
    st.builds(ReadRound, NUMBERS, st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=4)),
    st.builds(ReadRoundReply, NUMBERS, NUMBERS, st.lists(st.tuples(NUMBERS, NUMBERS), max_size=4)),
)
ENVELOPES = st.lists(st.tuples(st.integers(0, 16_384), MESSAGES), max_size=5)
HELLO = Hello(
    1, "bats", "0123456789abcdef", 3, 77, "127.0.0.1:7403", "127.0.0.1:7503", cluster_id="c", control="127.0.0.1:7703"
)


def body_of(frame: bytes) -> bytes:
    (body,) = FrameReader().feed(frame)
    return body


def header(body: bytes) -> bytes:
    checksum: int = google_crc32c.extend(0, body)
    return len(body).to_bytes(4, "big") + checksum.to_bytes(4, "big")


# There and back -------------------------------------------------------------------------------------------------------


@given(ENVELOPES)
def test_every_message_comes_back_as_it_was_sent(envelopes: list[Envelope]) -> None:
    decoded = decode_envelopes(body_of(encode_frame(envelopes)))
    assert decoded == envelopes
    assert [type(message) for _, message in decoded] == [type(message) for _, message in envelopes]


def test_a_status_and_a_failure_are_no_byte_strings_on_the_other_side() -> None:
    """A client was shown the text of an error as if it were the value."""
    answered = Answered(1, True, 1, [OK, Status(b"QUEUED"), Failure(b"ERR no"), b"OK", [Failure(b"x"), {b"f": OK}]])
    ((_, back),) = decode_envelopes(body_of(encode_frame([(1, answered)])))
    assert back == answered


def test_a_hello_comes_back_as_it_was_sent() -> None:
    refusal = Hello(1, "bats", "f", 2, 5, refusal="another cluster")
    assert decode_hello(body_of(encode_hello(HELLO))) == HELLO
    assert decode_hello(body_of(encode_hello(refusal))) == refusal


# Pieces ---------------------------------------------------------------------------------------------------------------


def test_frames_may_be_cut_at_any_byte() -> None:
    """TCP knows no frames."""
    frames = [encode_hello(HELLO), encode_frame([(1, Forward(1, 2, b"x" * 20))]), encode_frame([])]
    stream = b"".join(frames)
    expected = [frame[HEADER_BYTES:] for frame in frames]
    for cut in range(len(stream) + 1):
        reader = FrameReader()
        assert reader.feed(stream[:cut]) + reader.feed(stream[cut:]) == expected
    reader = FrameReader()
    assert [body for at in range(len(stream)) for body in reader.feed(stream[at : at + 1])] == expected


@given(st.lists(ENVELOPES, max_size=4), st.lists(st.integers(1, 60), max_size=30))
def test_a_stream_in_pieces_of_any_sizes_gives_the_same_frames(batches: list[list[Envelope]], sizes: list[int]) -> None:
    stream = b"".join(encode_frame(envelopes) for envelopes in batches)
    reader, bodies, at = FrameReader(), [], 0
    for size in sizes:
        bodies += reader.feed(stream[at : at + size])
        at += size
    bodies += reader.feed(stream[at:])
    assert [decode_envelopes(body) for body in bodies] == batches


def test_a_frame_is_handed_out_as_soon_as_its_last_byte_is_there() -> None:
    frame = encode_frame([(1, TimeoutNow(4))])
    reader = FrameReader()
    assert reader.feed(frame[:-1]) == []
    assert reader.feed(frame[-1:] + frame[:3]) == [frame[HEADER_BYTES:]]
    assert reader.feed(frame[3:]) == [frame[HEADER_BYTES:]]


# Damage ---------------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_in_the_body_is_noticed() -> None:
    """TCP's checksum lets one damaged segment in some millions through, and it would end up in a log."""
    frame = encode_frame([(1, Forward(1, 2, b"SET a 1"))])
    for at in range(4, len(frame)):
        damaged = bytearray(frame)
        damaged[at] ^= 0x10
        with pytest.raises(ProtocolError, match="checksum"):
            FrameReader().feed(bytes(damaged))


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    """A length is believed by nobody: a few bytes must not make a node set gigabytes aside."""
    reader = FrameReader(frame_bytes_max=100)
    at_limit = b"x" * 100
    assert reader.feed(header(at_limit) + at_limit) == [at_limit]
    with pytest.raises(ProtocolError, match="frame of 101 bytes; 100 is the limit"):
        reader.feed((101).to_bytes(4, "big") + bytes(4))


def test_another_protocol_is_refused_by_its_first_bytes() -> None:
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"*1\r\n$4\r\nPING\r\n", b"\x16\x03\x01\x02\x00\x01\x00"):
        with pytest.raises(ProtocolError):
            FrameReader(frame_bytes_max=1 << 20).feed(greeting + bytes(64))


def test_good_frames_before_a_damaged_one_are_not_handed_out_twice() -> None:
    frame = encode_frame([])
    reader = FrameReader()
    assert reader.feed(frame) == [frame[HEADER_BYTES:]]
    with pytest.raises(ProtocolError):
        reader.feed(b"\xff" * HEADER_BYTES)


@given(st.binary(max_size=60))
def test_nonsense_with_a_right_checksum_is_an_error_of_the_protocol(body: bytes) -> None:
    """Any other exception took the whole event loop's callback down."""
    for decode in (decode_envelopes, decode_hello):
        with suppress(ProtocolError):
            decode(body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(msgspec.msgpack.encode([[1, [99, 1, 2]]]), id="a tag that nobody knows"),
        pytest.param(msgspec.msgpack.encode([[1, [3, 1]]]), id="a field without default missing"),
        pytest.param(msgspec.msgpack.encode([[1, [3, "1", 2, 3]]]), id="a field of another type"),
        pytest.param(msgspec.msgpack.encode([[3, 1, 2, 3]]), id="a message without its group"),
        pytest.param(b"\x91\x92\x01\x95\x16\x01\xc3\x01\x91\xd4\x63\x00", id="an extension that nobody knows"),
        pytest.param(b"\x91\x92\x01\x95\x16\x01\xc3\x01" + b"\x91" * 9_000 + b"\x00", id="results that nest for ever"),
        pytest.param(b"\x91\x92\x01\x95\x03\x01\x01\x01" + b"\x91" * 9_000 + b"\x00", id="a new field that nests"),
    ],
)
def test_what_cannot_be_a_frame_is_an_error_of_the_protocol(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="a peer sent a frame that cannot be read"):
        decode_envelopes(body)


@pytest.mark.parametrize("body", [b"", b"\x90", b"\x81\xa1x" + b"\x91" * 9_000 + b"\x00", encode_frame([])])
def test_what_cannot_be_a_hello_is_an_error_of_the_protocol(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="a peer did not introduce itself"):
        decode_hello(body)


# Other versions -------------------------------------------------------------------------------------------------------


@given(MESSAGES, st.lists(st.none() | NUMBERS | TEXT | st.lists(NUMBERS), min_size=1, max_size=3))
def test_a_newer_peer_s_longer_message_is_understood(message: PeerMessage, more: list[object]) -> None:
    """Nodes are replaced one by one: for a while both versions talk to each other."""
    fields = msgspec.msgpack.decode(body_of(encode_frame([(5, message)])), type=list[tuple[int, msgspec.Raw]])[0][1]
    count = bytes(fields)[0] & 0x0F
    assert bytes(fields)[0] == 0x90 | count  # A MessagePack array of less than sixteen.
    longer = bytes([0x90 | (count + len(more))]) + bytes(fields)[1:] + b"".join(map(msgspec.msgpack.encode, more))
    assert decode_envelopes(b"\x91\x92\x05" + longer) == [(5, message)]


def test_an_older_peer_s_shorter_message_gets_the_defaults() -> None:
    body = msgspec.msgpack.encode([[1, [2, 7, True, 9]], [1, [5, 7, 8, 9, True]]])
    assert decode_envelopes(body) == [(1, AppendReply(7, True, 9, 0, 0)), (1, VoteRequest(7, 8, 9, True, False))]


def test_an_older_peer_s_refusal_disclaims_nothing_and_its_request_names_no_term() -> None:
    """It knows nothing of terms: read as "nothing happened", its silence would be a promise that nobody made."""
    body = msgspec.msgpack.encode([[1, [23, 7, True, 9]], [1, [20, 7, 9, b"x"]]])
    refused, forward = Refused(7, True, 9, disclaimed_term=0), Forward(7, 9, b"x", term=0)
    assert decode_envelopes(body) == [(1, refused), (1, forward)]


def test_a_hello_with_fields_of_a_newer_version_and_without_optional_ones_is_understood() -> None:
    """Both must be able to say that their protocols differ."""
    body = msgspec.msgpack.encode(
        {"protocol": 2, "cluster": "bats", "fingerprint": "f", "node_id": 3, "incarnation": 7, "racks": ["a"]}
    )
    assert decode_hello(body) == Hello(2, "bats", "f", 3, 7)
