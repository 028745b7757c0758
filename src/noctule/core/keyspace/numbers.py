"""Numbers as Redis reads and writes them: strict 64-bit integers, doubles, and 80-bit floats for INCRBYFLOAT.

Redis computes INCRBYFLOAT in C's `long double`, whose 64-bit mantissa is emulated here with exact fractions: the
result is the same on every machine, as replicas need it, and digit for digit what Redis on x86-64 answers.
Source: `string2ll`, `string2d`, `string2ld` and `ld2string` in Redis 7.0's util.c. Hexadecimal floats, which C reads
too, are doubles only.
"""

import re
from fractions import Fraction
from math import inf, isinf

INT_MIN = -(2**63)
INT_MAX = 2**63 - 1

FLOAT_CHARS_MAX = 1_000
"""A longer text is not read as a float. (Redis: 5,119.)"""

_WHOLE_MAX = 2.0**62
_MANTISSA_BITS = 64
_DECIMALS = 17
_SMALLEST = Fraction(1, 2**16_445)
_LIMIT = Fraction(2**1024)
_FLOAT = re.compile(rb"([+-]?)(\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d{1,6}))?")
_HEXADECIMAL = re.compile(rb"([+-]?)0[xX]([\da-fA-F]+\.?[\da-fA-F]*|\.[\da-fA-F]+)(?:[pP]([+-]?\d{1,6}))?")
_INFINITY = re.compile(rb"[+-]?inf(inity)?", re.IGNORECASE)


def parse_int(text: bytes) -> int | None:
    """A signed 64-bit integer in its only spelling, or None: no plus, no spaces, no leading zeros, no ``-0``."""
    if len(text) > 20:
        return None
    try:
        number = int(text)
    except ValueError:
        return None
    # Python also reads spaces, underscores and a plus: writing the number again tells whether it was spelt so.
    if b"%d" % number != text or not INT_MIN <= number <= INT_MAX:
        return None
    return number


def is_infinite(text: bytes) -> bool:
    """Whether the text spells an infinity, which Redis reads as a float and then refuses as a sum."""
    return _INFINITY.fullmatch(text) is not None


def parse_float(text: bytes) -> Fraction | None:
    """A decimal number rounded to 64 bits of mantissa, or None.

    None also for what only a `long double` can hold: beyond the largest double, or closer to zero than 2**-16445.
    """
    match = _FLOAT.fullmatch(text) if len(text) <= FLOAT_CHARS_MAX else None
    if match is None:
        return None
    sign, digits, exponent = match.groups(b"0")
    number = Fraction(digits.decode())
    if number == 0:
        return number
    power = int(exponent)
    if abs(power) > 6_000:
        return None
    number = _rounded(number * Fraction(10) ** power)
    if not _SMALLEST <= number < _LIMIT:
        return None
    return -number if sign == b"-" else number


def parse_double(text: bytes) -> float | None:
    """A double, an infinity too, or None; None also for what is beyond all doubles or too close to zero for them."""
    if text.isdigit() and len(text) < 16:
        return float(text)
    if len(text) > FLOAT_CHARS_MAX:
        return None
    match = _FLOAT.fullmatch(text) or _HEXADECIMAL.fullmatch(text)
    if match is None:
        return float(text) if is_infinite(text) else None
    number = _number(text)
    return None if isinf(number) or (number == 0 and match[2].strip(b"0.")) else number


def parse_limit(text: bytes) -> float | None:
    """A double at an end of a range, or None: as C's `strtod` reads it, blanks before it, nothing at all as 0, and what
    is too large as an infinity. Source: `zslParseRange` in Redis 7.0's t_zset.c."""
    text = text.partition(b"\0")[0]
    if not text:
        return 0.0
    text = text.lstrip(b" \t\n\v\f\r")
    if len(text) > FLOAT_CHARS_MAX:
        return None
    return _number(text) if _FLOAT.fullmatch(text) or _HEXADECIMAL.fullmatch(text) or is_infinite(text) else None


def format_double(number: float) -> bytes:
    """As ``%.17g`` prints it: at most 17 digits, an exponent where it is far from 1, ``inf`` and ``-inf``."""
    return b"%.17g" % number


def format_score(number: float) -> bytes:
    """As ZSCAN answers it, which is how Redis keeps it: an integer without an exponent, unless it is very large."""
    if -_WHOLE_MAX < number < _WHOLE_MAX and number.is_integer():
        return b"%d" % number
    return format_double(number)


def add_floats(left: Fraction, right: Fraction) -> Fraction | None:
    """The sum rounded to 64 bits of mantissa; None beyond the largest double."""
    total = _rounded(left + right)
    return total if abs(total) < _LIMIT else None


def format_float(number: Fraction) -> bytes:
    """As ``%.17Lf`` prints it, without the zeros at its end: at most 17 decimals, never an exponent or ``-0``."""
    scaled = round(abs(number) * 10**_DECIMALS)
    whole, decimals = divmod(scaled, 10**_DECIMALS)
    text = f"{whole}.{decimals:0{_DECIMALS}}".rstrip("0").rstrip(".")
    return (f"-{text}" if number < 0 and scaled else text).encode()


def _number(text: bytes) -> float:
    """The double that is nearest to a text known to spell one, in decimals or hexadecimals."""
    if b"x" not in text and b"X" not in text:
        return float(text)
    try:
        return float.fromhex(text.decode())
    except OverflowError:
        return -inf if text.startswith(b"-") else inf


def _rounded(number: Fraction) -> Fraction:
    """To the nearest with 64 bits of mantissa; a tie goes to the even one, as processors do."""
    if number == 0:
        return number
    top, bottom = abs(number.numerator), number.denominator
    # The exponent that makes the mantissa an integer of exactly 64 bits; the first guess may be one too high.
    shift = top.bit_length() - bottom.bit_length() - _MANTISSA_BITS + 1
    unit = Fraction(2) ** shift
    if Fraction(top, bottom) / unit < 2 ** (_MANTISSA_BITS - 1):
        unit /= 2
    return round(number / unit) * unit
