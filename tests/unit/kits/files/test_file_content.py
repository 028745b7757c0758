"""What a file is, by its bytes; what a browser would run is never called harmless."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import RequestError
from noctule.kits.files.content import (
    BYTES,
    HEAD_BYTES,
    check_allowed,
    disposition_of,
    sniff,
    type_by_name,
    type_of_extension,
)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x01\x02\x03\x04WEBPVP8 ", "image/webp"),
        (b"RIFF\x01\x02\x03\x04WAVEfmt ", "audio/wav"),
        (b"\x00\x00\x00\x20ftypisom", "video/mp4"),
        (b"\x00\x00\x00\x20ftypavif", "image/avif"),
        (b"%PDF-1.7", "application/pdf"),
        (b"PK\x03\x04", "application/zip"),
        (bytes(257) + b"ustar", "application/x-tar"),
        ("grüße\n".encode(), "text/plain; charset=utf-8"),
        (b"not RIFFWAVE here", "text/plain; charset=utf-8"),
        (b"\x00\x01", "application/octet-stream"),
        (b"", "application/octet-stream"),
    ],
)
def test_by_the_first_bytes(head: bytes, name: str) -> None:
    assert sniff(head).name == name


ACTIVE = [
    "<html>",
    "<!DOCTYPE html>",
    "<svg onload=x>",
    "<?xml version='1.0'?><svg/>",
    "<script>",
    "<!-- --><b>",
    "<A ",
]


@given(
    before=st.sampled_from(["", " ", "\t\r\n", "\ufeff", "\ufeff\n ", "\f"]),
    active=st.sampled_from(ACTIVE),
    upper=st.booleans(),
    rest=st.text() | st.just("<" + "x" * 600),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-16-be", "utf-32"]),
)
def test_markup_is_only_ever_downloaded(before: str, active: str, upper: bool, rest: str, encoding: str) -> None:
    data = (before + (active.upper() if upper else active) + rest).encode(encoding, "replace")
    found = sniff(data[:HEAD_BYTES])
    assert found is BYTES
    assert disposition_of(found.name) == "attachment"


@given(st.binary(max_size=HEAD_BYTES))
def test_any_bytes_have_a_type_that_is_known_by_name_and_extension(head: bytes) -> None:
    found = sniff(head)
    assert type_by_name(found.name.partition(";")[0]) == found
    assert type_of_extension(found.extension) == found


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=200))
def test_a_character_that_the_head_cuts_is_text_still(text: str) -> None:
    data = ("a" + text).encode()
    for size in range(100, 104):
        assert sniff(data[:size]).extension == "txt"


def test_a_name_for_downloads_cannot_add_a_header() -> None:
    disposition = disposition_of("image/png", 'a"; b\r\nSet-Cookie: x=ü')
    assert disposition == "attachment; filename*=UTF-8''a%22%3B%20b%0D%0ASet-Cookie%3A%20x%3D%C3%BC"


@pytest.mark.parametrize("name", ["application/pdf", "application/zip", "text/html", "image"])
def test_what_may_run_something_is_saved(name: str) -> None:
    assert disposition_of(name) == "attachment"


def test_only_what_is_allowed() -> None:
    check_allowed(sniff(PNG).name, ("image/*",))
    check_allowed(sniff(PNG).name, ("text/plain", "image/png"))
    check_allowed(sniff(PNG).name, ())
    with pytest.raises(RequestError, match="image/png by its first bytes; allowed are image/jpeg"):
        check_allowed(sniff(PNG).name, ("image/jpeg",))
    with pytest.raises(RequestError, match="text/html"):
        type_by_name("text/html")
