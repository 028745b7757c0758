"""Which commands an earlier release does not know, so that a cluster of several releases does not use them.

What is logged is carried out by every replica. One of a release that does not know the command would do nothing where
the others change their data, and no longer be a copy. So a command that came later names the feature it came with, and
is refused until all members have that (`core.roster.features`), reads of what it makes among them: there is none.
"""

from noctule.core.keyspace.reply import Failure
from noctule.core.roster.features import DATA_MODEL_2

COMMAND_FEATURES = frozenset({DATA_MODEL_2})
"""All that commands of this release name."""

_ALWAYS = frozenset(
    b"APPEND BUCKET.CREATE BUCKET.LIST COPY COUNTER.ADD COUNTER.GET CRDT.MERGE CRDT.STATE DBSIZE DECR DECRBY DEL "
    b"EXISTS EXPIRE EXPIREAT EXPIRETIME FLUSHALL GET GETDEL GETEX GETRANGE GETSET HDEL HEXISTS HGET HGETALL HINCRBY "
    b"HINCRBYFLOAT HKEYS HLEN HMGET HMSET HSCAN HSET HSETNX HSTRLEN HVALS INCR INCRBY INCRBYFLOAT KEYS LWW.DEL LWW.GET "
    b"LWW.SET MGET MSET MSETNX NOCTULE.ABSORB NOCTULE.ABSORB-DROP NOCTULE.ABSORB-END NOCTULE.DIGEST NOCTULE.FENCE "
    b"NOCTULE.PURGE NOCTULE.READWITHIN NOCTULE.SPLIT NOCTULE.UNFENCE NOCTULE.WRITEWITHIN ORSET.ADD ORSET.CONTAINS "
    b"ORSET.MEMBERS ORSET.REM PERSIST PEXPIRE PEXPIREAT PEXPIRETIME PSETEX PTTL RENAME RENAMENX SCAN SET SETEX SETNX "
    b"SETRANGE STRLEN SUBSTR TOUCH TTL TYPE UNLINK".split()
)
"""Commands that every release carries out alike. FLUSHDB is none of them: since DATA_MODEL_2 it leaves databases."""


def feature_of(name: bytes) -> str | None:
    """The feature that a command of the store came with; None of one that there always was.

    Once a release is out, what comes after it needs a feature of its own, and the names it came with a set like
    `_ALWAYS`.
    """
    return None if name in _ALWAYS else DATA_MODEL_2


def not_open(name: bytes) -> Failure:
    """What is answered to a command that not every node knows."""
    shown = name.lower().removeprefix(b"noctule.")
    return Failure(b"ERR '%b' needs every node to run a release that knows it; upgrade the others first" % shown)
