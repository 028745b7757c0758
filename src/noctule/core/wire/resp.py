"""Replies as RESP, version 2 or 3. Parsing commands is the business of servers/resp_parser.py.

Source: the Redis serialization protocol specification, RESP2 and RESP3.
"""

from collections.abc import Sequence
from typing import Final, Literal

from noctule.base.errors import InternalError
from noctule.core.keyspace.numbers import format_double
from noctule.core.keyspace.reply import OK, Encoded, Failure, Members, Named, NullArray, Pairs, Reply, Status

Protocol = Literal[2, 3]

_OK: Final = b"+OK\r\n"
_NULL: Final = {2: b"$-1\r\n", 3: b"_\r\n"}
_NULL_ARRAY: Final = {2: b"*-1\r\n", 3: b"_\r\n"}
_SMALL_INTEGERS: Final = [b":%d\r\n" % number for number in range(1_024)]
_SMALL_SIZES: Final = [b"$%d\r\n" % size for size in range(1_024)]


def encode_reply(reply: Reply, protocol: Protocol) -> bytes:
    """The reply as the bytes to send.

    A line break inside a status or an error becomes a space. A map is a flat array in RESP2, a float a bulk string.
    """
    if isinstance(reply, bytes):
        return _size(reply) + reply + b"\r\n"
    if reply is OK:
        return _OK
    if reply is None:
        return _NULL[protocol]
    if isinstance(reply, int):
        return _integer(reply)
    parts: list[bytes] = []
    encode_into(parts, reply, protocol)
    return b"".join(parts)


def encode_replies(replies: Sequence[Reply], protocol: Protocol) -> bytes:
    """Several replies one after the other, each as `encode_reply` has it."""
    parts: list[bytes] = []
    for reply in replies:
        encode_into(parts, reply, protocol)
    return b"".join(parts)


def encode_into(parts: list[bytes], reply: Reply, protocol: Protocol) -> None:
    """Append the pieces of the reply, to be joined by whoever collects several; as `encode_reply` otherwise."""
    match reply:
        case bytes():
            parts.append(_size(reply))
            parts.append(reply)
            parts.append(b"\r\n")
        case None:
            parts.append(_NULL[protocol])
        case int():
            parts.append(_integer(reply))
        case list():
            parts.append(b"*%d\r\n" % len(reply))
            for item in reply:
                encode_into(parts, item, protocol)
        case dict():
            parts.append(b"%%%d\r\n" % len(reply) if protocol == 3 else b"*%d\r\n" % (2 * len(reply)))
            for key, value in reply.items():
                parts.append(b"$%d\r\n%b\r\n" % (len(key), key))
                encode_into(parts, value, protocol)
        case Members():
            parts.append(b"~%d\r\n" % len(reply.items) if protocol == 3 else b"*%d\r\n" % len(reply.items))
            for item in reply.items:
                encode_into(parts, item, protocol)
        case Pairs():
            parts.append(b"*%d\r\n" % (len(reply.items) if protocol == 3 else 2 * len(reply.items)))
            for first, second in reply.items:
                if protocol == 3:
                    parts.append(b"*2\r\n")
                encode_into(parts, first, protocol)
                encode_into(parts, second, protocol)
        case Named():
            parts.append(b"%%%d\r\n" % len(reply.items) if protocol == 3 else b"*%d\r\n" % len(reply.items))
            for first, second in reply.items:
                if protocol == 2:
                    parts.append(b"*2\r\n")
                encode_into(parts, first, protocol)
                encode_into(parts, second, protocol)
        case NullArray():
            parts.append(_NULL_ARRAY[protocol])
        case Status():
            parts.append(b"+%b\r\n" % _one_line(reply.text))
        case Failure():
            parts.append(b"-%b\r\n" % _one_line(reply.text))
        case float():
            text = format_double(reply)
            parts.append(b",%b\r\n" % text if protocol == 3 else b"$%d\r\n%b\r\n" % (len(text), text))
        case Encoded():
            parts.append(reply.data)
        case _:
            raise InternalError(f"a reply has no encoding for {type(reply).__name__}")


def encode_push(items: Sequence[Reply], protocol: Protocol) -> bytes:
    """A message that answers no command: a push in RESP3, an array in RESP2."""
    parts = [b">%d\r\n" % len(items) if protocol == 3 else b"*%d\r\n" % len(items)]
    for item in items:
        encode_into(parts, item, protocol)
    return b"".join(parts)


def _size(text: bytes) -> bytes:
    size = len(text)
    return _SMALL_SIZES[size] if size < len(_SMALL_SIZES) else b"$%d\r\n" % size


def _integer(number: int) -> bytes:
    if 0 <= number < len(_SMALL_INTEGERS):
        return _SMALL_INTEGERS[number]
    return b":%d\r\n" % number


def _one_line(text: bytes) -> bytes:
    return text.replace(b"\r", b" ").replace(b"\n", b" ")
