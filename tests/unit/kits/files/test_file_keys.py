"""Names of files: made here, never taken from outside, and none leads out of the store."""

import posixpath
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import RequestError
from noctule.kits.files.keys import check_key, extension_of, is_incoming, kind_of, new_key, uuid7

KINDS = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)
TIMES = st.integers(0, 4_000_000_000_000)
BITS = st.integers(0, 2**74 - 1)


@given(kind=KINDS, extension=st.sampled_from(["", "png", "mp4"]), wall_ms=TIMES, bits=BITS)
def test_what_is_made_is_taken(kind: str, extension: str, wall_ms: int, bits: int) -> None:
    key = new_key(kind, extension, wall_ms, bits)
    assert check_key(key) == key
    assert extension_of(key) == extension
    assert key.startswith(f"{kind}/")


@given(wall_ms=TIMES, bits=BITS)
def test_a_name_is_a_uuid_of_version_7_with_its_time(wall_ms: int, bits: int) -> None:
    name = uuid7(wall_ms, bits)
    assert (name.version, name.variant) == (7, UUID(int=0x8 << 60).variant)
    assert name.int >> 80 == wall_ms


@given(kind=KINDS, extension=st.sampled_from(["", "png"]), wall_ms=TIMES, bits=BITS)
def test_an_upload_is_apart_from_all_files(kind: str, extension: str, wall_ms: int, bits: int) -> None:
    saved = new_key(kind, extension, wall_ms, bits)
    upload = new_key(kind, extension, wall_ms, bits, is_incoming=True)
    assert check_key(upload) == upload == f"_incoming/{saved}"
    assert is_incoming(upload)
    assert not is_incoming(saved)
    assert kind_of(upload) == kind_of(saved) == kind
    with pytest.raises(RequestError):
        check_key(f"_incoming/{upload}")


def test_the_folder_is_kind_and_day() -> None:
    assert new_key("avatars", "png", 1_774_000_000_000, 0).startswith("avatars/2026/03/20/")


@given(key=st.text() | st.from_regex(r"\A[a-z./%\\0-9-]{1,80}\Z") | st.binary().map(lambda b: b.decode("latin-1")))
def test_what_is_taken_never_leads_out(key: str) -> None:
    try:
        taken = check_key(key)
    except RequestError:
        return
    assert posixpath.normpath(taken) == taken
    assert not taken.startswith("/")
    assert taken.isascii()


GOOD = new_key("avatars", "png", 1_774_000_000_000, 7)


@pytest.mark.parametrize(
    "key",
    [
        f"../{GOOD}",
        f"/{GOOD}",
        f"{GOOD}/",
        f"{GOOD}\n",
        GOOD.replace("avatars", ".."),
        GOOD.replace("2026", "../."),
        GOOD.replace("2026", "２０２６"),
        GOOD.replace(".png", "./png"),
        GOOD.upper(),
        "",
    ],
)
def test_others_are_refused(key: str) -> None:
    with pytest.raises(RequestError):
        check_key(key)


@pytest.mark.parametrize("kind", ["", "..", "a/b", "A", "_uploads", "a" * 65, "ä"])
def test_a_kind_is_a_folder_name(kind: str) -> None:
    with pytest.raises(RequestError, match="kind"):
        new_key(kind, "", 0, 0)
