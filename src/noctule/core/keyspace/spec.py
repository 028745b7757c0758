"""What the table says of a command: its arity, where its keys stand, how far it reaches, and who carries it out.

Each family file ends with its rows; commands.py collects them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import Reply
from noctule.core.keyspace.since import feature_of
from noctule.core.keyspace.state import State
from noctule.core.keyspace.waits import Blocking

Handler: TypeAlias = Callable[[State, Sequence[bytes], int], Reply]
"""Called with the state, the arguments with the name first, and the leader's time in unix ms."""
KeyFinder: TypeAlias = Callable[[Sequence[bytes]], Sequence[bytes]]
"""The keys of a command whose places its arguments tell; what cannot be understood has none."""


class Scope(StrEnum):
    """How far a command reaches, which decides where it runs."""

    KEY = "key"
    """The one partition of its first key; its other keys must be there too."""
    SPLIT = "split"
    """Its keys may be on many partitions: it is split and the replies are merged. Atomic in each, not across."""
    ALL = "all"
    """Every partition; SCAN visits one of them in each call."""
    CONNECTION = "connection"
    """About the connection or the server: answered by the server, never by the keyspace."""
    INTERNAL = "internal"
    """Made by leaders, or by servers of what clients send; those are told that it is unknown."""


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One row of the table."""

    name: bytes
    """In upper case."""
    arity: int
    """How many arguments with the name; below zero: at least as many."""
    flags: tuple[bytes, ...]
    """As COMMAND shows them; ``denyoom`` marks the writes that may need more memory."""
    first_key: int
    """The position of the first key, 0 without keys; the last, counted from the end when below zero; the step."""
    last_key: int
    key_step: int
    scope: Scope
    is_write: bool
    """Whether it must go through the log."""
    summary: str
    handler: Handler | None
    """None in scope CONNECTION."""
    find_keys: KeyFinder | None
    """For the few whose keys stand elsewhere, too."""
    has_one_key: bool
    """Whether its only key is always its first argument, as nearly always."""
    blocking: Blocking | None = None
    """How it waits, if it does; its handler never does (waits.py)."""
    feature: str | None = None
    """What every node of the cluster must have before it is used (since.py)."""

    def keys(self, args: Sequence[bytes]) -> Sequence[bytes]:
        """The keys among the arguments, in their order; a trailing key without its value is among them."""
        if self.find_keys is not None:
            return self.find_keys(args)
        if not self.first_key:
            return ()
        end = self.last_key + 1 if self.last_key > 0 else len(args) + self.last_key + 1
        return args[self.first_key : end : self.key_step]

    def places(self, args: Sequence[bytes]) -> Sequence[int]:
        """Where among the arguments those keys stand."""
        if self.has_one_key:
            return (1,)
        # A finder gives arguments as they are, so each can carry its place there and back.
        keys = self.keys([_Placed.at(place, argument) for place, argument in enumerate(args)])
        return [key.place for key in keys if isinstance(key, _Placed)]


class _Placed(bytes):
    """An argument that knows where it stands."""

    place: int

    @classmethod
    def at(cls, place: int, argument: bytes) -> "_Placed":
        placed = cls(argument)
        placed.place = place
        return placed


READ = (b"readonly",)
READ_FAST = (b"readonly", b"fast")
WRITE = (b"write",)
WRITE_FAST = (b"write", b"fast")
GROW = (b"write", b"denyoom")
GROW_FAST = (b"write", b"denyoom", b"fast")
NO_KEYS = (0, 0, 0)
ONE = (1, 1, 1)
TWO = (1, 2, 1)
MANY = (1, -1, 1)
PAIRS = (1, -1, 2)

Row: TypeAlias = tuple[str, int, tuple[bytes, ...], tuple[int, int, int], Handler | None, str]
"""Name, arity, flags, places of the keys, handler, summary."""


def rows(
    scope: Scope, *table: Row, find_keys: KeyFinder | None = None, blocking: Blocking | None = None
) -> tuple[CommandSpec, ...]:
    """The specs of rows that have a scope, and perhaps a way to find keys and one to wait, in common."""
    return tuple(
        CommandSpec(
            name.encode(),
            arity,
            flags,
            *places,
            scope,
            b"write" in flags,
            summary,
            handler,
            find_keys,
            places == ONE and find_keys is None,
            blocking,
            None if scope is Scope.CONNECTION else feature_of(name.encode()),
        )
        for name, arity, flags, places, handler, summary in table
    )


def counted_keys(position: int, *, also_first: bool = False) -> KeyFinder:
    """The keys behind the argument at `position` that says how many; with the first argument, where that is one."""

    def find(args: Sequence[bytes]) -> Sequence[bytes]:
        count = parse_int(args[position]) if position < len(args) else None
        first = [*args[1:2]] if also_first else []
        return [*first, *args[position + 1 : position + 1 + count]] if count is not None and count > 0 else first

    return find
