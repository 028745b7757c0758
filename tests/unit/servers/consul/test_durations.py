"""Durations are read and printed as Go does it; the tables are from a real Consul and Go's documentation."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.servers.consul.durations import parse_duration_ns, render_duration


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("10s", 10_000_000_000),
        ("15.0s", 15_000_000_000),
        ("0.001s", 1_000_000),
        (".5s", 500_000_000),
        ("1m30s", 90_000_000_000),
        ("1h0m0.5s", 3_600_500_000_000),
        ("1us", 1_000),
        ("1µs", 1_000),
        ("0", 0),
        ("-5s", -5_000_000_000),
        ("+5s", 5_000_000_000),
    ],
)
def test_what_go_reads_is_read(text: str, ns: int) -> None:
    assert parse_duration_ns(text) == ns


@pytest.mark.parametrize("text", ["", "x", "5", "1d", "s", ".s", "1 s", " 1s", "9999999999h", "1s;", "٣s", "1s" * 60])
def test_what_go_does_not_read_is_not_read(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text) or "^$"):
        parse_duration_ns(text)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (15_000_000_000, "15s"),
        (100_000_000, "100ms"),
        (1_500_000, "1.5ms"),
        (90_000_000_000, "1m30s"),
        (86_400_000_000_000, "24h0m0s"),
        (3_600_500_000_000, "1h0m0.5s"),
        (1_001, "1.001µs"),
        (7, "7ns"),
    ],
)
def test_printed_as_go_prints(ns: int, text: str) -> None:
    assert render_duration(ns) == text


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_what_is_printed_is_read_back(ns: int) -> None:
    assert parse_duration_ns(render_duration(ns)) == ns
