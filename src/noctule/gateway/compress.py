"""Compression of responses on their way: which ones, by which encoding, and what their headers say then.

Only what the app left uncompressed, of a type and size for which it pays, for a client that takes it. A response whose
length is unknown may be a stream somebody waits for, so each piece of it leaves at once; others are packed as a whole.
"""

import functools
import zlib
from typing import Protocol

import brotli
import zstandard

from noctule.gateway.heads import Header, ResponseHead
from noctule.gateway.model import Compression

# Levels at which packing costs less than the network saves: about 100 MB/s and more on one core.
_GZIP_LEVEL, _BROTLI_QUALITY, _ZSTD_LEVEL = 4, 3, 3
# RFC 1952 framing, with the largest window.
_GZIP_WBITS = 31
_BROTLI_WINDOW = 19


class _Encoder(Protocol):
    def compress(self, data: bytes) -> bytes: ...

    def flush(self) -> bytes:
        """All that was given can be read after this."""

    def finish(self) -> bytes:
        """The end."""


class Compressor:
    """One response's body on its way through an encoder."""

    def __init__(self, encoder: _Encoder, *, is_flushed: bool) -> None:
        self._encoder = encoder
        self._is_flushed = is_flushed

    def add(self, piece: bytes) -> bytes:
        """What is to be sent for a piece now; may be empty."""
        packed = self._encoder.compress(piece)
        return packed + self._encoder.flush() if self._is_flushed else packed

    def end(self) -> bytes:
        """The rest."""
        return self._encoder.finish()


def choose_compressor(settings: Compression, accept_encoding: bytes, head: ResponseHead) -> Compressor | None:
    """What a response's body is to go through, its head changed to say so; None leaves both as they are.

    A response that would be compressed for another client says so to caches too (Vary, RFC 9110 12.5.5).
    """
    if not settings.enabled or not _is_compressible(settings, head):
        return None
    _add_vary(head)
    encoding = choose_encoding(accept_encoding, settings.encodings)
    if encoding is None:
        return None
    is_flushed = head.content_length is None
    head.headers = [_changed(header) for header in head.headers if header[0].lower() != b"accept-ranges"]
    head.headers.append((b"Content-Encoding", encoding.encode("ascii")))
    head.content_length = None
    return Compressor(_ENCODERS[encoding](), is_flushed=is_flushed)


def choose_encoding(accept_encoding: bytes, preferred: tuple[str, ...]) -> str | None:
    """The client's best liked of the encodings we know, ours of equals; None for as it is (RFC 9110 12.5.3)."""
    if not accept_encoding:
        return None
    qualities: dict[str, float] = {}
    for item in accept_encoding.decode("ascii", "replace").lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        qualities[name] = _quality(parameters)
    everything = qualities.get("*", 0.0)
    known = [name for name in preferred if name in _ENCODERS]
    best = max(known, key=lambda name: qualities.get(name, everything), default=None)
    if best is None:
        return None
    quality = qualities.get(best, everything)
    return best if quality > 0 and quality >= qualities.get("identity", 0.0) else None


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return min(1.0, max(0.0, float(parameter[2:])))
            except ValueError:
                return 0.0
    return 1.0


def _is_compressible(settings: Compression, head: ResponseHead) -> bool:
    if head.status == 206 or head.status < 200:
        return False
    if head.content_length is not None and head.content_length < settings.bytes_min:
        return False
    if _media_type(head.value(b"content-type")) not in settings.types or head.value(b"content-encoding"):
        return False
    return b"no-transform" not in head.value(b"cache-control").lower()


@functools.lru_cache(maxsize=256)
def _media_type(content_type: bytes) -> str:
    return content_type.partition(b";")[0].strip().lower().decode("ascii", "replace")


def _add_vary(head: ResponseHead) -> None:
    named = {name.strip().lower() for name in head.value(b"vary").split(b",")}
    if b"accept-encoding" not in named and b"*" not in named:
        head.headers.append((b"Vary", b"Accept-Encoding"))


def _changed(header: Header) -> Header:
    name, value = header
    if name.lower() == b"etag" and not value.startswith(b"W/"):
        # The bytes are others now, and mean the same (RFC 9110 8.8.3).
        return name, b"W/" + value
    return header


class _Gzip:
    def __init__(self) -> None:
        self._packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
        self.compress = self._packer.compress

    def flush(self) -> bytes:
        return self._packer.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._packer.flush(zlib.Z_FINISH)


class _Brotli:
    def __init__(self) -> None:
        self._packer = brotli.Compressor(quality=_BROTLI_QUALITY, lgwin=_BROTLI_WINDOW)

    def compress(self, data: bytes) -> bytes:
        return bytes(self._packer.process(data))

    def flush(self) -> bytes:
        return bytes(self._packer.flush())

    def finish(self) -> bytes:
        return bytes(self._packer.finish())


class _Zstd:
    def __init__(self) -> None:
        self._packer = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()

    def compress(self, data: bytes) -> bytes:
        return self._packer.compress(data)

    def flush(self) -> bytes:
        return self._packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def finish(self) -> bytes:
        return self._packer.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)


_ENCODERS: dict[str, type[_Gzip] | type[_Brotli] | type[_Zstd]] = {"gzip": _Gzip, "br": _Brotli, "zstd": _Zstd}
