"""The table of commands: for each name its arity, where its keys stand, how far it reaches, and who carries it out.

It is the one place that knows all commands: the server prints it for COMMAND, the router reads the scope, the keyspace
calls the handler, and docs/reference/commands.md is rendered from it. Names, arities, flags and key positions are
those of Redis 7.0. Names with a dot are Noctule's own. Read the families
next: strings.py, hashes.py, keys.py, scan.py, merging.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from noctule.base.bounds import ARGUMENTS_MAX, COMMAND_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX
from noctule.core.keyspace import hashes, keys, merging, reshape, scan, strings
from noctule.core.keyspace.failures import wrong_arity
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.state import State

Handler: TypeAlias = Callable[[State, Sequence[bytes], int], Reply]
"""Called with the state, the arguments with the name first, and the leader's time in unix ms."""


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
    """Proposed by leaders only; clients are told that it is unknown."""


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

    def keys(self, args: Sequence[bytes]) -> Sequence[bytes]:
        """The keys among the arguments, in their order; a trailing key without its value is among them."""
        if not self.first_key:
            return ()
        end = self.last_key + 1 if self.last_key > 0 else len(args) + self.last_key + 1
        return args[self.first_key : end : self.key_step]


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

_READ = (b"readonly",)
_READ_FAST = (b"readonly", b"fast")
_WRITE = (b"write",)
_WRITE_FAST = (b"write", b"fast")
_GROW = (b"write", b"denyoom")
_GROW_FAST = (b"write", b"denyoom", b"fast")
_NO_KEYS = (0, 0, 0)
_ONE = (1, 1, 1)
_TWO = (1, 2, 1)
_MANY = (1, -1, 1)
_PAIRS = (1, -1, 2)

_Row: TypeAlias = tuple[str, int, tuple[bytes, ...], tuple[int, int, int], Handler, str]

_ON_ONE_PARTITION: tuple[_Row, ...] = (
    ("APPEND", 3, _GROW_FAST, _ONE, strings.append, "Adds to the end of a string."),
    ("DECR", 2, _GROW_FAST, _ONE, strings.decr, "Takes one from an integer."),
    ("DECRBY", 3, _GROW_FAST, _ONE, strings.decrby, "Takes a number from an integer."),
    ("GET", 2, _READ_FAST, _ONE, strings.get, "The string of a key."),
    ("GETDEL", 2, _WRITE_FAST, _ONE, strings.getdel, "The string of a key, which is removed."),
    ("GETEX", -2, _WRITE_FAST, _ONE, strings.getex, "The string of a key, whose deadline is set or taken away."),
    ("GETRANGE", 4, _READ, _ONE, strings.getrange, "Part of a string."),
    ("GETSET", 3, _GROW_FAST, _ONE, strings.getset, "Sets a string and answers the old one."),
    ("INCR", 2, _GROW_FAST, _ONE, strings.incr, "Adds one to an integer."),
    ("INCRBY", 3, _GROW_FAST, _ONE, strings.incrby, "Adds a number to an integer."),
    ("INCRBYFLOAT", 3, _GROW_FAST, _ONE, strings.incrbyfloat, "Adds a number to a number."),
    ("MSETNX", -3, _GROW, _PAIRS, strings.msetnx, "Sets strings if none of the keys exists."),
    ("PSETEX", 4, _GROW, _ONE, strings.setex, "Sets a string that expires in milliseconds."),
    ("SET", -3, _GROW, _ONE, strings.set_, "Sets a string: NX, XX, GET, EX, PX, EXAT, PXAT, KEEPTTL."),
    ("SETEX", 4, _GROW, _ONE, strings.setex, "Sets a string that expires in seconds."),
    ("SETNX", 3, _GROW_FAST, _ONE, strings.setnx, "Sets a string if the key does not exist."),
    ("SETRANGE", 4, _GROW, _ONE, strings.setrange, "Overwrites part of a string."),
    ("STRLEN", 2, _READ_FAST, _ONE, strings.strlen, "The length of a string in bytes."),
    ("SUBSTR", 4, _READ, _ONE, strings.getrange, "Part of a string; the old name of GETRANGE."),
    ("HDEL", -3, _WRITE_FAST, _ONE, hashes.hdel, "Removes fields of a hash."),
    ("HEXISTS", 3, _READ_FAST, _ONE, hashes.hexists, "Whether a hash has a field."),
    ("HGET", 3, _READ_FAST, _ONE, hashes.hget, "A field of a hash."),
    ("HGETALL", 2, _READ, _ONE, hashes.hgetall, "All fields of a hash with their values."),
    ("HINCRBY", 4, _GROW_FAST, _ONE, hashes.hincrby, "Adds a number to an integer field."),
    ("HINCRBYFLOAT", 4, _GROW_FAST, _ONE, hashes.hincrbyfloat, "Adds a number to a field."),
    ("HKEYS", 2, _READ, _ONE, hashes.hkeys, "All fields of a hash."),
    ("HLEN", 2, _READ_FAST, _ONE, hashes.hlen, "How many fields a hash has."),
    ("HMGET", -3, _READ_FAST, _ONE, hashes.hmget, "Some fields of a hash."),
    ("HMSET", -4, _GROW_FAST, _ONE, hashes.hmset, "Sets fields of a hash; the old form of HSET."),
    ("HSCAN", -3, _READ, _ONE, scan.hscan, "Walks over the fields of a hash: MATCH, COUNT."),
    ("HSET", -4, _GROW_FAST, _ONE, hashes.hset, "Sets fields of a hash."),
    ("HSETNX", 4, _GROW_FAST, _ONE, hashes.hsetnx, "Sets a field of a hash if it does not exist."),
    ("HSTRLEN", 3, _READ_FAST, _ONE, hashes.hstrlen, "The length of a field in bytes."),
    ("HVALS", 2, _READ, _ONE, hashes.hvals, "All values of a hash."),
    ("COPY", -3, _GROW, _TWO, keys.copy, "Copies a key with its deadline: REPLACE."),
    ("EXPIRE", -3, _WRITE_FAST, _ONE, keys.expire, "Lets a key expire in seconds: NX, XX, GT, LT."),
    ("EXPIREAT", -3, _WRITE_FAST, _ONE, keys.expireat, "Lets a key expire at a unix time in seconds."),
    ("EXPIRETIME", 2, _READ_FAST, _ONE, keys.expiretime, "When a key expires, in unix seconds."),
    ("PERSIST", 2, _WRITE_FAST, _ONE, keys.persist, "Takes a key's deadline away."),
    ("PEXPIRE", -3, _WRITE_FAST, _ONE, keys.pexpire, "Lets a key expire in milliseconds: NX, XX, GT, LT."),
    ("PEXPIREAT", -3, _WRITE_FAST, _ONE, keys.pexpireat, "Lets a key expire at a unix time in milliseconds."),
    ("PEXPIRETIME", 2, _READ_FAST, _ONE, keys.pexpiretime, "When a key expires, in unix milliseconds."),
    ("PTTL", 2, _READ_FAST, _ONE, keys.pttl, "The time a key has left, in milliseconds."),
    ("RENAME", 3, _WRITE, _TWO, keys.rename, "Renames a key, over what was there."),
    ("RENAMENX", 3, _WRITE_FAST, _TWO, keys.renamenx, "Renames a key if the new name is free."),
    ("TTL", 2, _READ_FAST, _ONE, keys.ttl, "The time a key has left, in seconds."),
    ("TYPE", 2, _READ_FAST, _ONE, keys.type_, "The type of a key: string, hash, lww, counter, orset or none."),
)

_THAT_JOIN: tuple[_Row, ...] = (
    ("COUNTER.ADD", 3, _GROW, _ONE, merging.counter_add, "Adds a number to a counter; the sum as known here."),
    ("COUNTER.GET", 2, _READ, _ONE, merging.counter_get, "The sum of a counter."),
    ("CRDT.MERGE", 3, _GROW, _ONE, merging.crdt_merge, "Joins a value with a state from elsewhere."),
    ("CRDT.STATE", 2, _READ_FAST, _ONE, merging.crdt_state, "The state of a value, for CRDT.MERGE."),
    ("LWW.DEL", 2, _GROW_FAST, _ONE, merging.lww_del, "Deletes a register's text; the last writer wins."),
    ("LWW.GET", 2, _READ_FAST, _ONE, merging.lww_get, "The text of a register."),
    ("LWW.SET", 3, _GROW_FAST, _ONE, merging.lww_set, "Sets a register's text; the last writer wins."),
    ("ORSET.ADD", -3, _GROW, _ONE, merging.orset_add, "Adds members to a set; adding wins over removing."),
    ("ORSET.CONTAINS", 3, _READ, _ONE, merging.orset_contains, "Whether a set has a member."),
    ("ORSET.MEMBERS", 2, _READ, _ONE, merging.orset_members, "The members of a set, sorted."),
    ("ORSET.REM", -3, _WRITE, _ONE, merging.orset_rem, "Removes members from a set."),
)

_SPLIT: tuple[_Row, ...] = (
    ("DEL", -2, _WRITE, _MANY, keys.del_, "Removes keys."),
    ("EXISTS", -2, _READ_FAST, _MANY, keys.exists, "How many of the keys exist."),
    ("MGET", -2, _READ_FAST, _MANY, strings.mget, "The strings of keys."),
    ("MSET", -3, _GROW, _PAIRS, strings.mset, "Sets strings."),
    ("TOUCH", -2, _READ_FAST, _MANY, keys.exists, "How many of the keys exist."),
    ("UNLINK", -2, _WRITE_FAST, _MANY, keys.del_, "Removes keys; the same as DEL."),
)

_ON_ALL_PARTITIONS: tuple[_Row, ...] = (
    ("BUCKET.CREATE", -3, _GROW, _NO_KEYS, merging.bucket_create, "Declares a bucket: lww, counter or orset; site."),
    ("BUCKET.LIST", 1, _READ, _NO_KEYS, merging.bucket_list, "The declared buckets with their kinds."),
    ("DBSIZE", 1, _READ_FAST, _NO_KEYS, scan.dbsize, "How many keys there are."),
    ("FLUSHALL", -1, _WRITE, _NO_KEYS, scan.flush, "Removes everything: ASYNC, SYNC."),
    ("FLUSHDB", -1, _WRITE, _NO_KEYS, scan.flush, "Removes everything: ASYNC, SYNC."),
    ("KEYS", 2, _READ, _NO_KEYS, scan.keys, "All keys that match a pattern."),
    ("SCAN", -2, _READ, _NO_KEYS, scan.scan, "Walks over the keys: MATCH, COUNT, TYPE."),
)

_FOR_LEADERS: tuple[_Row, ...] = (
    ("NOCTULE.ABSORB", 4, _WRITE, _NO_KEYS, reshape.absorb, "Puts aside a chunk of a partition to be taken in."),
    ("NOCTULE.ABSORB-DROP", 2, _WRITE, _NO_KEYS, reshape.absorb_drop, "Forgets what was put aside."),
    ("NOCTULE.ABSORB-END", 6, _WRITE, _NO_KEYS, reshape.absorb_end, "Takes in what was put aside, with its slots."),
    ("NOCTULE.DIGEST", 2, _WRITE, _NO_KEYS, keys.digest, "Has every replica digest its state at this entry."),
    ("NOCTULE.FENCE", 2, _WRITE, _NO_KEYS, reshape.fence, "Lets nothing be answered or changed, for a merge."),
    ("NOCTULE.PURGE", -2, _WRITE, _MANY, keys.purge, "Removes those of the keys that have expired."),
    (
        "NOCTULE.READWITHIN",
        -4,
        _READ,
        _NO_KEYS,
        scan.read_within,
        "KEYS, DBSIZE or SCAN over some slots only; BUCKET.LIST.",
    ),
    ("NOCTULE.SPLIT", 3, _WRITE, _NO_KEYS, reshape.split, "Makes a partition of the slots from one on."),
    ("NOCTULE.UNFENCE", 2, _WRITE, _NO_KEYS, reshape.unfence, "Takes a fence away, for the merge is taken back."),
    (
        "NOCTULE.WRITEWITHIN",
        -4,
        _WRITE,
        _NO_KEYS,
        scan.write_within,
        "FLUSHALL or FLUSHDB of some slots only; BUCKET.CREATE.",
    ),
)

_ABOUT_THE_CONNECTION: tuple[tuple[str, int, str], ...] = (
    ("AUTH", -2, "Says who the client is."),
    ("CLIENT", -2, "About the client's connections."),
    ("CLUSTER", -2, "About slots and nodes."),
    ("COMMAND", -1, "About commands."),
    ("CONFIG", -2, "Reads settings."),
    ("ECHO", 2, "Answers what it is given."),
    ("HELLO", -1, "Chooses the protocol, RESP2 or RESP3."),
    ("INFO", -1, "About the node, as text."),
    ("NOCTULE", -2, "Noctule's own: CONSISTENCY of this connection's reads, STALENESS of a key."),
    ("PING", -1, "Answers PONG, or what it is given."),
    ("QUIT", -1, "Closes the connection."),
    ("READONLY", 1, "Allows eventual reads on this connection."),
    ("READWRITE", 1, "Takes READONLY back."),
    ("RESET", 1, "Puts the connection into the state it began in."),
    ("SELECT", 2, "Chooses the database; there is 0 only."),
    ("TIME", 1, "The node's wall clock."),
    ("WAIT", 3, "How many other nodes have every acknowledged write."),
)


def _table() -> dict[bytes, CommandSpec]:
    table: dict[bytes, CommandSpec] = {}
    families = (
        (Scope.KEY, _ON_ONE_PARTITION),
        (Scope.KEY, _THAT_JOIN),
        (Scope.SPLIT, _SPLIT),
        (Scope.ALL, _ON_ALL_PARTITIONS),
        (Scope.INTERNAL, _FOR_LEADERS),
    )
    for scope, rows in families:
        for name, arity, flags, places, handler, summary in rows:
            upper = name.encode()
            table[upper] = CommandSpec(upper, arity, flags, *places, scope, b"write" in flags, summary, handler)
    for name, arity, summary in _ABOUT_THE_CONNECTION:
        upper = name.encode()
        flags = (b"noscript", b"loading", b"stale", b"fast")
        table[upper] = CommandSpec(upper, arity, flags, *_NO_KEYS, Scope.CONNECTION, False, summary, None)
    return table


COMMANDS: dict[bytes, CommandSpec] = _table()
"""Upper-case name to row."""

_BY_NAME = COMMANDS | {name.lower(): spec for name, spec in COMMANDS.items()}
_NAME_BYTES_MAX = max(map(len, COMMANDS)) + 1
