"""NOCTULE and its subcommands: what a connection asks of this node that Redis has no word for."""

from noctule.base.bounds import KEY_BYTES_MAX
from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.databases import database_prefix
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.servers.resp_client import Client, Door, Handler
from noctule.servers.resp_families import Subcommand, family

_LEVELS = {level.encode(): level for level in ConsistencyLevel}


def _consistency(_door: Door, client: Client, args: list[bytes]) -> Reply:
    """The level of this connection's reads, or another one from now on; READONLY and READWRITE set it, too."""
    if len(args) == 2:
        return client.consistency.encode()
    level = _LEVELS.get(args[2].lower())
    if level is None or len(args) > 3:
        return Failure(b"ERR a consistency level is one of " + b", ".join(_LEVELS))
    client.consistency = level
    return OK


def _staleness(door: Door, client: Client, args: list[bytes]) -> Reply:
    """How old an eventual read of the key through this node may be, in ms; nil when unknown."""
    if len(args[2]) > KEY_BYTES_MAX:
        return Failure(b"ERR key of %d bytes, KEY_BYTES_MAX is %d" % (len(args[2]), KEY_BYTES_MAX))
    return door.staleness_ms(database_prefix(client.database) + args[2])


NOCTULE: Handler = family(
    b"NOCTULE",
    {
        b"CONSISTENCY": Subcommand(
            _consistency,
            -2,
            b"CONSISTENCY [linearizable|strong|eventual]",
            b"Return or set how fresh the reads of this connection are.",
        ),
        b"STALENESS": Subcommand(
            _staleness, 3, b"STALENESS <key>", b"Return how many ms old an eventual read here may be; nil: unknown."
        ),
    },
)
"""The handler of NOCTULE."""
