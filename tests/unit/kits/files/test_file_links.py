"""Links: Amazon's own example, and what any change to a link of ours is worth."""

import base64
import json
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noctule.base.errors import ConfigError, RequestError
from noctule.kits.files.keys import new_key
from noctule.kits.files.links import NAME_BYTES_MAX, checked_name
from noctule.kits.files.local_urls import Grant, LinkExpiredError, LinkRefusedError, LinkSigner
from noctule.kits.files.sigv4 import S3Signer

WALL_MS = 1_774_000_000_000
KEY = new_key("docs", "pdf", WALL_MS, 5)
OLD, NEW = b"o" * 32, b"n" * 32
SIGNER = LinkSigner("/files", [NEW])

# The example of "Authenticating Requests: Using Query Parameters", Amazon S3 API Reference.
AMAZON = S3Signer(
    "https://examplebucket.s3.amazonaws.com",
    "examplebucket",
    "",
    "us-east-1",
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
)
AMAZON_MS = 1_369_353_600_000


def test_amazons_example() -> None:
    link = AMAZON.presign("GET", "test.txt", expires_s=86400, wall_ms=AMAZON_MS)
    assert link == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


def test_a_form_says_what_may_be_uploaded() -> None:
    signer = S3Signer("https://s3.example.com/b", "b", "pre/fix", "eu", "id", "secret")
    fields = signer.post_policy("k", expires_s=60, wall_ms=AMAZON_MS, content_type="image/png", bytes_max=9)
    policy = json.loads(base64.b64decode(fields["policy"]))
    assert policy["expiration"] == "2013-05-24T00:01:00Z"
    assert fields["key"] == "pre/fix/k"
    assert {"bucket": "b"} in policy["conditions"]
    assert {"key": "pre/fix/k"} in policy["conditions"]
    assert ["content-length-range", 0, 9] in policy["conditions"]


def test_a_signer_shows_no_secret() -> None:
    assert "wJalr" not in repr(AMAZON)


def check(
    link: str, *, method: str = "GET", key: str = KEY, wall_ms: int = WALL_MS, signer: LinkSigner = SIGNER
) -> Grant:
    return signer.check(method, key, urlsplit(link).query, wall_ms)


LINK = SIGNER.sign("GET", KEY, expires_s=60, wall_ms=WALL_MS, disposition='Bericht & "Ümläut".pdf', bytes_max=7)


def test_a_link_says_what_it_allows() -> None:
    assert LINK.startswith(f"/files/{KEY}?")
    assert check(LINK) == Grant('Bericht & "Ümläut".pdf', 7)
    assert check(LINK, method="HEAD") == check(LINK)


def test_a_link_ends() -> None:
    assert check(LINK, wall_ms=WALL_MS + 59_999)
    with pytest.raises(LinkExpiredError, match="expired"):
        check(LINK, wall_ms=WALL_MS + 60_000)


@given(at=st.integers(0, len(LINK) - 1), byte=st.characters(codec="latin-1"), cut=st.sampled_from([0, 1]))
def test_any_changed_byte_is_refused(at: int, byte: str, cut: int) -> None:
    """Replaced or inserted, in key or query; the base is where the app is mounted, and not signed."""
    start = len("/files/")
    at = max(at, start)
    changed = LINK[:at] + byte + LINK[at + cut :]
    if changed == LINK:
        return
    path, _, query = changed.partition("?")
    with pytest.raises(LinkRefusedError):
        SIGNER.check("GET", path[start:], query, WALL_MS)


@pytest.mark.parametrize(
    "query",
    ["", "signature=", "&signature=", f"expires={2**40}&method=GET", "&signature=" + "0" * 64, "a" * 5000],
)
def test_what_is_no_link_is_refused(query: str) -> None:
    with pytest.raises(LinkRefusedError):
        SIGNER.check("GET", KEY, query, WALL_MS)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "get", ""])
def test_a_link_is_for_one_method(method: str) -> None:
    with pytest.raises(LinkRefusedError):
        check(LINK, method=method)
    put = SIGNER.sign("PUT", KEY, expires_s=60, wall_ms=WALL_MS)
    for other in ("GET", "HEAD"):
        with pytest.raises(LinkRefusedError):
            check(put, method=other)


def test_nothing_can_be_added_behind_the_signature() -> None:
    with pytest.raises(LinkRefusedError):
        check(f"{LINK}&expires=9999999999")
    with pytest.raises(LinkRefusedError):
        check(f"{LINK}&expires=9999999999&signature={dict(parse_qsl(LINK))['signature']}")


def test_secrets_are_replaced_without_breaking_links() -> None:
    before = LinkSigner("/f", [OLD]).sign("GET", KEY, expires_s=60, wall_ms=WALL_MS)
    during = LinkSigner("/f", [NEW, OLD])
    check(before, signer=during)
    after = during.sign("GET", KEY, expires_s=60, wall_ms=WALL_MS)
    check(after, signer=LinkSigner("/f", [NEW]))
    with pytest.raises(LinkRefusedError):
        check(before, signer=LinkSigner("/f", [NEW]))


@given(name=st.text(alphabet=st.characters(codec="utf-8")))
@example(name="😀" * 200)
@example(name="x" + "é" * 100)
def test_a_name_is_cut_to_what_stores_keep(name: str) -> None:
    cut = checked_name(name)
    assert name.startswith(cut)
    assert len(base64.urlsafe_b64encode(cut.encode())) <= 256
    assert cut == name or len(cut.encode()) > NAME_BYTES_MAX - 4


def test_half_a_character_is_no_name() -> None:
    with pytest.raises(RequestError, match="UTF-8"):
        checked_name("x\ud800")


def test_short_secrets_are_refused() -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        LinkSigner("/f", [b"short"])
    assert quote(KEY) == KEY
