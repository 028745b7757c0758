"""Replies as bytes: what a client is told after a retry or from another node is what it would have been told."""

import math

import msgspec
import pytest
from hypothesis import given

from noctule.core.keyspace.reply import OK, Failure, Reply, Status
from noctule.core.keyspace.values import decode_values, encode_values

from .test_frames import REPLIES


@given(REPLIES)
def test_every_reply_comes_back_as_it_was(reply: Reply) -> None:
    (back,) = decode_values(encode_values([reply]))
    assert back == reply
    assert type(back) is type(reply)


@given(REPLIES)
def test_equal_replies_are_equal_bytes(reply: Reply) -> None:
    """The bytes are part of a replica's digest."""
    (back,) = decode_values(encode_values([reply]))
    assert encode_values([back]) == encode_values([reply])


def test_numbers_at_their_ends_come_back() -> None:
    numbers: list[Reply] = [2**63 - 1, -(2**63), 0, -1, math.inf, -math.inf, 1e308, -0.0]
    back = decode_values(encode_values(numbers))
    assert back == numbers
    assert [type(number) for number in back] == [type(number) for number in numbers]


def test_true_is_not_one_and_text_is_not_bytes() -> None:
    """A reply of a type that no client protocol has would first fail at the client's connection, far from its cause."""
    (number, text) = decode_values(encode_values([1, b"\xff\x00"]))
    assert type(number) is int
    assert text == b"\xff\x00"


def test_the_usual_status_is_not_made_anew() -> None:
    """Most writes answer OK, so most of all answers would be a new object each."""
    assert decode_values(encode_values([OK, Status(b"OK")])) == [OK, OK]
    assert all(status is OK for status in decode_values(encode_values([OK, Status(b"OK")])))


def test_status_and_failure_of_the_same_text_differ() -> None:
    status, failure, text = encode_values([Status(b"x")]), encode_values([Failure(b"x")]), encode_values([b"x"])
    assert len({status, failure, text}) == 3


def test_what_is_no_reply_cannot_be_encoded() -> None:
    with pytest.raises(NotImplementedError, match="object is not a reply"):
        encode_values([object()])  # type: ignore[list-item]


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", b"\x92\x01", b"\x91\xd4\x63\x00"])
def test_nonsense_is_an_error(data: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        decode_values(data)
