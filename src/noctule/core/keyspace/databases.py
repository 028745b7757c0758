"""Databases 1 to 15: each is a prefix of its keys, whose hash tag puts the whole of it into one slot. See ADR 0027.

Database 0 is all other keys, over all partitions. Nothing else is known of databases below the servers: a key is a key,
and only the commands that walk over keys ask here which of them they are to see.
"""

from collections.abc import Callable
from operator import methodcaller

from noctule.core.placement.slots import key_slot

DATABASES = 16
"""Numbered from 0, as in a Redis that was told nothing else."""


def database_prefix(number: int) -> bytes:
    """What every key of the database begins with; nothing for database 0."""
    return b"{db:%d}" % number if number else b""


_PREFIXES = tuple(database_prefix(number) for number in range(1, DATABASES))
_COMMON_PREFIX = b"{db:"

DATABASE_SLOTS = {key_slot(prefix): number for number, prefix in enumerate(_PREFIXES, 1)}
"""The slot of each database but 0, to its number; no two have the same."""


def is_foreign(key: bytes) -> bool:
    """Whether the key is of another database than 0."""
    return key.startswith(_COMMON_PREFIX) and key.startswith(_PREFIXES)


def membership(prefix: bytes) -> Callable[[bytes], bool]:
    """Tells the keys of the database with this prefix from all others."""
    return methodcaller("startswith", prefix) if prefix else lambda key: not is_foreign(key)
