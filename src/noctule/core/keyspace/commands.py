"""The table of commands: for each name its arity, where its keys stand, how far it reaches, and who carries it out.

It is the one place that knows all commands: the server prints it for COMMAND, the router reads the scope, the keyspace
calls the handler, and docs/reference/commands.md is rendered from it. Names, arities, flags and key positions are
those of Redis 7.0. Names with a dot are Noctule's own. The rows stand at the
end of each family's file: strings.py, hashes.py, sets.py, keys.py and others; spec.py tells what a row says.
"""

from collections.abc import Sequence

from noctule.base.bounds import ARGUMENTS_MAX, COMMAND_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX
from noctule.core.keyspace import (
    effects,
    hashes,
    keys,
    merging,
    publishing,
    reshape,
    scan,
    sets,
    sorted_algebra,
    sorted_ranges,
    sorted_sets,
    strings,
    transactions,
)
from noctule.core.keyspace.failures import wrong_arity
from noctule.core.keyspace.reply import Failure
from noctule.core.keyspace.spec import NO_KEYS, CommandSpec, Scope, rows


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
        shown += b"'%b' " % _until_zero(argument)[: 128 - len(shown)]
    text = b"ERR unknown command '%b', with args beginning with: %b" % (_until_zero(args[0])[:128], shown)
    return Failure(text.replace(b"\r", b" ").replace(b"\n", b" "))


def render_commands() -> str:
    """The text of docs/reference/commands.md."""
    lines = [
        "# Commands",
        "",
        "<!-- Rendered from core/keyspace/commands.py by render_commands(); tests/docs holds it current. -->",
        "",
        "What a client of the RESP door can send.",
        "Replies and error texts are those of Redis 7.0.",
        "*Arity* counts the name; below zero it means at least as many.",
        "",
    ]
    for scope in (Scope.KEY, Scope.SPLIT, Scope.ALL, Scope.CONNECTION):
        lines += [f"## {_HEADINGS[scope]}", "", "| command | arity | kind | what it does |", "|---|---|---|---|"]
        for spec in sorted(COMMANDS.values(), key=lambda spec: spec.name):
            if spec.scope is scope:
                kind = "write" if spec.is_write else "read" if spec.handler else "–"
                summary = spec.summary.replace("|", "\\|")
                lines.append(f"| {spec.name.decode()} | {spec.arity} | {kind} | {summary} |")
        lines.append("")
    return "\n".join(lines)


def _until_zero(text: bytes) -> bytes:
    return text.partition(b"\0")[0]


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


_HEADINGS = {
    Scope.KEY: "On the keys of one partition",
    Scope.SPLIT: "On keys of any partitions, atomic within each",
    Scope.ALL: "On all partitions",
    Scope.CONNECTION: "About the connection and the server",
}

_ABOUT_THE_CONNECTION: tuple[tuple[str, int, str], ...] = (
    ("AUTH", -2, "Says who the client is."),
    ("CLIENT", -2, "About the client's connections."),
    ("CLUSTER", -2, "About slots and nodes."),
    ("COMMAND", -1, "About commands."),
    ("CONFIG", -2, "Reads settings."),
    ("DISCARD", 1, "Forgets the transaction."),
    ("ECHO", 2, "Answers what it is given."),
    ("EXEC", 1, "Runs the transaction, unless a watched key has changed."),
    ("HELLO", -1, "Chooses the protocol, RESP2 or RESP3."),
    ("INFO", -1, "About the node, as text."),
    ("MOVE", 3, "Refused: databases have partitions of their own."),
    ("MULTI", 1, "Begins a transaction on keys of one partition; a database from 1 on is in one."),
    ("NOCTULE", -2, "Noctule's own: CONSISTENCY of this connection's reads, STALENESS of a key."),
    ("PING", -1, "Answers PONG, or what it is given."),
    ("QUIT", -1, "Closes the connection."),
    ("READONLY", 1, "Allows eventual reads on this connection."),
    ("READWRITE", 1, "Takes READONLY back."),
    ("RESET", 1, "Puts the connection into the state it began in."),
    ("SELECT", 2, "Chooses the database, 0 to 15."),
    ("SWAPDB", 3, "Refused: databases have partitions of their own."),
    ("TIME", 1, "The node's wall clock."),
    ("UNWATCH", 1, "Forgets which keys are watched."),
    ("WAIT", 3, "How many other nodes have every acknowledged write."),
    ("WATCH", -2, "Lets the next transaction run only if these keys have not changed."),
)


_FAMILIES = (
    strings,
    hashes,
    sets,
    sorted_sets,
    sorted_ranges,
    sorted_algebra,
    keys,
    scan,
    merging,
    publishing,
    reshape,
    transactions,
    effects,
)


def _table() -> dict[bytes, CommandSpec]:
    flags = (b"noscript", b"loading", b"stale", b"fast")
    table = {spec.name: spec for family in _FAMILIES for spec in family.COMMANDS}
    for name, arity, summary in _ABOUT_THE_CONNECTION:
        (spec,) = rows(Scope.CONNECTION, (name, arity, flags, NO_KEYS, None, summary))
        table[spec.name] = spec
    return table


COMMANDS: dict[bytes, CommandSpec] = _table()
"""Upper-case name to row."""

_BY_NAME = COMMANDS | {name.lower(): spec for name, spec in COMMANDS.items()}
_NAME_BYTES_MAX = max(map(len, COMMANDS)) + 1
