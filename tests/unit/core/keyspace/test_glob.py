"""Patterns: against a plain model, and against those that make careless matchers explode."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.core.keyspace.glob import PATTERN_BYTES_MAX, glob_matcher

LETTERS = b"ab"


def model(pattern: bytes, text: bytes) -> bool:
    """The definition, without classes: tries everything."""
    if not pattern:
        return not text
    if pattern[:1] == b"*":
        return any(model(pattern[1:], text[start:]) for start in range(len(text) + 1))
    return bool(text) and pattern[:1] in (b"?", text[:1]) and model(pattern[1:], text[1:])


@settings(max_examples=400, deadline=None)
@given(
    pattern=st.lists(st.sampled_from([b"a", b"b", b"*", b"?"]), max_size=7).map(b"".join),
    text=st.lists(st.sampled_from([b"a", b"b"]), max_size=9).map(b"".join),
)
def test_agrees_with_the_definition(pattern: bytes, text: bytes) -> None:
    assert glob_matcher(pattern)(text) == model(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (b"h[ae]llo", [b"hello", b"hallo"], [b"hillo", b"hllo"]),
        (b"h[^e]llo", [b"hallo"], [b"hello", b"hllo"]),
        (b"h[a-c]", [b"ha", b"hb", b"hc"], [b"hd", b"h-"]),
        (b"h[c-a]", [b"ha", b"hc"], [b"hd"]),
        (b"\\*", [b"*"], [b"a", b"\\*"]),
        (b"[\\]]", [b"]"], [b"\\"]),
        (b"[]", [], [b"", b"]", b"["]),
        (b"[^]", [b"x", b"\n"], [b"", b"xx"]),
        (b"[ab", [b"a", b"b"], [b"[", b"ab"]),
        (b"a\\", [b"a\\"], [b"a"]),
        (b".+(", [b".+("], [b"aa("]),
        (b"[.]*", [b".", b".x"], [b"x"]),
        (b"?", [b"\n", b"\xff"], [b"", b"xx"]),
        (b"", [b""], [b"a"]),
        (b"**", [b"", b"abc"], []),
        (b"*a*b", [b"ab", b"aab", b"xaxb", b"abab"], [b"ba", b"abx"]),
    ],
)
def test_as_redis_reads_them(pattern: bytes, matching: list[bytes], other: list[bytes]) -> None:
    matches = glob_matcher(pattern)
    assert [text for text in matching + other if matches(text)] == matching


@pytest.mark.parametrize("pattern", [b"a*" * 500 + b"b", b"*?" * 500 + b"b", b"*[ab]" * 200 + b"c", b"*aab" * 250])
def test_no_pattern_explodes(pattern: bytes) -> None:
    """A matcher that takes stars back needs more steps than there are atoms for these."""
    assert len(pattern) <= PATTERN_BYTES_MAX
    matches = glob_matcher(pattern)
    began = time.process_time()
    assert not matches(b"a" * 20_000)
    assert time.process_time() - began < 5
