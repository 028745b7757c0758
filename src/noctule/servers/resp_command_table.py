"""COMMAND and its subcommands: the table of core/keyspace/commands.py in the shapes of Redis 7.0."""

from collections.abc import Callable

from noctule.core.keyspace.commands import COMMANDS, check_command, find_command
from noctule.core.keyspace.failures import SYNTAX
from noctule.core.keyspace.glob import PATTERN_BYTES_MAX, glob_matcher
from noctule.core.keyspace.reply import Failure, Reply, Status
from noctule.core.keyspace.spec import CommandSpec, Scope
from noctule.servers.resp_client import Client, Door, Handler
from noctule.servers.resp_errands import Errand
from noctule.servers.resp_families import Subcommand, family

_PUBLIC = {name: spec for name, spec in sorted(COMMANDS.items()) if spec.scope is not Scope.INTERNAL}


def describe_command(spec: CommandSpec) -> Reply:
    """The ten elements of one command: name, arity, flags, key positions, categories, tips, key specs, subcommands."""
    return [
        spec.name.lower(),
        spec.arity,
        [Status(flag) for flag in spec.flags],
        spec.first_key,
        spec.last_key,
        spec.key_step,
        [Status(category) for category in _categories(spec)],
        [],
        _key_specs(spec),
        [],
    ]


def _categories(spec: CommandSpec) -> list[bytes]:
    kind = b"@connection" if spec.scope is Scope.CONNECTION else b"@write" if spec.is_write else b"@read"
    return [kind, b"@fast" if b"fast" in spec.flags else b"@slow"]


def _key_specs(spec: CommandSpec) -> Reply:
    """Where the keys stand, once more; here the last key counts from the first."""
    if not spec.first_key:
        return []
    last = spec.last_key - spec.first_key if spec.last_key > 0 else spec.last_key
    return [
        {
            b"flags": [Status(b"RW" if spec.is_write else b"RO")],
            b"begin_search": {b"type": b"index", b"spec": {b"index": spec.first_key}},
            b"find_keys": {b"type": b"range", b"spec": {b"lastkey": last, b"keystep": spec.key_step, b"limit": 0}},
        }
    ]


def _find_public(name: bytes) -> CommandSpec | None:
    spec = find_command(name)
    return spec if spec is not None and spec.scope is not Scope.INTERNAL else None


def _count(_door: Door, _client: Client, _args: list[bytes]) -> Reply:
    return len(_PUBLIC)


def _info(_door: Door, _client: Client, args: list[bytes]) -> Reply:
    specs = [_find_public(name) for name in args[2:]] if len(args) > 2 else _PUBLIC.values()
    return [None if spec is None else describe_command(spec) for spec in specs]


def _docs(_door: Door, _client: Client, args: list[bytes]) -> Reply:
    specs = [_find_public(name) for name in args[2:]] if len(args) > 2 else _PUBLIC.values()
    return {
        spec.name.lower(): {
            b"summary": spec.summary.encode(),
            b"group": b"connection" if spec.scope is Scope.CONNECTION else b"generic",
        }
        for spec in specs
        if spec is not None
    }


def _getkeys(_door: Door, _client: Client, args: list[bytes]) -> Reply:
    spec = _find_public(args[2])
    if spec is None:
        return Failure(b"ERR Invalid command specified")
    if not spec.first_key:
        return Failure(b"ERR The command has no key arguments")
    if isinstance(check_command(args[2:]), Failure):
        return Failure(b"ERR Invalid number of arguments specified for command")
    return [*spec.keys(args[2:])]


def _list(_door: Door, _client: Client, args: list[bytes]) -> Reply:
    names: list[bytes] = [name.lower() for name in _PUBLIC]
    if len(args) == 2:
        return [*names]
    if len(args) != 5 or args[2].upper() != b"FILTERBY":
        return SYNTAX
    keep = _filter(args[3].upper(), args[4])
    return keep if isinstance(keep, Failure) else [name for name in names if keep(name)]


def _filter(kind: bytes, value: bytes) -> Callable[[bytes], bool] | Failure:
    if kind == b"PATTERN":
        if len(value) > PATTERN_BYTES_MAX:
            return Failure(b"ERR pattern of %d bytes, PATTERN_BYTES_MAX is %d" % (len(value), PATTERN_BYTES_MAX))
        return glob_matcher(value.lower())
    if kind == b"ACLCAT":
        category = b"@" + value.lower()
        return lambda name: category in _categories(_PUBLIC[name.upper()])
    if kind == b"MODULE":
        return lambda _name: False
    return SYNTAX


def _all_or_family(door: Door, client: Client, args: list[bytes]) -> Reply | Errand:
    if len(args) == 1:
        return [describe_command(spec) for spec in _PUBLIC.values()]
    return _FAMILY(door, client, args)


_FAMILY = family(
    b"COMMAND",
    {
        b"COUNT": Subcommand(_count, 2, b"COUNT", b"Return how many commands there are."),
        b"DOCS": Subcommand(_docs, -2, b"DOCS [<command-name> ...]", b"Return what commands do."),
        b"GETKEYS": Subcommand(_getkeys, -4, b"GETKEYS <full-command>", b"Return the keys of a full command."),
        b"INFO": Subcommand(_info, -2, b"INFO [<command-name> ...]", b"Return details about commands."),
        b"LIST": Subcommand(
            _list, -2, b"LIST [FILTERBY (MODULE|ACLCAT|PATTERN) <value>]", b"Return the names of commands."
        ),
    },
)
COMMAND: Handler = _all_or_family
"""The handler of COMMAND."""
