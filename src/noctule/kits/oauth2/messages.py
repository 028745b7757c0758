"""What is asked at /authorize and /token, read and checked; pure.

Only what OAuth 2.1 kept: codes with PKCE by S256, refresh tokens, client credentials. There is no implicit grant, no
password grant, no plain challenge.
"""

import base64
import hashlib
import re
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import parse_qsl, urlencode

from noctule.kits.oauth2.clients import Client, parse_scope
from noctule.kits.oauth2.errors import (
    InvalidRequestError,
    OAuth2Error,
    UnauthorizedClientError,
    UnsupportedGrantTypeError,
    UnsupportedResponseTypeError,
)

FORM_BYTES_MAX = 16 * 1024
FIELDS_MAX = 32
STATE_CHARACTERS_MAX = 1024

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")  # RFC 7636 4.2: SHA-256 in base64url.
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")  # RFC 7636 4.1.


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A request that may be put to the user."""

    client: Client
    redirect_uri: str
    scopes: tuple[str, ...]
    state: str | None
    challenge: str = field(repr=False)
    audience: str


@dataclass(frozen=True, slots=True)
class CodeGrant:
    """``grant_type=authorization_code``."""

    code: str = field(repr=False)
    redirect_uri: str
    challenge: str = field(repr=False)
    """What the verifier that was sent hashes to."""


@dataclass(frozen=True, slots=True)
class RefreshGrant:
    """``grant_type=refresh_token``."""

    refresh_token: str = field(repr=False)
    scopes: tuple[str, ...]
    """Fewer than the user granted, or none: all of them."""


@dataclass(frozen=True, slots=True)
class ClientCredentialsGrant:
    """``grant_type=client_credentials``."""

    scopes: tuple[str, ...]
    audience: str


Grant: TypeAlias = CodeGrant | RefreshGrant | ClientCredentialsGrant


class RedirectedError(Exception):
    """A refusal that is told to the client by redirection (RFC 6749 4.1.2.1)."""

    def __init__(self, error: OAuth2Error, redirect_uri: str, state: str | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.redirect_uri = redirect_uri
        self.state = state


def read_form(encoded: bytes) -> dict[str, str]:
    """The fields of a query or form. Raises `InvalidRequestError`; also for one that is there twice (RFC 6749 3.1)."""
    if len(encoded) > FORM_BYTES_MAX:
        raise InvalidRequestError(f"the request is longer than {FORM_BYTES_MAX} bytes")
    try:
        pairs = parse_qsl(encoded.decode("ascii"), keep_blank_values=False, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError:
        raise InvalidRequestError("the request is not form-encoded, or has too many fields") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise InvalidRequestError("a parameter is there twice")
    return form


def read_authorization(query: dict[str, str], client: Client | None, audience: str) -> AuthorizationRequest:
    """What is asked at /authorize.

    Raises `OAuth2Error` as long as it is not sure where to redirect, and `RedirectedError` from then on.
    """
    if client is None:
        raise InvalidRequestError("client_id is not that of a registered client")
    redirect_uri = client.check_redirect_uri(query.get("redirect_uri"))
    state = query.get("state")
    try:
        if len(state or "") > STATE_CHARACTERS_MAX:
            state = None
            raise InvalidRequestError(f"state is longer than {STATE_CHARACTERS_MAX} characters")
        if "response_type" not in query:
            raise InvalidRequestError("response_type is missing")
        if query["response_type"] != "code":
            raise UnsupportedResponseTypeError("response_type must be code")
        if query.get("response_mode", "query") != "query":
            raise InvalidRequestError("response_mode must be query")
        if "authorization_code" not in client.grants:
            raise UnauthorizedClientError("the client may not use authorization codes")
        challenge = query.get("code_challenge", "")
        # RFC 7636 4.3: without a method it would be plain.
        if query.get("code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(challenge):
            raise InvalidRequestError("code_challenge with code_challenge_method=S256 is needed")
        scopes = client.check_scopes(parse_scope(query.get("scope")))
        return AuthorizationRequest(
            client, redirect_uri, scopes, state, challenge, client.check_audience(query.get("resource"), audience)
        )
    except OAuth2Error as error:
        raise RedirectedError(error, redirect_uri, state) from error


def read_grant(form: dict[str, str], client: Client, audience: str) -> Grant:
    """What is asked at /token, by a client that has proved to be itself. Raises `OAuth2Error`."""
    grant_type = form.get("grant_type")
    if grant_type is None:
        raise InvalidRequestError("grant_type is missing")
    if grant_type not in ("authorization_code", "refresh_token", "client_credentials"):
        raise UnsupportedGrantTypeError("grant_type must be authorization_code, refresh_token or client_credentials")
    if grant_type not in client.grants:
        raise UnauthorizedClientError("the client may not use this grant")
    if grant_type == "authorization_code":
        redirect_uri = form.get("redirect_uri") or client.check_redirect_uri(None)
        return CodeGrant(_needed(form, "code"), redirect_uri, challenge_of(_needed(form, "code_verifier")))
    if grant_type == "refresh_token":
        return RefreshGrant(_needed(form, "refresh_token"), parse_scope(form.get("scope")))
    scopes = client.check_scopes(parse_scope(form.get("scope")))
    return ClientCredentialsGrant(scopes, client.check_audience(form.get("resource"), audience))


def challenge_of(verifier: str) -> str:
    """The S256 challenge of a verifier (RFC 7636 4.2). Raises `InvalidRequestError` for what is none."""
    if not _VERIFIER.fullmatch(verifier):
        raise InvalidRequestError("code_verifier must be 43 to 128 of the unreserved characters")
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def redirection(uri: str, answer: dict[str, str | None]) -> str:
    """The URI with the answer in its query; whatever query it had stays (RFC 6749 3.1.2)."""
    fields = urlencode({name: value for name, value in answer.items() if value is not None})
    return f"{uri}{'&' if '?' in uri else '?'}{fields}"


def _needed(form: dict[str, str], name: str) -> str:
    if name not in form:
        raise InvalidRequestError(f"{name} is missing")
    return form[name]
