"""Access tokens: signed JWTs by RFC 9068, made and read with the ring of keys.

What is believed: the type ``at+jwt``, a key of the ring, the one algorithm which that key is for, the issuer, the
audience and the times. Whether a token is revoked is another question: `noctule.kits.oauth2.checks`.
"""

import base64
import binascii
import copy
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.kits.jwt.claims import TOKEN_BYTES_MAX, TOKEN_IS_INVALID, TYPE, AccessToken, Claims, read_claims
from noctule.kits.jwt.key_ring import SigningKey, SigningKeyRing
from noctule.kits.jwt.ring_state import ALGORITHMS, Algorithm
from noctule.kits.oauth2.errors import InvalidTokenError

VERIFIED_MAX = 4096
"""Tokens whose signature this instance remembers to have checked, by their SHA-256; the oldest use goes first."""


# RFC 9864 has a new name for EdDSA with this curve, and joserfc warns of the old one, which is what others know.
_EDDSA = copy.copy(JWSRegistry.algorithms["EdDSA"])
_EDDSA.security_warning = None


class _Registry(JWSRegistry):
    algorithms = JWSRegistry.algorithms | {"EdDSA": _EDDSA}


_REGISTRIES = {alg: _Registry(algorithms=[alg]) for alg in ALGORITHMS}


class AccessTokens:
    """Makes and reads the tokens of one issuer, for one audience of its own."""

    def __init__(
        self,
        ring: SigningKeyRing,
        *,
        issuer: str,
        audience: str,
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
    ) -> None:
        self.ring = ring
        self.issuer = issuer
        self.audience = audience
        self._clock = clock
        self._verified: OrderedDict[bytes, AccessToken] = OrderedDict()

    async def signer(self) -> "Signer":
        """What makes tokens with the key that signs now. Raises `UnavailableError`."""
        kid, alg, key = await self.ring.signing_key()
        return Signer(self.issuer, {"alg": alg, "kid": kid, "typ": TYPE}, key)

    async def verify(self, text: str) -> AccessToken:
        """The token, if it is to be believed here. Raises `InvalidTokenError` or `UnavailableError`."""
        token = await self.verify_issued(text)
        if self.audience not in token.audience:
            raise InvalidTokenError(TOKEN_IS_INVALID)
        return token

    async def verify_issued(self, text: str) -> AccessToken:
        """The token, for whomever it is meant: for the server that issued it. Raises as `verify`."""
        if len(text) > TOKEN_BYTES_MAX or not text.isascii():
            raise InvalidTokenError(TOKEN_IS_INVALID)
        now_s = self._clock.wall_ms() / 1000
        digest = hashlib.sha256(text.encode()).digest()
        # A key that was withdrawn makes what it signed void, whether or not this instance has checked it before.
        key = await self.ring.public_key(_kid(text))
        if key is None:
            raise InvalidTokenError(TOKEN_IS_INVALID)
        known = self._verified.get(digest)
        if known is not None:
            self._verified.move_to_end(digest)
            if known.is_expired(now_s):
                raise InvalidTokenError(TOKEN_IS_INVALID)
            return known
        token = read_claims(_payload(text, *key), issuer=self.issuer, now_s=now_s)
        self._verified[digest] = token
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)
        return token


class Signer:
    """Makes tokens with one key."""

    def __init__(self, issuer: str, header: dict[str, Any], key: SigningKey) -> None:
        self._issuer = issuer
        self._header = header
        self._key = key

    def sign(
        self,
        *,
        subject: str,
        client_id: str,
        audience: str,
        scopes: Iterable[str],
        family: str,
        position: str,
        now_ms: int,
        life_s: int,
    ) -> str:
        """One token; times are the store's."""
        issued_s = now_ms // 1000
        claims = Claims(
            iss=self._issuer,
            sub=subject,
            aud=audience,
            client_id=client_id,
            iat=issued_s,
            exp=issued_s + life_s,
            jti=secrets.token_urlsafe(16),
            scope=" ".join(scopes),
            fid=family,
            pos=position,
        )
        registry = _REGISTRIES[self._header["alg"]]
        return jws.serialize_compact(self._header, msgspec.json.encode(claims), self._key, registry=registry)


def _kid(text: str) -> str:
    """The name of the key in the header; the rest of it is checked with the signature. Raises `InvalidTokenError`."""
    head = text.partition(".")[0]
    try:
        header = msgspec.json.decode(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, binascii.Error, msgspec.DecodeError, RecursionError):
        raise InvalidTokenError(TOKEN_IS_INVALID) from None
    if not isinstance(header, dict) or header.get("typ") != TYPE or not isinstance(header.get("kid"), str):
        raise InvalidTokenError(TOKEN_IS_INVALID)
    return str(header["kid"])


def _payload(text: str, alg: Algorithm, key: SigningKey) -> Any:
    try:
        checked = jws.deserialize_compact(text, key, registry=_REGISTRIES[alg])
        return msgspec.json.decode(checked.payload or b"")
    except (JoseError, ValueError, msgspec.DecodeError, RecursionError):
        raise InvalidTokenError(TOKEN_IS_INVALID) from None
