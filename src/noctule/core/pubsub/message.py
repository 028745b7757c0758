"""What subscribers are told, as the bytes that Redis would send: a push in RESP3, an array in RESP2.

Source: pubsub.c of Redis 7.0.
"""

from collections.abc import Sequence
from enum import Enum

from noctule.core.keyspace.reply import Encoded
from noctule.core.wire.resp import Protocol, encode_push


class Kind(Enum):
    """To what one subscribes. The value is the letter before the words of that kind in Redis."""

    CHANNEL = b""
    """One channel by its name."""
    PATTERN = b"p"
    """All channels whose names match a glob."""
    SHARD = b"s"
    """One sharded channel: a name space of its own, without patterns."""


class Message:
    """One thing that was published, as all subscriptions of one kind hear it. Encoded once for each protocol."""

    __slots__ = ("_encoded", "_items")

    def __init__(self, kind: Kind, channel: bytes, payload: bytes, pattern: bytes = b"") -> None:
        """`pattern` is the one that matched, for the kind PATTERN only."""
        matched = (pattern,) if kind is Kind.PATTERN else ()
        self._items = (kind.value + b"message", *matched, channel, payload)
        self._encoded: dict[Protocol, bytes] = {}

    def encoded(self, protocol: Protocol) -> bytes:
        """The bytes for a client; the same object for everyone who speaks that protocol."""
        encoded = self._encoded.get(protocol)
        if encoded is None:
            encoded = self._encoded[protocol] = encode_push(self._items, protocol)
        return encoded


def confirmations(word: bytes, counts: Sequence[tuple[bytes | None, int]], protocol: Protocol) -> Encoded:
    """What answers a command that begins or ends subscriptions: a push for each name, with how many there are then.

    `word` is the command's name in lower case. A command that ended nothing since there was nothing has None as name.
    """
    return Encoded(b"".join([encode_push((word, name, count), protocol) for name, count in counts]))
