"""Commands with subcommands, such as CLIENT ID: found by name, checked, and listed by HELP."""

from typing import NamedTuple

from noctule.core.keyspace.failures import wrong_arity
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


def family(name: bytes, rows: dict[bytes, Subcommand]) -> Handler:
    """A handler that passes a command on by its second word; rows are named in upper case. Error texts are Redis'."""

    def handle(door: Door, client: Client, args: list[bytes]) -> Reply | Errand:
        word = args[1].upper()
        row = rows.get(word)
        if row is None:
            if word == b"HELP" and len(args) == 2:
                return _help(name, rows)
            return unknown_subcommand(name, args[1])
        if len(args) != row.arity and (row.arity > 0 or len(args) < -row.arity):
            return wrong_arity(b"%b|%b" % (name, word))
        return row.handler(door, client, args)

    return handle


def unknown_subcommand(name: bytes, word: bytes) -> Failure:
    """What Redis 7.0 answers to a subcommand it does not know, cut at 128 bytes."""
    return Failure(b"ERR unknown subcommand '%b'. Try %b HELP." % (word[:128], name))


def _help(name: bytes, rows: dict[bytes, Subcommand]) -> Reply:
    lines = [b"%b <subcommand> [<arg> [value] [opt] ...]. Subcommands are:" % name]
    for row in rows.values():
        lines += [row.usage, b"    " + row.summary]
    return [Status(line) for line in [*lines, b"HELP", b"    Prints this help."]]
