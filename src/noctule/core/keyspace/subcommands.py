"""Commands with a second word, such as XGROUP CREATE: which handler, with how many arguments, and what HELP says."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from noctule.core.keyspace.failures import until_zero, wrong_arity
from noctule.core.keyspace.reply import Failure, Reply, Status
from noctule.core.keyspace.spec import READ, Handler
from noctule.core.keyspace.state import State

_SHOWN_BYTES = 128


class Subcommand(NamedTuple):
    """One of them."""

    arity: int
    """How many arguments with both words; below zero: at least as many."""
    handler: Handler
    flags: tuple[bytes, ...] = READ
    """As COMMAND shows them."""


class Dispatcher:
    """The handler of a command whose first argument is one of these words, or HELP."""

    __slots__ = ("_help", "_name", "subcommands")

    def __init__(self, name: bytes, subcommands: Mapping[bytes, Subcommand], help_text: Sequence[str]) -> None:
        self.subcommands = subcommands
        """By the word in upper case; each is about the key behind it."""
        self._name = name
        heading = f"{name.decode()} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
        self._help = [Status(line.encode()) for line in (heading, *help_text, "HELP", "    Prints this help.")]

    def __call__(self, state: State, args: Sequence[bytes], now_ms: int) -> Reply:
        """Run the subcommand."""
        word = args[1].upper()
        subcommand = self.subcommands.get(word)
        if subcommand is None and word != b"HELP":
            return Failure(
                b"ERR unknown subcommand '%b'. Try %b HELP." % (until_zero(args[1])[:_SHOWN_BYTES], self._name)
            )
        arity = 2 if subcommand is None else subcommand.arity
        if arity != len(args) and (arity > 0 or len(args) < -arity):
            return wrong_arity(b"%b|%b" % (self._name, args[1]))
        return [*self._help] if subcommand is None else subcommand.handler(state, args, now_ms)


def syntax_problem(args: Sequence[bytes]) -> Failure:
    """For a subcommand whose options make no sense."""
    return Failure(
        b"ERR unknown subcommand or wrong number of arguments for '%b'. Try %b HELP."
        % (until_zero(args[1])[:_SHOWN_BYTES], args[0].upper())
    )


def key_after_subcommand(args: Sequence[bytes]) -> Sequence[bytes]:
    """A key in the second argument; HELP has none."""
    return args[2:3]
