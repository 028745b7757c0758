"""What a file really is, by its first bytes: what a visitor says of it is not believed.

Only what browsers show by themselves, or what is often uploaded, has a row; everything else is bytes to download.
Markup (HTML, SVG, XML) has no row, as a browser would run it: it is bytes, whatever it is said to be.
Sources: the formats' specifications, and the WHATWG MIME Sniffing standard, section 6.
"""

from dataclasses import dataclass
from urllib.parse import quote

from noctule.base.errors import RequestError

HEAD_BYTES = 512
"""How much of a file is looked at."""


@dataclass(frozen=True, slots=True)
class ContentType:
    """A type and the extension that goes with it."""

    name: str
    extension: str


BYTES = ContentType("application/octet-stream", "")
TEXT = ContentType("text/plain; charset=utf-8", "txt")

_HARMLESS = ("image/", "audio/", "video/", "text/plain")
"""What a browser shows without running anything in it, when it is told not to guess. A PDF is not among it."""

_MAGIC: tuple[tuple[int, bytes, ContentType], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", ContentType("image/png", "png")),
    (0, b"\xff\xd8\xff", ContentType("image/jpeg", "jpg")),
    (0, b"GIF87a", ContentType("image/gif", "gif")),
    (0, b"GIF89a", ContentType("image/gif", "gif")),
    (8, b"WEBPVP8", ContentType("image/webp", "webp")),
    (4, b"ftypavif", ContentType("image/avif", "avif")),
    (4, b"ftypheic", ContentType("image/heic", "heic")),
    (4, b"ftyp", ContentType("video/mp4", "mp4")),
    (0, b"\x1a\x45\xdf\xa3", ContentType("video/webm", "webm")),
    (0, b"OggS", ContentType("application/ogg", "ogg")),
    (0, b"fLaC", ContentType("audio/flac", "flac")),
    (0, b"ID3", ContentType("audio/mpeg", "mp3")),
    (8, b"WAVE", ContentType("audio/wav", "wav")),
    (0, b"%PDF-", ContentType("application/pdf", "pdf")),
    (0, b"PK\x03\x04", ContentType("application/zip", "zip")),
    (0, b"\x1f\x8b\x08", ContentType("application/gzip", "gz")),
    (0, b"\x28\xb5\x2f\xfd", ContentType("application/zstd", "zst")),
    (257, b"ustar", ContentType("application/x-tar", "tar")),
)


def sniff(head: bytes) -> ContentType:
    """The type by the first `HEAD_BYTES` bytes; text only if it is UTF-8 and does not begin as markup does."""
    for offset, magic, content_type in _MAGIC:
        if head[offset : offset + len(magic)] == magic and (offset != 8 or head[:4] == b"RIFF"):
            return content_type
    is_markup = head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\f").startswith(b"<")
    return TEXT if head and not is_markup and _is_text(head) else BYTES


def type_of_extension(extension: str) -> ContentType:
    """The type whose files have this extension; bytes for one that no row has."""
    return next((each for _, _, each in (*_MAGIC, (0, b"", TEXT)) if each.extension == extension), BYTES)


def type_by_name(name: str) -> ContentType:
    """The type with this name, as ``image/png``. Raises `RequestError` for one that no row has."""
    for _, _, each in (*_MAGIC, (0, b"", TEXT), (0, b"", BYTES)):
        if each.name.partition(";")[0] == name:
            return each
    raise RequestError(f"files of type {name!r} are not known by their bytes; application/octet-stream takes any")


def disposition_of(content_type: str, name: str = "") -> str:
    """The Content-Disposition that a file is given out with; empty where a browser may show it under no special name.

    What is not harmless to show is downloaded; what has a name for downloads, too (RFC 6266).
    """
    if name:
        return f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    return "" if content_type.startswith(_HARMLESS) else "attachment"


def check_allowed(content_type: str, allowed: tuple[str, ...]) -> None:
    """Raise `RequestError` unless the type is one of those (``image/*`` is any image); none allows everything."""
    plain = content_type.partition(";")[0]
    if allowed and not any(plain == each or (each.endswith("/*") and plain.startswith(each[:-1])) for each in allowed):
        raise RequestError(f"the file is {plain} by its first bytes; allowed are {', '.join(allowed)}")


def _is_text(head: bytes) -> bool:
    if any(byte < 0x20 and byte not in b"\t\n\r\f\x1b" for byte in head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # The head may end within a character.
        return error.start >= len(head) - 3 and error.reason == "unexpected end of data"
    return True
