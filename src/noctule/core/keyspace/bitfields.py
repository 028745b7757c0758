"""BITFIELD: integers of any width at any place of a string. Source: Redis 7.0's bitops.c."""

from collections.abc import Sequence
from typing import NamedTuple

from noctule.base.bounds import VALUE_BYTES_MAX
from noctule.core.keyspace.bits import parse_offset
from noctule.core.keyspace.failures import NOT_AN_INTEGER, STRING_TOO_LONG, SYNTAX, WRONG_TYPE
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.spec import GROW, ONE, READ_FAST, CommandSpec, Scope, rows
from noctule.core.keyspace.state import NOT_A_STRING, State

_NOT_A_TYPE = Failure(
    b"ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is."
)


class _Kind(NamedTuple):
    """Such as i16 or u8."""

    is_signed: bool
    bits: int

    def read(self, number: int) -> int:
        """The integer that these bits, as a number, stand for."""
        return number - (1 << self.bits) if self.is_signed and number >> self.bits - 1 else number

    def fit(self, number: int, overflow: bytes) -> int | None:
        """What a number becomes that may be too large or too small; None when it must FAIL."""
        smallest = -(1 << self.bits - 1) if self.is_signed else 0
        largest = smallest + (1 << self.bits) - 1
        if smallest <= number <= largest:
            return number
        if overflow == b"FAIL":
            return None
        if overflow == b"SAT":
            return largest if number > largest else smallest
        return self.read(number & (1 << self.bits) - 1)


class _Step(NamedTuple):
    """One operation of several."""

    name: bytes
    """GET, SET or INCRBY."""
    kind: _Kind
    offset: int
    number: int
    overflow: bytes


def bitfield(state: State, args: Sequence[bytes], _now_ms: int) -> Reply:
    """BITFIELD key (GET type offset | SET type offset value | INCRBY type offset by | OVERFLOW WRAP|SAT|FAIL)…"""
    steps = _parse_steps(args)
    if isinstance(steps, Failure):
        return steps
    value = state.get(args[1])
    if isinstance(value, NOT_A_STRING):
        return WRONG_TYPE
    size = max((step.offset + step.kind.bits + 7 >> 3 for step in steps if step.name != b"GET"), default=0)
    if size > VALUE_BYTES_MAX:
        return STRING_TOO_LONG
    changed = bytearray((value or b"").ljust(size, b"\0"))
    replies = [_carry_out(step, changed) for step in steps]
    if size:
        state.put(args[1], bytes(changed))
    return replies


def bitfield_ro(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
    """BITFIELD_RO key (GET type offset)…"""
    steps = _parse_steps(args)
    if isinstance(steps, Failure):
        return steps
    if any(step.name != b"GET" for step in steps):
        return Failure(b"ERR BITFIELD_RO only supports the GET subcommand")
    return bitfield(state, args, now_ms)


def _carry_out(step: _Step, changed: bytearray) -> Reply:
    """Do one operation; what it answers."""
    kind, first = step.kind, step.offset >> 3
    end = step.offset + kind.bits + 7 >> 3
    shift = 8 * end - step.offset - kind.bits
    covering = int.from_bytes(changed[first:end].ljust(end - first, b"\0"))
    mask = (1 << kind.bits) - 1
    old = kind.read(covering >> shift & mask)
    if step.name == b"GET":
        return old
    # Redis reads the value of SET as an unsigned number where the type is one: -1 is the largest there is.
    number = old + step.number if step.name == b"INCRBY" else step.number if kind.is_signed else step.number % 2**64
    new = kind.fit(number, step.overflow)
    if new is None:
        return None
    changed[first:end] = (covering & ~(mask << shift) | (new & mask) << shift).to_bytes(end - first)
    return new if step.name == b"INCRBY" else old


def _parse_steps(args: Sequence[bytes]) -> list[_Step] | Failure:
    steps: list[_Step] = []
    overflow = b"WRAP"
    position = 2
    while position < len(args):
        name, more = args[position].upper(), len(args) - position - 1
        if name == b"OVERFLOW" and more:
            overflow = args[position + 1].upper()
            if overflow not in (b"WRAP", b"SAT", b"FAIL"):
                return Failure(b"ERR Invalid OVERFLOW type specified")
            position += 2
            continue
        if not (name == b"GET" and more >= 2) and not (name in (b"SET", b"INCRBY") and more >= 3):
            return SYNTAX
        kind = _parse_kind(args[position + 1])
        if kind is None:
            return _NOT_A_TYPE
        offset = parse_offset(args[position + 2], kind.bits)
        if isinstance(offset, Failure):
            return offset
        number = 0 if name == b"GET" else parse_int(args[position + 3])
        if number is None:
            return NOT_AN_INTEGER
        steps.append(_Step(name, kind, offset, number, overflow))
        position += 3 if name == b"GET" else 4
    return steps


def _parse_kind(text: bytes) -> _Kind | None:
    bits = parse_int(text[1:])
    is_signed = text[:1] == b"i"
    if text[:1] not in (b"i", b"u") or bits is None or not 1 <= bits <= 63 + is_signed:
        return None
    return _Kind(is_signed, bits)


COMMANDS: tuple[CommandSpec, ...] = (
    *rows(
        Scope.KEY,
        ("BITFIELD", -2, GROW, ONE, bitfield, "Integers within a string: GET, SET, INCRBY, OVERFLOW."),
        ("BITFIELD_RO", -2, READ_FAST, ONE, bitfield_ro, "Integers within a string: GET."),
    ),
)
"""The rows of this file."""
