"""Which responses are compressed, how, and what their heads say then."""

import gzip
import zlib

import brotli
import pytest
import zstandard

from noctule.gateway.compress import choose_compressor, choose_encoding
from noctule.gateway.heads import Header, ResponseHead, read_response
from noctule.gateway.model import Compression

SETTINGS = Compression()
ALL = SETTINGS.encodings


def head_of(*headers: Header, status: int = 200, length: int | None = 5_000) -> ResponseHead:
    told = [(b"Content-Type", b"text/html; charset=utf-8"), *headers]
    if length is not None:
        told.append((b"Content-Length", b"%d" % length))
    return read_response(status, b"OK", told)


def values(head: ResponseHead, name: bytes) -> list[bytes]:
    return [value for found, value in head.headers if found.lower() == name.lower()]


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        (b"", None),
        (b"gzip", "gzip"),
        (b"gzip, br", "br"),
        (b"gzip, deflate, br, zstd", "zstd"),
        (b"gzip;q=1.0, br;q=0.5, zstd;q=0", "gzip"),
        (b"GZIP", "gzip"),
        (b"*", "zstd"),
        (b"*;q=0.1, zstd;q=0", "br"),
        (b"identity", None),
        (b"identity;q=1, gzip;q=0.5", None),
        (b"gzip;q=0, *;q=0", None),
        (b"br;q=none", None),
        (b"deflate", None),
    ],
)
def test_the_client_chooses_and_of_equals_we(accepted: bytes, expected: str | None) -> None:
    assert choose_encoding(accepted, ALL) == expected


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("length", [None, 300_000])
def test_what_was_packed_can_be_unpacked(encoding: str, length: int | None) -> None:
    pieces = [b"line %d\n" % number * 100 for number in range(300)]
    compressor = choose_compressor(SETTINGS, encoding.encode(), head_of(length=length))
    assert compressor is not None
    packed = b"".join([*map(compressor.add, pieces), compressor.end()])
    unpack = {
        "gzip": gzip.decompress,
        "br": brotli.decompress,
        "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    }[encoding]
    assert unpack(packed) == b"".join(pieces)
    assert len(packed) < len(b"".join(pieces)) / 10


def test_a_stream_leaves_piece_by_piece() -> None:
    """Its length is unknown, so somebody may wait for each piece; one of known length is packed as a whole."""
    stream = choose_compressor(SETTINGS, b"gzip", head_of(length=None))
    assert stream is not None
    unpacker = zlib.decompressobj(31)
    for piece in (b"first", b"second"):
        assert unpacker.decompress(stream.add(piece)) == piece
    whole = choose_compressor(SETTINGS, b"br", head_of())
    assert whole is not None
    assert whole.add(b"first") == b""


def test_the_head_says_what_was_done() -> None:
    head = head_of((b"ETag", b'"1"'), (b"Accept-Ranges", b"bytes"), (b"Vary", b"Cookie"))
    assert choose_compressor(SETTINGS, b"gzip", head) is not None
    assert head.content_length is None
    assert values(head, b"Content-Encoding") == [b"gzip"]
    assert values(head, b"ETag") == [b'W/"1"']
    assert values(head, b"Vary") == [b"Cookie", b"Accept-Encoding"]
    assert values(head, b"Accept-Ranges") == []


def test_whoever_gets_it_as_it_is_is_told_that_others_do_not() -> None:
    head = head_of((b"ETag", b'"1"'))
    assert choose_compressor(SETTINGS, b"", head) is None
    assert (values(head, b"Vary"), values(head, b"ETag"), head.content_length) == (
        [b"Accept-Encoding"],
        [b'"1"'],
        5_000,
    )
    varied = head_of((b"Vary", b"accept-encoding, cookie"))
    assert choose_compressor(SETTINGS, b"gzip", varied) is not None
    assert values(varied, b"Vary") == [b"accept-encoding, cookie"]


@pytest.mark.parametrize(
    "head",
    [
        head_of((b"Content-Encoding", b"br")),
        head_of((b"Cache-Control", b"public, no-transform")),
        head_of(status=206),
        head_of(length=1_000),
        read_response(200, b"OK", [(b"Content-Type", b"image/png"), (b"Content-Length", b"5000")]),
        read_response(200, b"OK", [(b"Content-Length", b"5000")]),
    ],
)
def test_what_is_not_compressed_stays_as_it_is(head: ResponseHead) -> None:
    before = list(head.headers)
    assert choose_compressor(SETTINGS, b"gzip", head) is None
    assert head.headers == before


def test_compression_can_be_turned_off() -> None:
    assert choose_compressor(Compression(enabled=False), b"gzip", head_of()) is None
