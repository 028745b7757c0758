"""Names of stored files: ``<kind>/<yyyy>/<mm>/<dd>/<uuid7>.<extension>``, none of it from a visitor.

Folders by kind and day keep listings small and let old ones be removed by prefix. A UUID of version 7 (RFC 9562 5.7)
sorts by its time and has 74 random bits, so nobody guesses one. What visitors upload without the app is below
``_incoming/``, where no saved file is: so who hands in the name of a saved file as that of an upload is refused.
"""

import re
from datetime import UTC, datetime
from uuid import UUID

from noctule.base.errors import RequestError

INCOMING = "_incoming"

_KIND = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_KEY = re.compile(
    r"(_incoming/)?[a-z0-9][a-z0-9_-]{0,63}/[0-9]{4}/[0-9]{2}/[0-9]{2}/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.[a-z0-9]{1,10})?"
)


def uuid7(wall_ms: int, random_bits: int) -> UUID:
    """RFC 9562 5.7: 48 bits of unix ms, and 74 of the random bits given."""
    random_a, random_b = (random_bits >> 62) & 0xFFF, random_bits & ((1 << 62) - 1)
    return UUID(int=(wall_ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | random_a << 64 | 0b10 << 62 | random_b)


def new_key(kind: str, extension: str, wall_ms: int, random_bits: int, *, is_incoming: bool = False) -> str:
    """A fresh name, of a file or of an upload that comes without the app.

    Raises `RequestError` for a kind that is no folder name.
    """
    if not _KIND.fullmatch(kind):
        raise RequestError(f"file kind {kind!r}: it must be 1 to 64 of a-z, 0-9, - and _, as in avatars")
    day = datetime.fromtimestamp(wall_ms / 1000, UTC).strftime("%Y/%m/%d")
    name = str(uuid7(wall_ms, random_bits))
    folder = f"{INCOMING}/{kind}" if is_incoming else kind
    return f"{folder}/{day}/{name}.{extension}" if extension else f"{folder}/{day}/{name}"


def is_incoming(key: str) -> bool:
    """Whether it is the name of an upload that nobody has looked at."""
    return key.startswith(f"{INCOMING}/")


def kind_of(key: str) -> str:
    """What a key begins with, or that of the file which an upload becomes."""
    return key.removeprefix(f"{INCOMING}/").partition("/")[0]


def extension_of(key: str) -> str:
    """What stands behind the dot of a key; empty for bytes that nobody knows."""
    return key.rpartition("/")[2].partition(".")[2]


def check_key(key: str) -> str:
    """The key, if `new_key` could have made it. Raises `RequestError`: so no path leads out of the store."""
    if not _KEY.fullmatch(key):
        raise RequestError("that is no key of a stored file")
    return key
