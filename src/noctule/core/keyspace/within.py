"""The slots that a command is about, whatever partition it is sent to; parts of commands on all keys name theirs.

A part goes as ``NOCTULE.READWITHIN first last command…`` or ``NOCTULE.WRITEWITHIN …`` and is carried out on those slots
only, both inclusive. So each slot is counted or emptied once, though partitions are divided or joined on the way.
"""

from collections.abc import Sequence

from noctule.core.keyspace.commands import find_command
from noctule.core.keyspace.spec import CommandSpec
from noctule.core.placement.slots import key_slot

READ_WITHIN = b"NOCTULE.READWITHIN"
WRITE_WITHIN = b"NOCTULE.WRITEWITHIN"
_WRAPPERS = (READ_WITHIN, WRITE_WITHIN)


def within(spec: CommandSpec, first: int, last: int, args: Sequence[bytes]) -> list[bytes]:
    """A command in scope ALL, about the slots from `first` to `last` only."""
    return [WRITE_WITHIN if spec.is_write else READ_WITHIN, b"%d" % first, b"%d" % last, *args]


def unwrapped(args: list[bytes]) -> tuple[int, int, list[bytes]] | None:
    """First and last slot and the command of what `within` made; None of any other command."""
    if args[0] not in _WRAPPERS:
        return None
    return int(args[1]), int(args[2]), args[3:]


def slots_of(args: list[bytes]) -> Sequence[int]:
    """Every slot that the command is about, some more than once; none of a command without keys or slots."""
    part = unwrapped(args)
    if part is not None:
        return range(part[0], part[1] + 1)
    spec = find_command(args[0])
    return [key_slot(key) for key in spec.keys(args)] if spec is not None else ()
