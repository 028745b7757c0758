"""Clients of the authorization server and how they prove to be themselves; pure.

A secret is made here, 256 random bits, shown once and kept as its SHA-256: nothing can be gained by a slow hash where
there is nothing to guess. Redirection URIs are compared as strings (RFC 9700 2.1): what is registered is what is used.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote_plus, urlsplit

from noctule.base.errors import ConfigError
from noctule.kits.oauth2.errors import InvalidClientError, InvalidRequestError, InvalidScopeError, InvalidTargetError

AuthMethod = Literal["none", "client_secret_basic", "client_secret_post"]
GrantType = Literal["authorization_code", "refresh_token", "client_credentials"]

AUTH_METHODS: tuple[AuthMethod, ...] = ("none", "client_secret_basic", "client_secret_post")
GRANT_TYPES: tuple[GrantType, ...] = ("authorization_code", "refresh_token", "client_credentials")

CLIENT_ID_CHARACTERS_MAX = 128
REDIRECT_URI_CHARACTERS_MAX = 2048
SCOPES_MAX = 64
SCOPE_CHARACTERS_MAX = 1024
"""Of the whole parameter."""

_CLIENT_WRONG = "the client is unknown or did not authenticate as it is registered"
_SCOPE_CHARACTERS = frozenset(chr(c) for c in range(0x21, 0x7F)) - set('"\\')  # RFC 6749 3.3.
_NO_SECRET = hashlib.sha256(secrets.token_bytes(32)).hexdigest()


@dataclass(frozen=True, slots=True)
class Client:
    """What is registered of one client. Raises `ConfigError` naming every problem at once."""

    id: str
    name: str = ""
    """For the page that asks the user."""
    redirect_uris: tuple[str, ...] = ()
    """Complete, https or a loopback address (RFC 8252 8.3) or an app's own scheme; compared character by character."""
    grants: tuple[GrantType, ...] = ("authorization_code", "refresh_token")
    scopes: tuple[str, ...] = ()
    """What it may ask for; all of it when it names none."""
    auth_method: AuthMethod = "none"
    """``none`` is a public client: an app in a browser or on a phone keeps no secret. PKCE is demanded of all."""
    secret_sha256: str = field(default="", repr=False)
    """64 hexadecimal digits, as `new_client_secret` gives them."""
    audiences: tuple[str, ...] = ()
    """Resources it may ask tokens for besides the server's own audience (RFC 8707)."""

    def __post_init__(self) -> None:
        problems = [*self._problems()]
        if problems:
            raise ConfigError(f"OAuth client {self.id[:CLIENT_ID_CHARACTERS_MAX]!r}: " + "; ".join(problems))

    def _problems(self) -> list[str]:
        problems = []
        if not 0 < len(self.id) <= CLIENT_ID_CHARACTERS_MAX or not all(0x21 <= ord(c) <= 0x7E for c in self.id):
            problems.append(f"id must be 1 to {CLIENT_ID_CHARACTERS_MAX} printable ASCII characters without spaces")
        if not set(self.grants) <= set(GRANT_TYPES) or not self.grants:
            problems.append(f"grants must be some of {', '.join(GRANT_TYPES)}")
        if self.auth_method not in AUTH_METHODS:
            problems.append(f"auth_method must be one of {', '.join(AUTH_METHODS)}")
        if (self.auth_method != "none") != (len(self.secret_sha256) == 64):
            problems.append("secret_sha256 must be 64 hexadecimal digits with an auth_method, and empty with none")
        if "client_credentials" in self.grants and self.auth_method == "none":
            problems.append("client_credentials needs a client that keeps a secret")
        if ("authorization_code" in self.grants) != bool(self.redirect_uris):
            problems.append("redirect_uris are needed for authorization_code, and for it only")
        problems += [reason for uri in self.redirect_uris if (reason := _wrong_in_uri(uri))]
        if not all(is_scope(scope) for scope in self.scopes) or len(self.scopes) > SCOPES_MAX:
            problems.append(f"scopes must be at most {SCOPES_MAX} words as RFC 6749 3.3 allows them")
        return problems

    @property
    def is_public(self) -> bool:
        """Whether it keeps no secret."""
        return self.auth_method == "none"

    def check_redirect_uri(self, uri: str | None) -> str:
        """The URI to answer to. Raises `InvalidRequestError`, and then nobody is to be redirected."""
        if uri is None and len(self.redirect_uris) == 1:
            return self.redirect_uris[0]
        if uri is None or uri not in self.redirect_uris:
            raise InvalidRequestError("redirect_uri is not one that the client has registered")
        return uri

    def check_scopes(self, asked: tuple[str, ...]) -> tuple[str, ...]:
        """What it gets of what it asks for: exactly that, or all it may when it asks for nothing."""
        if not set(asked) <= set(self.scopes):
            raise InvalidScopeError("the client may not ask for that scope")
        return asked or self.scopes

    def check_audience(self, resource: str | None, default: str) -> str:
        """The audience of its token. Raises `InvalidTargetError`."""
        if resource is None or resource == default:
            return default
        if resource not in self.audiences:
            raise InvalidTargetError("the client may not ask for a token for that resource")
        return resource


def new_client_secret() -> tuple[str, str]:
    """A secret to hand out once, and its SHA-256 to keep."""
    secret = secrets.token_urlsafe(32)
    return secret, hashlib.sha256(secret.encode()).hexdigest()


def is_scope(word: str) -> bool:
    """Whether it is a scope-token of RFC 6749 3.3."""
    return bool(word) and set(word) <= _SCOPE_CHARACTERS


def parse_scope(text: str | None) -> tuple[str, ...]:
    """The words of a ``scope`` parameter, each once, in order; none for None. Raises `InvalidScopeError`."""
    words = tuple(dict.fromkeys((text or "").split(" ")))
    words = () if words == ("",) else words
    if len(text or "") > SCOPE_CHARACTERS_MAX or len(words) > SCOPES_MAX or not all(map(is_scope, words)):
        raise InvalidScopeError("scope is malformed or too long")
    return words


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request says of who asks."""

    client_id: str
    method: AuthMethod
    secret: str = field(default="", repr=False)


def read_credentials(authorization: bytes | None, form: Mapping[str, str]) -> Credentials:
    """Who asks, by the Authorization header or the form, and not by both (RFC 6749 2.3).

    Raises `InvalidRequestError` or `InvalidClientError`.
    """
    if authorization is not None:
        if "client_secret" in form:
            raise InvalidRequestError("the client authenticates in two ways at once")
        credentials = _read_basic(authorization)
        if form.get("client_id", credentials.client_id) != credentials.client_id:
            raise InvalidRequestError("client_id differs from who authenticates")
        return credentials
    if not form.get("client_id"):
        raise InvalidClientError(_CLIENT_WRONG)
    if "client_secret" in form:
        return Credentials(form["client_id"], "client_secret_post", form["client_secret"])
    return Credentials(form["client_id"], "none")


def check_credentials(client: Client | None, credentials: Credentials) -> Client:
    """The client, if it is the one it says, by the method it is registered with. Raises `InvalidClientError`.

    A client that is not known costs the same comparison as one that is.
    """
    given = hashlib.sha256(credentials.secret.encode()).hexdigest()
    kept = client.secret_sha256 if client is not None and not client.is_public else _NO_SECRET
    is_right = hmac.compare_digest(given, kept)
    if client is None or client.auth_method != credentials.method or not (is_right or client.is_public):
        raise InvalidClientError(_CLIENT_WRONG)
    return client


def _read_basic(header: bytes) -> Credentials:
    scheme, _, encoded = header.partition(b" ")
    try:
        if scheme.lower() != b"basic":
            raise ValueError
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (ValueError, binascii.Error):
        raise InvalidClientError(_CLIENT_WRONG) from None
    if not colon:
        raise InvalidClientError(_CLIENT_WRONG)
    # RFC 6749 2.3.1: both were form-encoded before they were joined.
    return Credentials(unquote_plus(user), "client_secret_basic", unquote_plus(password))


def _wrong_in_uri(uri: str) -> str:
    """What is wrong with a redirection URI, as half a sentence; empty when nothing is."""
    shown = uri[:80]
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
    except ValueError:
        return f"redirect URI {shown!r} is no URI"
    if len(uri) > REDIRECT_URI_CHARACTERS_MAX or not uri.isascii() or not uri.isprintable() or " " in uri:
        return f"redirect URI {shown!r} is too long or holds what a URI cannot"
    if not parts.scheme or "#" in uri or "*" in uri:
        return f"redirect URI {shown!r} must be complete, without fragment or asterisk"
    if parts.scheme == "http" and host not in ("127.0.0.1", "::1", "localhost"):
        return f"redirect URI {shown!r} must be https: the code would travel in clear text"
    if parts.scheme in ("http", "https"):
        return "" if host else f"redirect URI {shown!r} names no host"
    # RFC 8252 7.1: an app's own scheme is a domain name turned round, which javascript: and data: are not.
    return "" if "." in parts.scheme else f"redirect URI {shown!r} must be https or a scheme with a dot"
