"""Numbers as Redis reads and writes them."""

from fractions import Fraction
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.keyspace.numbers import (
    add_floats,
    format_double,
    format_float,
    format_score,
    is_infinite,
    parse_double,
    parse_float,
    parse_int,
    parse_limit,
)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_integer_in_its_own_spelling(number: int) -> None:
    assert parse_int(b"%d" % number) == number


@pytest.mark.parametrize(
    "text",
    [b"", b" 1", b"1 ", b"+1", b"01", b"-0", b"1_0", b"1.0", b"x", b"\xd9\xa1", b"9223372036854775808", b"9" * 5_000],
)
def test_no_other_spelling_is_an_integer(text: bytes) -> None:
    assert parse_int(text) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [(b"1", b"1"), (b".5", b"0.5"), (b"5.", b"5"), (b"-0.0", b"0"), (b"1e3", b"1000"), (b"-1E-2", b"-0.01")],
)
def test_decimal_numbers(text: bytes, shown: bytes) -> None:
    number = parse_float(text)
    assert number is not None
    assert format_float(number) == shown


@pytest.mark.parametrize(
    "text", [b"", b".", b"e1", b"1e", b" 1", b"1 ", b"nan", b"inf", b"1e400", b"1e-9999", b"1" * 1_001, b"1e1000000000"]
)
def test_what_is_no_decimal_number(text: bytes) -> None:
    assert parse_float(text) is None


def test_infinities() -> None:
    assert all(is_infinite(text) for text in (b"inf", b"-Inf", b"+INFINITY"))
    assert not any(is_infinite(text) for text in (b"infinit", b"nan", b"1"))


@given(st.floats(allow_nan=False))
def test_doubles_are_read_as_they_are_written(number: float) -> None:
    """Python's ``repr`` has the fewest digits that tell a double, ``format_double`` seventeen at most."""
    for text in (repr(number).encode(), number.hex().encode(), format_double(number)):
        assert parse_double(text) == number
        assert parse_limit(text) == number


@pytest.mark.parametrize(
    ("text", "number", "limit"),
    [(b"", None, 0.0), (b" ", None, None), (b" 1", None, 1.0), (b"1 ", None, None), (b"1e400", None, inf),
     (b"-1e400", None, -inf),
     (b"1e-400", None, 0.0), (b"0e-400", 0.0, 0.0), (b"nan", None, None), (b"1_0", None, None), (b".", None, None),
     (b"1\0x", None, 1.0), (b"-Infinity", -inf, -inf), (b"0x10", 16.0, 16.0), (b"0x1p9999", None, inf),
     (b"0x", None, None), (b"+5.", 5.0, 5.0), (b"1" * 1_001, None, None)],
)  # fmt: skip
def test_doubles_at_the_edges(text: bytes, number: float | None, limit: float | None) -> None:
    assert parse_double(text) == number
    assert parse_limit(text) == limit


@pytest.mark.parametrize(
    ("number", "double", "score"),
    [(3.1, b"3.1000000000000001", b"3.1000000000000001"), (1e17, b"1e+17", b"100000000000000000"),
     (5e18, b"5e+18", b"5e+18"), (-0.0, b"-0", b"0"), (-inf, b"-inf", b"-inf"), (17.0, b"17", b"17"),
     (1e-7, b"9.9999999999999995e-08", b"9.9999999999999995e-08")],
)  # fmt: skip
def test_doubles_are_written_as_redis_does(number: float, double: bytes, score: bytes) -> None:
    assert format_double(number) == double
    assert format_score(number) == score


@given(st.fractions(min_value=-(10**20), max_value=10**20), st.fractions(min_value=-(10**20), max_value=10**20))
def test_a_sum_has_64_bits_of_mantissa_and_is_the_nearest(left: Fraction, right: Fraction) -> None:
    total = add_floats(left, right)
    assert total is not None
    exact = left + right
    assert abs(total - exact) * 2**64 <= abs(exact)
    if total:
        odd = abs(total.numerator)
        odd //= odd & -odd
        assert odd.bit_length() <= 64
        assert total.denominator & (total.denominator - 1) == 0
