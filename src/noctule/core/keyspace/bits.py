"""The commands on strings as rows of bits, the highest bit of the first byte first.

A row of bits is one long number here, so that counting, finding and combining them take time by the byte and not by the
bit. Source: Redis 7.0's bitops.c.
"""

from collections.abc import Sequence

from noctule.base.bounds import VALUE_BYTES_MAX
from noctule.core.keyspace.failures import NOT_AN_INTEGER, STRING_TOO_LONG, SYNTAX, WRONG_TYPE
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.spec import GROW, ONE, READ, READ_FAST, CommandSpec, Scope, rows
from noctule.core.keyspace.state import NOT_A_STRING, State

NOT_AN_OFFSET = Failure(b"ERR bit offset is not an integer or out of range")

_OFFSET_MAX = 2**32 - 1
"""Redis' own; over VALUE_BYTES_MAX a write is refused in our words."""


def setbit(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """SETBIT key offset 0|1; what the bit was."""
    offset = parse_offset(args[2])
    if isinstance(offset, Failure):
        return offset
    if args[3] not in (b"0", b"1"):
        return Failure(b"ERR bit is not an integer or out of range")
    value = state.get(args[1])
    if isinstance(value, NOT_A_STRING):
        return WRONG_TYPE
    if offset >> 3 >= VALUE_BYTES_MAX:
        return STRING_TOO_LONG
    changed = bytearray((value or b"").ljust((offset >> 3) + 1, b"\0"))
    mask = 128 >> (offset & 7)
    old = changed[offset >> 3]
    changed[offset >> 3] = old | mask if args[3] == b"1" else old & ~mask
    state.put(args[1], bytes(changed))
    return int(old & mask != 0)


def getbit(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """GETBIT key offset; 0 behind the end."""
    offset = parse_offset(args[2])
    if isinstance(offset, Failure):
        return offset
    value = state.get(args[1])
    if isinstance(value, NOT_A_STRING):
        return WRONG_TYPE
    return 0 if value is None or offset >> 3 >= len(value) else value[offset >> 3] >> (7 - offset & 7) & 1


def bitcount(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """BITCOUNT key [start end [BYTE|BIT]]; below zero they count from the end."""
    value = state.get(args[1])
    if value is None:
        return 0
    if isinstance(value, NOT_A_STRING):
        return WRONG_TYPE
    if len(args) == 2:
        return int.from_bytes(value).bit_count()
    if len(args) not in (4, 5):
        return SYNTAX
    start, end = parse_int(args[2]), parse_int(args[3])
    if start is None or end is None:
        return NOT_AN_INTEGER
    if start < 0 and end < 0 and start > end:
        return 0
    if len(args) == 5 and args[4].upper() not in (b"BYTE", b"BIT"):
        return SYNTAX
    first, last = _interval(value, start, end, in_bits=args[4:5] != [] and args[4].upper() == b"BIT")
    return 0 if first > last else _bits(value, first, last).bit_count()


def bitpos(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """BITPOS key 0|1 [start [end [BYTE|BIT]]]; -1 when there is none. Without an end, zeros go on for ever."""
    bit = parse_int(args[2])
    if bit is None:
        return NOT_AN_INTEGER
    if bit not in (0, 1):
        return Failure(b"ERR The bit argument must be 1 or 0.")
    value = state.get(args[1])
    if value is None:
        return -1 if bit else 0
    if isinstance(value, NOT_A_STRING):
        return WRONG_TYPE
    if len(args) > 6:
        return SYNTAX
    start = parse_int(args[3]) if len(args) > 3 else 0
    if start is None:
        return NOT_AN_INTEGER
    in_bits = len(args) == 6 and args[5].upper() == b"BIT"
    if len(args) == 6 and args[5].upper() not in (b"BYTE", b"BIT"):
        return SYNTAX
    end = parse_int(args[4]) if len(args) > 4 else -1
    if end is None:
        return NOT_AN_INTEGER
    first, last = _interval(value, start, end, in_bits=in_bits)
    if first > last:
        return -1
    width = last - first + 1
    bits = _bits(value, first, last)
    wanted = bits if bit else bits ^ (1 << width) - 1
    if wanted:
        return first + width - wanted.bit_length()
    return -1 if bit or len(args) > 4 else last + 1


def bitop(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """BITOP AND|OR|XOR|NOT destination key…; how many bytes the result has. What is too short goes on with zeros."""
    operation = args[1].upper()
    if operation not in (b"AND", b"OR", b"XOR", b"NOT"):
        return SYNTAX
    if operation == b"NOT" and len(args) != 4:
        return Failure(b"ERR BITOP NOT must be called with a single source key.")
    sources = []
    for key in args[3:]:
        value = state.get(key)
        if isinstance(value, NOT_A_STRING):
            return WRONG_TYPE
        sources.append(value or b"")
    size = max(map(len, sources))
    if not size:
        state.remove(args[2])
        return 0
    first, *others = [int.from_bytes(source.ljust(size, b"\0")) for source in sources]
    for other in others:
        first = first & other if operation == b"AND" else first | other if operation == b"OR" else first ^ other
    if operation == b"NOT":
        first ^= (1 << 8 * size) - 1
    state.replace(args[2], first.to_bytes(size), None)
    return size


def parse_offset(text: bytes, unit_bits: int = 0) -> int | Failure:
    """The place of a bit; with a unit also ``#n``, the place of the unit with that number."""
    is_counted = bool(unit_bits) and text[:1] == b"#"
    number = parse_int(text[is_counted:])
    if number is None or number < 0:
        return NOT_AN_OFFSET
    offset = number * unit_bits if is_counted else number
    return offset if offset <= _OFFSET_MAX else NOT_AN_OFFSET


def _interval(value: bytes, start: int, end: int, *, in_bits: bool) -> tuple[int, int]:
    """The first and the last bit, from indices that count from the end when they are below zero."""
    total = 8 * len(value) if in_bits else len(value)
    first = max(start + total, 0) if start < 0 else start
    last = min(max(end + total, 0) if end < 0 else end, total - 1)
    return (first, last) if in_bits else (8 * first, 8 * last + 7)


def _bits(value: bytes, first: int, last: int) -> int:
    """The bits from `first` to `last`, both inclusive and in the string, as a number."""
    covering = int.from_bytes(value[first >> 3 : (last >> 3) + 1])
    return covering >> (7 - last & 7) & (1 << last - first + 1) - 1


COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("BITCOUNT", -2, READ, ONE, bitcount, "How many bits of a string are set: BYTE, BIT."),
        ("BITOP", -4, GROW, (2, -1, 1), bitop, "Combines the bits of strings: AND, OR, XOR, NOT."),
        ("BITPOS", -3, READ, ONE, bitpos, "Where the first bit is that is set, or not: BYTE, BIT."),
        ("GETBIT", 3, READ_FAST, ONE, getbit, "A bit of a string."),
        ("SETBIT", 4, GROW, ONE, setbit, "Sets a bit of a string."),
    ),
)
"""The rows of this file."""
