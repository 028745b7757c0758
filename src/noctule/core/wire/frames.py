"""Peer frames: everything one node tells another in one turn of its loop, as one piece of bytes.

A frame is a 4-byte big-endian length, a 4-byte CRC32C of the body, and the body: a MessagePack array of
(group, message) pairs. The first frame each way is a `Hello`. Every message is an array that begins with its tag;
fields are only added at the end, with defaults. TCP's own checksum is too weak for bytes that go into a log.
"""

from struct import Struct
from typing import Final

import google_crc32c
import msgspec

from noctule.base.bounds import FRAME_BYTES_MAX
from noctule.base.errors import ProtocolError
from noctule.core.keyspace.values import encode_hook, extension_hook
from noctule.core.wire.messages import Envelope, Hello

PROTOCOL_VERSION: Final = 3
HEADER_BYTES: Final = 8
_HEADER = Struct(">II")  # bytes of the body, its CRC32C


_encoder = msgspec.msgpack.Encoder(enc_hook=encode_hook)
_decoder = msgspec.msgpack.Decoder(list[Envelope], ext_hook=extension_hook)
_hello_decoder = msgspec.msgpack.Decoder(Hello)


def encode_frame(envelopes: list[Envelope]) -> bytes:
    """A frame of messages, header included."""
    return _framed(_encoder.encode(envelopes))


def encode_hello(hello: Hello) -> bytes:
    """The first frame, header included."""
    return _framed(_encoder.encode(hello))


def _framed(body: bytes) -> bytes:
    checksum: int = google_crc32c.extend(0, body)
    return _HEADER.pack(len(body), checksum) + body


def decode_envelopes(body: bytes) -> list[Envelope]:
    """The messages of a frame's body. Raises `ProtocolError`."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a peer sent a frame that cannot be read: {error}") from error


def decode_hello(body: bytes) -> Hello:
    """The first frame's body. Raises `ProtocolError`."""
    try:
        return _hello_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"a peer did not introduce itself: {error}") from error


class FrameReader:
    """Bytes in, frame bodies out. Holds at most one frame of `frame_bytes_max` and one read's worth of bytes."""

    __slots__ = ("_buffer", "_frame_bytes_max")

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._frame_bytes_max = frame_bytes_max

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies of the frames that are complete now, in order. Raises `ProtocolError`; nothing can follow it."""
        buffer = self._buffer
        if buffer:
            buffer += data
        # Nearly always a read holds whole frames: these need no copy of their own before they are cut out.
        source = memoryview(buffer or data)
        bodies: list[bytes] = []
        start = 0
        while len(source) - start >= HEADER_BYTES:
            length, checksum = _HEADER.unpack_from(source, start)
            if length > self._frame_bytes_max:
                raise ProtocolError(f"a peer announced a frame of {length} bytes; {self._frame_bytes_max} is the limit")
            end = start + HEADER_BYTES + length
            if len(source) < end:
                break
            body = source[start + HEADER_BYTES : end].tobytes()
            if google_crc32c.extend(0, body) != checksum:
                raise ProtocolError("a peer's frame does not match its checksum")
            bodies.append(body)
            start = end
        source.release()
        if buffer:
            del buffer[:start]
        else:
            buffer += data[start:]
        return bodies
