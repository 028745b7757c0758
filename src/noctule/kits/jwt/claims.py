"""What an access token says (RFC 9068), and which of them are believed; pure.

Two claims are ours: ``fid``, the family of the grant, and ``pos``, the position of the log of revocations at which the
token was made. A revocation behind that position concerns the token, an earlier one does not; no clock has a say in it.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from noctule.kits.oauth2.errors import InvalidTokenError

TOKEN_BYTES_MAX = 4096
TYPE = "at+jwt"
LOG_START = "0-0"
"""The position before everything."""
LEEWAY_S = 5
"""By how much the clock of whoever checks may be behind or ahead."""

TOKEN_IS_INVALID = "the access token is malformed, expired, revoked or meant for somebody else"
"""The one sentence of `InvalidTokenError`."""


class Claims(msgspec.Struct, frozen=True, omit_defaults=True):
    """The payload."""

    iss: str
    sub: str
    aud: str | list[str]
    client_id: str
    iat: int
    exp: int
    jti: str
    scope: str = ""
    fid: str = ""
    pos: str = LOG_START


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token that was believed; what it is made of is not in here."""

    subject: str
    client_id: str
    scopes: frozenset[str]
    audience: tuple[str, ...]
    issuer: str
    id: str
    """``jti``: one of its own."""
    issued_s: int
    expires_s: int
    """Seconds since 1970."""
    family: str
    """Empty for client credentials."""
    position: str

    @property
    def is_of_client(self) -> bool:
        """Whether it is a client's own (client credentials): its subject is no user, whatever it is called."""
        return not self.family

    def is_expired(self, now_s: float, leeway_s: float = LEEWAY_S) -> bool:
        """Whether its time has passed."""
        return now_s >= self.expires_s + leeway_s


def read_claims(claims: Any, *, issuer: str, now_s: float, leeway_s: float = LEEWAY_S) -> AccessToken:
    """The token of that issuer that has these claims, whose signature was checked before, for whomever it is meant.

    Raises `InvalidTokenError`.
    """
    try:
        said = msgspec.convert(claims, Claims)
    except msgspec.ValidationError:
        raise InvalidTokenError(TOKEN_IS_INVALID) from None
    audiences = (said.aud,) if isinstance(said.aud, str) else tuple(said.aud)
    token = AccessToken(
        subject=said.sub,
        client_id=said.client_id,
        scopes=frozenset(said.scope.split()),
        audience=audiences,
        issuer=said.iss,
        id=said.jti,
        issued_s=said.iat,
        expires_s=said.exp,
        family=said.fid,
        position=said.pos,
    )
    is_early = said.iat > now_s + leeway_s
    if said.iss != issuer or not audiences or is_early or token.is_expired(now_s, leeway_s):
        raise InvalidTokenError(TOKEN_IS_INVALID)
    if not is_position(said.pos) or not said.sub or not said.jti:
        raise InvalidTokenError(TOKEN_IS_INVALID)
    return token


def is_position(text: str) -> bool:
    """Whether it is an id of a stream: two numbers of at most 64 bits."""
    first, dash, second = text.partition("-")
    return bool(dash) and all(part.isascii() and part.isdecimal() and len(part) <= 20 for part in (first, second))


def position_number(text: str) -> tuple[int, int]:
    """A position as what it is compared by."""
    first, _, second = text.partition("-")
    return int(first), int(second)
