"""The table of commands: for each name its arity, where its keys stand, how far it reaches, and who carries it out.

It is the one place that knows all commands: the server prints it for COMMAND, the router reads the scope, the keyspace
calls the handler, and docs/reference/commands.md is rendered from it (reference.py). Names, arities, flags and key
positions are those of Redis 7.0. Names with a dot are Noctule's own. The rows stand at the
end of each family's file: strings.py, hashes.py, sets.py, keys.py and others; spec.py tells what a row says.
"""

from collections.abc import Sequence
from typing import Final

from noctule.base.bounds import ARGUMENTS_MAX, COMMAND_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX
from noctule.core.keyspace import (
    awaited,
    bitfields,
    bits,
    blocking_lists,
    blocking_sorted_sets,
    blocking_streams,
    effects,
    hashes,
    keys,
    lists,
    merging,
    objects,
    publishing,
    reshape,
    scan,
    sets,
    sorted_algebra,
    sorted_ranges,
    sorted_sets,
    sorting,
    stream_claims,
    stream_groups,
    stream_info,
    streams,
    strings,
    transactions,
)
from noctule.core.keyspace.failures import until_zero, wrong_arity
from noctule.core.keyspace.reply import Failure
from noctule.core.keyspace.spec import NO_KEYS, CommandSpec, Handler, Scope, rows


def find_command(name: bytes) -> CommandSpec | None:
    """The row of a name in any case; one dict lookup for names all in upper or all in lower case."""
    return _BY_NAME.get(name) or _BY_NAME.get(name[:_NAME_BYTES_MAX].upper())


def check_command(args: Sequence[bytes]) -> CommandSpec | Failure:
    """The row of a client's command, or why it cannot be run: unknown, wrong arity, over a bound.

    Internal commands are unknown here. Options and types are the handler's to check.
    """
    if not args:
        return Failure(b"ERR empty command")
    spec = find_command(args[0])
    if spec is None or spec.scope is Scope.INTERNAL:
        return unknown_command(args)
    arity = spec.arity
    if arity != len(args) and (arity > 0 or len(args) < -arity or len(args) > ARGUMENTS_MAX):
        if len(args) > ARGUMENTS_MAX:
            return Failure(b"ERR too many arguments: %d, ARGUMENTS_MAX is %d" % (len(args), ARGUMENTS_MAX))
        return wrong_arity(args[0])
    # When all arguments together are smaller than the smallest bound, as nearly always, none is over any.
    if sum(map(len, args)) > KEY_BYTES_MAX:
        return _check_bounds(spec, args) or spec
    return spec


def unknown_command(args: Sequence[bytes]) -> Failure:
    """What Redis 7.0 answers to a name it does not know, with its cuts at 128 bytes and at zero bytes."""
    shown = b""
    for argument in args[1:]:
        if len(shown) >= 128:
            break
        shown += b"'%b' " % until_zero(argument)[: 128 - len(shown)]
    text = b"ERR unknown command '%b', with args beginning with: %b" % (until_zero(args[0])[:128], shown)
    return Failure(text.replace(b"\r", b" ").replace(b"\n", b" "))


def _check_bounds(spec: CommandSpec, args: Sequence[bytes]) -> Failure | None:
    for key in spec.keys(args):
        if len(key) > KEY_BYTES_MAX:
            return Failure(b"ERR key of %d bytes, KEY_BYTES_MAX is %d" % (len(key), KEY_BYTES_MAX))
    longest, total = max(map(len, args)), sum(map(len, args))
    if longest > VALUE_BYTES_MAX:
        return Failure(b"ERR argument of %d bytes, VALUE_BYTES_MAX is %d" % (longest, VALUE_BYTES_MAX))
    if total > COMMAND_BYTES_MAX:
        return Failure(b"ERR command of %d bytes, COMMAND_BYTES_MAX is %d" % (total, COMMAND_BYTES_MAX))
    return None


_ABOUT_THE_CONNECTION: tuple[tuple[str, int, str], ...] = (
    ("ASKING", 1, "Accepted, for clients of Redis Cluster."),
    ("AUTH", -2, "Says who the client is."),
    ("CLIENT", -2, "About the client's connections."),
    ("CLUSTER", -2, "About slots and nodes."),
    ("COMMAND", -1, "About commands."),
    ("CONFIG", -2, "Reads settings."),
    ("DISCARD", 1, "Forgets the transaction."),
    ("ECHO", 2, "Answers what it is given."),
    ("EXEC", 1, "Runs the transaction, unless a watched key has changed."),
    ("HELLO", -1, "Chooses the protocol, RESP2 or RESP3."),
    ("LATENCY", -2, "What takes long: nothing is recorded."),
    ("INFO", -1, "About the node, as text."),
    ("MULTI", 1, "Begins a transaction on keys of one partition; a database from 1 on is in one."),
    ("NOCTULE", -2, "Noctule's own: CONSISTENCY of this connection's reads, STALENESS of a key."),
    ("PING", -1, "Answers PONG, or what it is given."),
    ("QUIT", -1, "Closes the connection."),
    ("READONLY", 1, "Allows eventual reads on this connection."),
    ("READWRITE", 1, "Takes READONLY back."),
    ("RESET", 1, "Puts the connection into the state it began in."),
    ("ROLE", 1, "That every node is a master, and who the others are."),
    ("SELECT", 2, "Chooses the database, 0 to 15."),
    ("SENTINEL", -2, "Which node clients of Redis Sentinel are sent to."),
    ("SLOWLOG", -2, "Slow commands: none is recorded."),
    ("TIME", 1, "The node's wall clock."),
    ("UNWATCH", 1, "Forgets which keys are watched."),
    ("WAIT", 3, "How many other nodes have every acknowledged write."),
)


_STREAMS = (streams, blocking_streams, stream_groups, stream_claims, stream_info)
_FAMILIES: Final = (
    strings,
    bits,
    bitfields,
    hashes,
    lists,
    blocking_lists,
    sets,
    sorted_sets,
    sorted_ranges,
    sorted_algebra,
    blocking_sorted_sets,
    sorting,
    keys,
    objects,
    scan,
    *_STREAMS,
    merging,
    publishing,
    reshape,
    awaited,
    transactions,
    effects,
)


def _about_the_connection() -> tuple[CommandSpec, ...]:
    flags = (b"noscript", b"loading", b"stale", b"fast")
    table = ((name, arity, flags, NO_KEYS, None, summary) for name, arity, summary in _ABOUT_THE_CONNECTION)
    return rows(Scope.CONNECTION, *table)


FAMILIES: dict[str, tuple[CommandSpec, ...]] = {
    **{family.__name__.rpartition(".")[2]: family.COMMANDS for family in _FAMILIES},
    "connection": _about_the_connection(),
}
"""Family, which is the module of its handlers, to its rows."""

COMMANDS: dict[bytes, CommandSpec] = {spec.name: spec for family in FAMILIES.values() for spec in family}
"""Upper-case name to row."""

_BY_NAME: Final = COMMANDS | {name.lower(): spec for name, spec in COMMANDS.items()}


class KeyRead:
    """What the hot path of reads asks of a row, where it is found fastest."""

    __slots__ = ("count_max", "count_min", "handler", "is_get")

    def __init__(self, spec: CommandSpec, handler: Handler) -> None:
        self.handler: Final = handler
        self.count_min: Final = abs(spec.arity)
        """How many arguments with the name, at least; `count_max`: at most."""
        self.count_max: Final = spec.arity if spec.arity > 0 else ARGUMENTS_MAX
        self.is_get: Final = spec.name == b"GET"
        """The commonest."""


KEY_READS: Final[dict[bytes, KeyRead]] = {
    name: KeyRead(spec, spec.handler)
    for name, spec in _BY_NAME.items()
    if spec.scope is Scope.KEY and spec.has_one_key and not spec.is_write and spec.handler is not None
}
"""The rows that read one key and nothing else, by their names in upper and in lower case."""
_NAME_BYTES_MAX: Final = max(map(len, COMMANDS)) + 1
