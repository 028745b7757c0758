"""COMMAND and its subcommands: the table of core/keyspace/commands.py in the shapes of Redis 7.0."""

from collections.abc import Callable
from dataclasses import replace

from noctule.core.keyspace import subcommands
from noctule.core.keyspace.commands import COMMANDS, check_command, find_command
from noctule.core.keyspace.failures import SYNTAX
from noctule.core.keyspace.glob import PATTERN_BYTES_MAX, glob_matcher
from noctule.core.keyspace.reply import Failure, Reply, Status
from noctule.core.keyspace.spec import CommandSpec, Scope
from noctule.core.keyspace.subcommands import Dispatcher
from noctule.servers.resp_client import Client, Door, Handler
from noctule.servers.resp_client_commands import CLIENT
from noctule.servers.resp_cluster import CLUSTER
from noctule.servers.resp_command_facts import COUNTED_AT, STREAMS_FROM, categories_of, flags_of, group_of, tips_of
from noctule.servers.resp_errands import Errand
from noctule.servers.resp_families import Family, Subcommand, family
from noctule.servers.resp_info import CONFIG
from noctule.servers.resp_pubsub import PUBSUB
from noctule.servers.resp_watching import LATENCY, SLOWLOG

_NO_KEYS_FOUND = Failure(b"ERR Invalid arguments specified for command")

_PUBLIC = {name: spec for name, spec in sorted(COMMANDS.items()) if spec.scope is not Scope.INTERNAL}


def describe_command(spec: CommandSpec) -> Reply:
    """The ten elements of one command: name, arity, flags, key positions, categories, tips, key specs, subcommands."""
    return [
        spec.name.lower(),
        spec.arity,
        [Status(flag) for flag in flags_of(spec)],
        spec.first_key,
        spec.last_key,
        spec.key_step,
        [Status(category) for category in categories_of(spec)],
        [*tips_of(spec.name)],
        key_specs(spec),
        _subcommands(spec),
    ]


def _subcommands(spec: CommandSpec) -> list[Reply]:
    if isinstance(spec.handler, Dispatcher):
        return [describe_command(_about_a_key(spec, *each)) for each in spec.handler.subcommands.items()]
    return (
        [_about_the_server(spec, *each) for each in _FAMILIES[spec.name].rows.items()] if spec.name in _FAMILIES else []
    )


def _about_a_key(spec: CommandSpec, word: bytes, row: subcommands.Subcommand) -> CommandSpec:
    return replace(
        spec,
        name=b"%b|%b" % (spec.name, word),
        arity=row.arity,
        flags=row.flags,
        first_key=2,
        last_key=2,
        key_step=1,
        is_write=b"write" in row.flags,
        handler=row.handler,
        find_keys=None,
    )


def _about_the_server(spec: CommandSpec, word: bytes, row: Subcommand) -> Reply:
    name = b"%b|%b" % (spec.name, word)
    flags: list[Reply] = [Status(flag) for flag in (b"loading", b"stale")]
    return [name.lower(), row.arity, flags, 0, 0, 0, [Status(b"@slow")], [*tips_of(name)], [], []]


def key_specs(spec: CommandSpec) -> list[Reply]:
    """Where the keys stand, once more, also of the commands whose arguments tell it."""
    found: list[Reply] = []
    if isinstance(spec.handler, Dispatcher):
        return found  # Its subcommands tell.
    flags: Reply = [Status(b"RW"), Status(b"update")] if spec.is_write else [Status(b"RO"), Status(b"access")]
    if spec.first_key:
        last = spec.last_key - spec.first_key if spec.last_key > 0 else spec.last_key  # Counts from the first here.
        by_range: Reply = {b"lastkey": last, b"keystep": spec.key_step, b"limit": 0}
        found.append(_key_spec(flags, b"index", {b"index": spec.first_key}, b"range", by_range))
    if spec.name in COUNTED_AT:
        by_number: Reply = {b"keynumidx": 0, b"firstkey": 1, b"keystep": 1}
        found.append(_key_spec(flags, b"index", {b"index": COUNTED_AT[spec.name]}, b"keynum", by_number))
    elif spec.name in STREAMS_FROM:
        begin: Reply = {b"keyword": b"STREAMS", b"startfrom": STREAMS_FROM[spec.name]}
        found.append(
            _key_spec(flags, b"keyword", begin, b"range", {b"lastkey": -1, b"keystep": 1, b"limit": 2}),
        )
    elif spec.find_keys is not None:
        found.append(_key_spec(flags, b"unknown", {}, b"unknown", {}))
    return found


def _key_spec(flags: Reply, begin: bytes, begin_spec: Reply, find: bytes, find_spec: Reply) -> Reply:
    return {
        b"flags": flags,
        b"begin_search": {b"type": begin, b"spec": begin_spec},
        b"find_keys": {b"type": find, b"spec": find_spec},
    }


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
            b"group": group_of(spec),
        }
        for spec in specs
        if spec is not None
    }


def _getkeys(_door: Door, _client: Client, args: list[bytes]) -> Reply:
    spec = _find_public(args[2])
    if spec is None:
        return Failure(b"ERR Invalid command specified")
    if not spec.first_key and spec.find_keys is None:
        return Failure(b"ERR The command has no key arguments")
    if isinstance(check_command(args[2:]), Failure):
        return Failure(b"ERR Invalid number of arguments specified for command")
    keys = spec.keys(args[2:])
    return [*keys] if keys or b"no_mandatory_keys" in flags_of(spec) else _NO_KEYS_FOUND


def _getkeysandflags(door: Door, client: Client, args: list[bytes]) -> Reply:
    """The keys, each with what the command does to it as far as the table says."""
    keys = _getkeys(door, client, args)
    spec = _find_public(args[2])
    if not isinstance(keys, list) or spec is None:
        return keys
    flags = (b"RW", b"update") if spec.is_write else (b"RO", b"access")
    return [[key, [Status(flag) for flag in flags]] for key in keys]


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
        return lambda name: category in categories_of(_PUBLIC[name.upper()])
    if kind == b"MODULE":
        return lambda _name: False
    return SYNTAX


def _all_or_family(door: Door, client: Client, args: list[bytes]) -> Reply | Errand:
    if len(args) == 1:
        return [describe_command(spec) for spec in _PUBLIC.values()]
    return _COMMAND(door, client, args)


_COMMAND = family(
    b"COMMAND",
    {
        b"COUNT": Subcommand(_count, 2, b"COUNT", b"Return how many commands there are."),
        b"DOCS": Subcommand(_docs, -2, b"DOCS [<command-name> ...]", b"Return what commands do."),
        b"GETKEYS": Subcommand(_getkeys, -4, b"GETKEYS <full-command>", b"Return the keys of a full command."),
        b"GETKEYSANDFLAGS": Subcommand(
            _getkeysandflags, -4, b"GETKEYSANDFLAGS <full-command>", b"Return the keys and what is done to them."
        ),
        b"INFO": Subcommand(_info, -2, b"INFO [<command-name> ...]", b"Return details about commands."),
        b"LIST": Subcommand(
            _list, -2, b"LIST [FILTERBY (MODULE|ACLCAT|PATTERN) <value>]", b"Return the names of commands."
        ),
    },
)
_FAMILIES: dict[bytes, Family] = {
    each.name: each for each in (_COMMAND, CLIENT, CLUSTER, CONFIG, LATENCY, PUBSUB, SLOWLOG)
}
COMMAND: Handler = _all_or_family
"""The handler of COMMAND."""
