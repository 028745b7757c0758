"""Numbers as Redis reads and writes them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.keyspace.numbers import add_floats, format_float, is_infinite, parse_float, parse_int


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
