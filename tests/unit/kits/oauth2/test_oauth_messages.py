"""What is asked at /authorize and /token: only codes, only S256, nothing twice."""

from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.kits.oauth2 import errors
from noctule.kits.oauth2.clients import Client
from noctule.kits.oauth2.messages import (
    AuthorizationRequest,
    ClientCredentialsGrant,
    CodeGrant,
    RedirectedError,
    RefreshGrant,
    challenge_of,
    read_authorization,
    read_form,
    read_grant,
    redirection,
)

URI = "https://app.example/callback"
CLIENT = Client("app", redirect_uris=(URI,), scopes=("a", "b"))
AUDIENCE = "https://api.example"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
GOOD = {
    "response_type": "code", "client_id": "app", "redirect_uri": URI, "state": "s", "scope": "a",
    "code_challenge": CHALLENGE, "code_challenge_method": "S256",
}  # fmt: skip


def test_the_challenge_is_that_of_rfc_7636_appendix_b() -> None:
    assert challenge_of(VERIFIER) == CHALLENGE
    for bad in ("", "short", "x" * 129, "x" * 42 + "!"):
        with pytest.raises(errors.InvalidRequestError):
            challenge_of(bad)


def test_a_good_request_is_taken_as_it_is() -> None:
    assert read_authorization(GOOD, CLIENT, AUDIENCE) == AuthorizationRequest(
        CLIENT, URI, ("a",), "s", CHALLENGE, AUDIENCE
    )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"response_type": "token"}, errors.UnsupportedResponseTypeError),
        ({"response_mode": "fragment"}, errors.InvalidRequestError),
        ({"response_type": ""}, errors.InvalidRequestError),
        ({"code_challenge_method": "plain"}, errors.InvalidRequestError),
        ({"code_challenge_method": ""}, errors.InvalidRequestError),
        ({"code_challenge": ""}, errors.InvalidRequestError),
        ({"code_challenge": VERIFIER + "x"}, errors.InvalidRequestError),
        ({"scope": "c"}, errors.InvalidScopeError),
        ({"scope": 'a"'}, errors.InvalidScopeError),
        ({"resource": "https://evil.example"}, errors.InvalidTargetError),
        ({"state": "s" * 1025}, errors.InvalidRequestError),
    ],
)
def test_the_client_is_told_of_what_is_wrong(change: dict[str, str], error: type[errors.OAuth2Error]) -> None:
    query = {name: value for name, value in (GOOD | change).items() if value}
    with pytest.raises(RedirectedError) as told:
        read_authorization(query, CLIENT, AUDIENCE)
    assert type(told.value.error) is error
    assert told.value.redirect_uri == URI
    assert told.value.state in ("s", None)


def test_nobody_is_redirected_to_where_it_may_be_unsafe() -> None:
    for client, query in ((None, GOOD), (CLIENT, GOOD | {"redirect_uri": "https://evil.example/"})):
        with pytest.raises(errors.InvalidRequestError):
            read_authorization(query, client, AUDIENCE)


def test_grants_are_read_and_none_is_left_of_the_old_ones() -> None:
    code = {"grant_type": "authorization_code", "code": "c", "redirect_uri": URI, "code_verifier": VERIFIER}
    assert read_grant(code, CLIENT, AUDIENCE) == CodeGrant("c", URI, CHALLENGE)
    refresh = {"grant_type": "refresh_token", "refresh_token": "r", "scope": "a"}
    assert read_grant(refresh, CLIENT, AUDIENCE) == RefreshGrant("r", ("a",))
    job = Client(
        "job", grants=("client_credentials",), scopes=("a",), auth_method="client_secret_post", secret_sha256="0" * 64
    )
    assert read_grant({"grant_type": "client_credentials"}, job, AUDIENCE) == ClientCredentialsGrant(("a",), AUDIENCE)
    for form, error in (
        ({}, errors.InvalidRequestError),
        ({"grant_type": "password"}, errors.UnsupportedGrantTypeError),
        ({"grant_type": "client_credentials"}, errors.UnauthorizedClientError),
        ({"grant_type": "authorization_code", "code": "c"}, errors.InvalidRequestError),
        ({"grant_type": "refresh_token"}, errors.InvalidRequestError),
    ):
        with pytest.raises(error):
            read_grant(form, CLIENT, AUDIENCE)


def test_a_form_has_each_field_once_and_no_empty_ones() -> None:
    assert read_form(b"a=1&b=&c=%20x") == {"a": "1", "c": " x"}
    for bad in (b"a=1&a=2", b"a=%ff", b"a" * 20_000, b"&".join(b"f%d=1" % n for n in range(40)), b"a=\xff"):
        with pytest.raises(errors.InvalidRequestError):
            read_form(bad)


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(min_size=1, max_size=9), max_size=4))
def test_what_is_sent_by_redirection_arrives(answer: dict[str, str]) -> None:
    for uri in (URI, f"{URI}?kept=1"):
        target = redirection(uri, {**answer, "state": None})
        assert target.startswith(uri)
        told = parse_qs(urlsplit(target).query)
        assert {name: values[-1] for name, values in told.items() if name in answer} == answer


def test_every_code_has_one_class_and_a_sentence_that_may_be_sent() -> None:
    classes = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.OAuth2Error)
    ]
    codes = [each.code for each in classes if each is not errors.OAuth2Error]
    assert len(set(codes)) == len(codes)
    assert set(codes) == {
        "invalid_request", "unauthorized_client", "access_denied", "unsupported_response_type", "invalid_scope",
        "server_error", "temporarily_unavailable", "invalid_client", "invalid_grant", "unsupported_grant_type",
        "unsupported_token_type", "invalid_token", "insufficient_scope", "invalid_target",
    }  # fmt: skip
    assert not set('"\\') & set(errors.GRANT_IS_INVALID)
    assert urlencode({"error_description": errors.GRANT_IS_INVALID}).isascii()
