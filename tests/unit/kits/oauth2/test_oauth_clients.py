"""Who a client is: registration that cannot be unsafe, and proof of being it."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import ConfigError
from noctule.kits.oauth2.clients import (
    Client,
    Credentials,
    check_credentials,
    new_client_secret,
    parse_scope,
    read_credentials,
)
from noctule.kits.oauth2.errors import InvalidClientError, InvalidRequestError, InvalidScopeError, InvalidTargetError

URI = "https://app.example/callback"
SECRET, DIGEST = new_client_secret()


def client(**fields: Any) -> Client:
    return Client(**({"id": "app", "redirect_uris": (URI,)} | fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id": ""}, "id must be"),
        ({"id": "with space"}, "id must be"),
        ({"redirect_uris": ("http://app.example/callback",)}, "clear text"),
        ({"redirect_uris": ("https://app.example/*",)}, "asterisk"),
        ({"redirect_uris": ("https://app.example/#x",)}, "fragment"),
        ({"redirect_uris": ("javascript:alert(1)",)}, "scheme with a dot"),
        ({"redirect_uris": ("https:///path",)}, "no host"),
        ({"redirect_uris": ("/callback",)}, "complete"),
        ({"redirect_uris": ()}, "are needed"),
        ({"grants": ("password",)}, "grants must be"),
        ({"grants": ("authorization_code", "client_credentials")}, "keeps a secret"),
        ({"auth_method": "client_secret_basic"}, "secret_sha256"),
        ({"secret_sha256": DIGEST}, "secret_sha256"),
        ({"scopes": ('a"b',)}, "RFC 6749 3.3"),
    ],
)
def test_a_registration_that_would_be_unsafe_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        client(**fields)


@pytest.mark.parametrize("uri", [URI, "http://127.0.0.1:8123/cb", "http://[::1]/cb", "com.example.app:/cb"])
def test_redirection_uris_that_are_safe_are_taken(uri: str) -> None:
    assert client(redirect_uris=(uri,)).check_redirect_uri(uri) == uri


@pytest.mark.parametrize("asked", [f"{URI}/", f"{URI}?x=1", "https://app.example/Callback", "https://app.example", ""])
def test_a_redirection_uri_is_what_was_registered_to_the_character(asked: str) -> None:
    with pytest.raises(InvalidRequestError):
        client().check_redirect_uri(asked)


def test_a_missing_redirection_uri_is_the_only_one_there_is() -> None:
    assert client().check_redirect_uri(None) == URI
    with pytest.raises(InvalidRequestError):
        client(redirect_uris=(URI, "https://app.example/other")).check_redirect_uri(None)


def test_scopes_and_audiences_are_what_the_client_may_have() -> None:
    one = client(scopes=("a", "b"), audiences=("https://other.example",))
    assert one.check_scopes(()) == ("a", "b")
    assert one.check_scopes(("b",)) == ("b",)
    with pytest.raises(InvalidScopeError):
        one.check_scopes(("b", "c"))
    assert one.check_audience(None, "https://api.example") == "https://api.example"
    assert one.check_audience("https://other.example", "https://api.example") == "https://other.example"
    with pytest.raises(InvalidTargetError):
        one.check_audience("https://evil.example", "https://api.example")


@given(st.text(max_size=40))
def test_a_scope_is_words_or_an_error(text: str) -> None:
    try:
        words = parse_scope(text)
    except InvalidScopeError:
        return
    assert len(set(words)) == len(words)
    assert set(" ".join(words)) <= set(map(chr, range(0x20, 0x7F))) - set('"\\')


def basic(user: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{user}:{password}".encode())


def test_credentials_come_by_one_way_only() -> None:
    assert read_credentials(basic("a%20b", "x%3Ay"), {}) == Credentials("a b", "client_secret_basic", "x:y")
    assert read_credentials(None, {"client_id": "a", "client_secret": "s"}).method == "client_secret_post"
    assert read_credentials(None, {"client_id": "a"}).method == "none"
    with pytest.raises(InvalidRequestError, match="two ways"):
        read_credentials(basic("a", "s"), {"client_secret": "s"})
    with pytest.raises(InvalidRequestError, match="differs"):
        read_credentials(basic("a", "s"), {"client_id": "b"})
    for bad in (b"Basic", b"Basic !!", b"Bearer x", b"Basic " + base64.b64encode(b"nocolon"), b"Basic /w=="):
        with pytest.raises(InvalidClientError):
            read_credentials(bad, {})
    with pytest.raises(InvalidClientError):
        read_credentials(None, {})


def test_a_client_is_itself_by_the_registered_method_only() -> None:
    secret = client(auth_method="client_secret_basic", secret_sha256=DIGEST)
    assert check_credentials(secret, Credentials("app", "client_secret_basic", SECRET)) is secret
    public = client()
    assert check_credentials(public, Credentials("app", "none")) is public
    for wrong in (
        Credentials("app", "client_secret_basic", SECRET + "x"),
        Credentials("app", "client_secret_post", SECRET),
        Credentials("app", "none"),
    ):
        with pytest.raises(InvalidClientError):
            check_credentials(secret, wrong)
    with pytest.raises(InvalidClientError):
        check_credentials(public, Credentials("app", "client_secret_basic", ""))
    with pytest.raises(InvalidClientError):
        check_credentials(None, Credentials("app", "none"))


def test_secrets_do_not_show() -> None:
    assert SECRET not in repr(Credentials("app", "client_secret_post", SECRET))
    assert DIGEST not in repr(client(auth_method="client_secret_basic", secret_sha256=DIGEST))
