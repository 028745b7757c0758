"""Commands with subcommands, such as CLIENT ID: found by name, checked, and listed by HELP."""

from collections.abc import Mapping
from typing import NamedTuple

from noctule.core.keyspace.failures import until_zero, wrong_arity
from noctule.core.keyspace.reply import Failure, Reply, Status
from noctule.servers.resp_client import Client, Door, Handler
from noctule.servers.resp_errands import Errand


class Subcommand(NamedTuple):
    """One row of a family."""

    handler: Handler
    arity: int
    """How many arguments with both names; below zero: at least as many."""
    usage: bytes
    summary: bytes
    more: bytes = b""
    """The second line of the summary, where Redis breaks it."""


class Family:
    """A `Handler` that passes a command on by its second word. Error texts are Redis'."""

    __slots__ = ("name", "rows")

    def __init__(self, name: bytes, rows: Mapping[bytes, Subcommand]) -> None:
        self.name = name
        self.rows = rows
        """By the subcommand's name in upper case."""

    def problem(self, args: list[bytes]) -> Failure | None:
        """Why no subcommand can be run by these arguments; None when one can."""
        word = args[1].upper()
        row = self.rows.get(word)
        if row is None:
            return None if word == b"HELP" and len(args) == 2 else unknown_subcommand(self.name, args[1])
        if len(args) != row.arity and (row.arity > 0 or len(args) < -row.arity):
            return wrong_arity(b"%b|%b" % (self.name, word))
        return None

    def __call__(self, door: Door, client: Client, args: list[bytes]) -> Reply | Errand:
        """Run the subcommand."""
        problem = self.problem(args)
        if problem is not None:
            return problem
        row = self.rows.get(args[1].upper())
        return _help(self.name, self.rows) if row is None else row.handler(door, client, args)


def family(name: bytes, rows: Mapping[bytes, Subcommand]) -> Family:
    """The handler of a command with these subcommands, which are named in upper case."""
    return Family(name, rows)


def unknown_subcommand(name: bytes, word: bytes) -> Failure:
    """What Redis 7.0 answers to a subcommand it does not know, cut at 128 bytes."""
    return Failure(b"ERR unknown subcommand '%b'. Try %b HELP." % (until_zero(word)[:128], name))


def _help(name: bytes, rows: Mapping[bytes, Subcommand]) -> Reply:
    lines = [b"%b <subcommand> [<arg> [value] [opt] ...]. Subcommands are:" % name]
    for row in rows.values():
        lines += [row.usage, *[b"    " + line for line in (row.summary, row.more) if line]]
    return [Status(line) for line in [*lines, b"HELP", b"    Prints this help."]]
