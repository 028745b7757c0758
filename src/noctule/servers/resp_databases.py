"""SELECT: a database from 1 on is a prefix, put before every key on its way in and taken off every reply. See ADR 0027.

What has no key but is about all keys (KEYS, SCAN, DBSIZE, FLUSHDB) goes to the one slot of the database. A connection
in database 0 does not come here, but for the commands that name another database.
"""

from collections.abc import Callable
from typing import TypeAlias

from noctule.core.keyspace.commands import check_command
from noctule.core.keyspace.databases import DATABASES, database_prefix
from noctule.core.keyspace.failures import NOT_AN_INTEGER
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import OK, Failure, Named, Reply
from noctule.core.keyspace.since import not_open
from noctule.core.keyspace.spec import Scope
from noctule.servers.resp_client import Client, Door
from noctule.servers.resp_errands import Errand

Leave: TypeAlias = Callable[[bytes, Reply], Reply]
"""Takes a prefix off the keys in a reply."""

OUT_OF_RANGE = Failure(b"ERR DB index is out of range")
SAME_OBJECT = Failure(b"ERR source and destination objects are the same")
_NO_SELECT = Failure(b"ERR SELECT is not allowed in cluster mode")
_SEPARATE = b"ERR %b is not supported: databases live in partitions of their own"

_ABOUT_ALL_KEYS = frozenset((b"DBSIZE", b"FLUSHDB", b"KEYS", b"RANDOMKEY", b"SCAN"))
"""Of one database."""


def parse_database(text: bytes) -> int | Failure:
    """The number of a database, with Redis' texts for what is none."""
    number = parse_int(text)
    if number is None:
        return NOT_AN_INTEGER
    return number if 0 <= number < DATABASES else OUT_OF_RANGE


def enter(database: int, args: list[bytes]) -> list[bytes] | Failure:
    """A client's command as the store runs it for that database; a `Failure` when it cannot be run."""
    spec = check_command(args)
    if isinstance(spec, Failure):
        return spec
    if spec.name == b"COPY":
        return _enter_copy(database, args)
    if not database or spec.scope is Scope.CONNECTION:
        return args
    prefix = database_prefix(database)
    if spec.name in _ABOUT_ALL_KEYS:
        return [b"NOCTULE.WRITEDATABASE" if spec.is_write else b"NOCTULE.READDATABASE", prefix, *args]
    entered = args.copy()
    for place in spec.places(args):
        entered[place] = prefix + args[place]
    return entered


def leave_of(name: bytes) -> Leave:
    """How keys leave the replies to the command of this name, in upper case."""
    return _LEAVES.get(name, leave_failure)


def leave_failure(prefix: bytes, reply: Reply) -> Reply:
    """An error text may quote a key."""
    if isinstance(reply, Failure) and prefix in reply.text:
        return Failure(reply.text.replace(prefix, b""))
    return reply


def select(_door: Door, client: Client, args: list[bytes]) -> Reply:
    """SELECT number."""
    number = parse_database(args[1])
    if isinstance(number, Failure):
        return number
    if number and client.is_cluster:
        return _NO_SELECT
    if number and client.conversation.refusal([b"NOCTULE.WRITEDATABASE", database_prefix(number), b"FLUSHDB"]):
        return not_open(args[0])  # An older node's FLUSHDB would take all databases with it.
    client.database = number
    return OK


def copy(_door: Door, client: Client, args: list[bytes]) -> Reply | Errand:
    """COPY source destination [DB number] [REPLACE]; here for the number, as only the server knows of databases."""
    entered = enter(client.database, args)
    if isinstance(entered, Failure):
        return entered
    return Errand([entered], lambda replies: replies[0])


def move(_door: Door, client: Client, args: list[bytes]) -> Reply:
    """MOVE key number: refused."""
    number = parse_database(args[2])
    if isinstance(number, Failure):
        return number
    return SAME_OBJECT if number == client.database else Failure(_SEPARATE % b"MOVE")


def swapdb(_door: Door, _client: Client, args: list[bytes]) -> Reply:
    """SWAPDB number number: refused."""
    for which, text in ((b"first", args[1]), (b"second", args[2])):
        number = parse_database(text)
        if number is NOT_AN_INTEGER:
            return Failure(b"ERR invalid %b DB index" % which)
        if isinstance(number, Failure):
            return number
    return OK if parse_int(args[1]) == parse_int(args[2]) else Failure(_SEPARATE % b"SWAPDB")


def _enter_copy(database: int, args: list[bytes]) -> list[bytes] | Failure:
    """Each key gets the prefix of its own database, and the number goes: the store's COPY knows keys only."""
    target, kept = database, args[3:]
    place = 0
    while place < len(kept):
        if kept[place].upper() == b"DB" and place + 1 < len(kept):
            number = parse_database(kept[place + 1])
            if isinstance(number, Failure):
                return number
            target = number
            del kept[place : place + 2]
        else:
            place += 1
    source, destination = database_prefix(database) + args[1], database_prefix(target) + args[2]
    return [args[0], source, destination, *kept]


def _leave_first(prefix: bytes, reply: Reply) -> Reply:
    """The first item is a key."""
    match reply:
        case [bytes(key), *rest]:
            return [key.removeprefix(prefix), *rest]
    return leave_failure(prefix, reply)


def _leave_streams(prefix: bytes, reply: Reply) -> Reply:
    """Entries under the keys of their streams."""
    if isinstance(reply, Named):
        return Named([(_leave_key(prefix, key), entries) for key, entries in reply.items])
    return leave_failure(prefix, reply)


def _leave_key(prefix: bytes, key: Reply) -> Reply:
    return key.removeprefix(prefix) if isinstance(key, bytes) else key


_POPS = (b"BLPOP", b"BRPOP", b"BZPOPMIN", b"BZPOPMAX", b"LMPOP", b"ZMPOP", b"BLMPOP", b"BZMPOP")
_LEAVES: dict[bytes, Leave] = {
    **dict.fromkeys(_POPS, _leave_first),
    b"XREAD": _leave_streams,
    b"XREADGROUP": _leave_streams,
}
