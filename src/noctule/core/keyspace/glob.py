"""Redis' glob patterns: ``*``, ``?``, ``[a-z]``, ``[^a]`` and ``\\`` before a character that is meant as it is.

A pattern becomes one regular expression whose stars cannot be taken back, so that no pattern makes matching
explode: each star settles for the nearest place where the fixed-length piece after it fits, which is never worse
than a farther one. Source: `stringmatchlen` in Redis 7.0's util.c, with its reading of unfinished classes.
"""

import re
from collections.abc import Callable

PATTERN_BYTES_MAX = 1_024
"""A longer pattern is to be refused: what it costs to prepare one is not spread over any turns."""


def glob_matcher(pattern: bytes) -> Callable[[bytes], bool]:
    """A predicate that tells whether a whole text matches; its cost is at most text times pattern.

    The pattern has at most PATTERN_BYTES_MAX bytes, which whoever calls has checked.
    """
    if pattern and not pattern.strip(b"*"):
        return _always
    pieces = _pieces(pattern)
    if len(pieces) == 1:
        expression = pieces[0]
    else:
        middle = b"".join(b"(?>.*?%b)" % piece for piece in pieces[1:-1] if piece)
        expression = pieces[0] + middle + b".*" + pieces[-1]
    fullmatch = re.compile(expression, re.DOTALL).fullmatch
    return lambda text: fullmatch(text) is not None


def _always(_text: bytes) -> bool:
    return True


def _pieces(pattern: bytes) -> list[bytes]:
    """What stands between the stars, each as a regular expression of a fixed length."""
    pieces = [b""]
    position = 0
    while position < len(pattern):
        symbol = pattern[position : position + 1]
        position += 1
        if symbol == b"*":
            pieces.append(b"")
        elif symbol == b"?":
            pieces[-1] += b"."
        elif symbol == b"[":
            expression, position = _character_class(pattern, position)
            pieces[-1] += expression
        else:
            if symbol == b"\\" and position < len(pattern):
                symbol = pattern[position : position + 1]
                position += 1
            pieces[-1] += re.escape(symbol)
    return pieces


def _character_class(pattern: bytes, position: int) -> tuple[bytes, int]:
    """The class that begins after its ``[``, and the position after it; an unclosed one ends with the pattern."""
    negated = pattern[position : position + 1] == b"^"
    position += negated
    members: set[int] = set()
    while position < len(pattern) and pattern[position] != ord("]"):
        left = len(pattern) - position
        if pattern[position] == ord("\\") and left >= 2:
            members.add(pattern[position + 1])
            position += 2
        elif left >= 3 and pattern[position + 1] == ord("-"):
            low, high = sorted((pattern[position], pattern[position + 2]))
            members.update(range(low, high + 1))
            position += 3
        else:
            members.add(pattern[position])
            position += 1
    listed = b"".join(b"\\x%02x" % member for member in sorted(members))
    if not listed:
        # An empty class fits no character, for which an assertion that never holds stands; negated it fits all.
        return (b"." if negated else b"(?!)"), position + 1
    return b"[%b%b]" % (b"^" if negated else b"", listed), position + 1
