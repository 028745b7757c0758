"""Replies as bytes, read back by hiredis, which others wrote."""

import math

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import InternalError
from noctule.core.keyspace.reply import NULL_ARRAY, OK, Failure, Named, Reply, Status
from noctule.core.wire.resp import Protocol, encode_into, encode_reply


@pytest.mark.parametrize(
    ("reply", "two", "three"),
    [
        (OK, b"+OK\r\n", b"+OK\r\n"),
        (Status(b"PONG"), b"+PONG\r\n", b"+PONG\r\n"),
        (Status(b"a\r\nb"), b"+a  b\r\n", b"+a  b\r\n"),
        (Failure(b"ERR a\nb"), b"-ERR a b\r\n", b"-ERR a b\r\n"),
        (None, b"$-1\r\n", b"_\r\n"),
        (NULL_ARRAY, b"*-1\r\n", b"_\r\n"),
        ([NULL_ARRAY], b"*1\r\n*-1\r\n", b"*1\r\n_\r\n"),
        (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
        (b"a\r\n", b"$3\r\na\r\n\r\n", b"$3\r\na\r\n\r\n"),
        (0, b":0\r\n", b":0\r\n"),
        (1_023, b":1023\r\n", b":1023\r\n"),
        (1_024, b":1024\r\n", b":1024\r\n"),
        (-(2**63), b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
        (1.5, b"$3\r\n1.5\r\n", b",1.5\r\n"),
        (3.0, b"$1\r\n3\r\n", b",3\r\n"),
        (1e22, b"$5\r\n1e+22\r\n", b",1e+22\r\n"),
        (3.1, b"$18\r\n3.1000000000000001\r\n", b",3.1000000000000001\r\n"),
        (math.inf, b"$3\r\ninf\r\n", b",inf\r\n"),
        (-math.inf, b"$4\r\n-inf\r\n", b",-inf\r\n"),
        (math.nan, b"$3\r\nnan\r\n", b",nan\r\n"),
        ([], b"*0\r\n", b"*0\r\n"),
        ([1, None, [b"x"]], b"*3\r\n:1\r\n$-1\r\n*1\r\n$1\r\nx\r\n", b"*3\r\n:1\r\n_\r\n*1\r\n$1\r\nx\r\n"),
        ({b"f": b"v"}, b"*2\r\n$1\r\nf\r\n$1\r\nv\r\n", b"%1\r\n$1\r\nf\r\n$1\r\nv\r\n"),
        ({}, b"*0\r\n", b"%0\r\n"),
        (
            Named([(b"a", [1]), (b"a", None)]),
            b"*2\r\n*2\r\n$1\r\na\r\n*1\r\n:1\r\n*2\r\n$1\r\na\r\n$-1\r\n",
            b"%2\r\n$1\r\na\r\n*1\r\n:1\r\n$1\r\na\r\n_\r\n",
        ),
    ],
)
def test_each_kind(reply: Reply, two: bytes, three: bytes) -> None:
    assert encode_reply(reply, 2) == two
    assert encode_reply(reply, 3) == three


replies = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def flat(reply: Reply) -> object:
    """What a RESP2 client sees: maps are lists."""
    if isinstance(reply, dict):
        return [flat(item) for pair in reply.items() for item in pair]
    return [flat(item) for item in reply] if isinstance(reply, list) else reply


@given(replies)
def test_a_client_reads_back_what_was_answered(reply: Reply) -> None:
    for protocol, expected in ((2, flat(reply)), (3, reply)):
        reader = hiredis.Reader()
        reader.feed(encode_reply(reply, protocol))  # type: ignore[arg-type]
        assert reader.gets() == expected
        assert reader.gets() is False


@given(st.lists(replies, max_size=5), st.sampled_from([2, 3]))
def test_pieces_of_several_replies_can_be_joined(several: list[Reply], protocol: Protocol) -> None:
    parts: list[bytes] = []
    for reply in several:
        encode_into(parts, reply, protocol)
    assert b"".join(parts) == b"".join(encode_reply(reply, protocol) for reply in several)


def test_what_is_no_reply_is_our_bug() -> None:
    with pytest.raises(InternalError, match="set"):
        encode_reply([{1}], 2)  # type: ignore[list-item]
