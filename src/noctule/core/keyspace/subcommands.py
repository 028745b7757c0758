"""Commands with a second word, such as XGROUP CREATE: which handler, with how many arguments, and what HELP says."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from noctule.core.keyspace.reply import Failure, Reply, Status
from noctule.core.keyspace.spec import Handler
from noctule.core.keyspace.state import State

_SHOWN_BYTES = 128


class Subcommand(NamedTuple):
    """One of them."""

    arity: int
    """How many arguments with both words; below zero: at least as many."""
    handler: Handler


def dispatcher(name: bytes, subcommands: Mapping[bytes, Subcommand], help_text: Sequence[str]) -> Handler:
    """The handler of a command whose first argument is one of these words, or HELP."""
    heading = f"{name.decode()} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    lines: list[Reply] = [Status(line.encode()) for line in (heading, *help_text, "HELP", "    Prints this help.")]
    table = {**subcommands, b"HELP": Subcommand(2, lambda _state, _args, _now_ms: lines)}

    def dispatch(state: State, args: Sequence[bytes], now_ms: int) -> Reply:
        subcommand = table.get(args[1].upper())
        if subcommand is None:
            return Failure(b"ERR unknown subcommand '%b'. Try %b HELP." % (args[1][:_SHOWN_BYTES], name))
        arity = subcommand.arity
        if arity != len(args) and (arity > 0 or len(args) < -arity):
            words = (name.lower(), args[1].lower())
            return Failure(b"ERR wrong number of arguments for '%b|%b' command" % words)
        return subcommand.handler(state, args, now_ms)

    return dispatch


def syntax_problem(args: Sequence[bytes]) -> Failure:
    """For a subcommand whose options make no sense."""
    return Failure(
        b"ERR unknown subcommand or wrong number of arguments for '%b'. Try %b HELP."
        % (args[1][:_SHOWN_BYTES], args[0].upper())
    )


def key_after_subcommand(args: Sequence[bytes]) -> Sequence[bytes]:
    """A key in the second argument; HELP has none."""
    return args[2:3]
