"""The ids of stream entries: milliseconds and a number within them, 64 bits each, held as one number of 128 bits.

So they are compared, and the next one found, as numbers. Source: `streamGenericParseIDOrReply` in Redis 7.0's
t_stream.c, and what `strtoull` makes of a number that is not in its only spelling.
"""

import re

from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import Failure

SEQUENCE_BITS = 64
LARGEST_PART = 2**64 - 1
LARGEST_ID = 2**128 - 1

INVALID_ID = Failure(b"ERR Invalid stream ID specified as stream command argument")

_TEXT_BYTES_MAX = 127
_LOOSE_NUMBER = re.compile(rb"[ \t\n\v\f\r]*\+?\d+")


def format_id(id_: int) -> bytes:
    """As clients see it: ``milliseconds-sequence``."""
    return b"%d-%d" % (id_ >> SEQUENCE_BITS, id_ & LARGEST_PART)


def parse_id(text: bytes, missing_sequence: int = 0) -> int | None:
    """An id whose sequence may be missing, or None; ``-`` and ``+`` are none."""
    if len(text) > _TEXT_BYTES_MAX:
        return None
    ms_text, dash, sequence_text = text.partition(b"\0")[0].partition(b"-")
    ms = _parse_part(ms_text)
    sequence = _parse_part(sequence_text) if dash else missing_sequence
    return None if ms is None or sequence is None else ms << SEQUENCE_BITS | sequence


def next_id(last_id: int, now_ms: int) -> int:
    """The id of an entry that is added now: never at or before the last one, wherever the clock stands."""
    return max(now_ms << SEQUENCE_BITS, last_id + 1)


def parse_start(text: bytes) -> int | Failure:
    """The first id of an interval: an id, ``-``, ``+``, or after ``(`` the one to begin behind."""
    parsed = _parse_bound(text, 0)
    if parsed is None:
        return INVALID_ID
    start, is_exclusive = parsed
    if is_exclusive and start == LARGEST_ID:
        return Failure(b"ERR invalid start ID for the interval")
    return start + is_exclusive


def parse_end(text: bytes) -> int | Failure:
    """The last id of an interval, likewise; one without a sequence takes in all of its millisecond."""
    parsed = _parse_bound(text, LARGEST_PART)
    if parsed is None:
        return INVALID_ID
    end, is_exclusive = parsed
    if is_exclusive and end == 0:
        return Failure(b"ERR invalid end ID for the interval")
    return end - is_exclusive


def _parse_bound(text: bytes, missing_sequence: int) -> tuple[int, bool] | None:
    if text in (b"-", b"+"):
        return (0 if text == b"-" else LARGEST_ID), False
    is_exclusive = len(text) > 1 and text[:1] == b"("
    id_ = parse_id(text[is_exclusive:], missing_sequence)
    return None if id_ is None else (id_, is_exclusive)


def _parse_part(text: bytes) -> int | None:
    number = parse_int(text)
    if number is not None:
        return number if number >= 0 else None
    if not _LOOSE_NUMBER.fullmatch(text):
        return None
    number = int(text)
    return number if number <= LARGEST_PART else None
