"""Codes and refresh tokens: what they look like, how they are kept, and how an answer is sealed with one; pure.

    nrt.2.Yk3l…22 characters.q8Zb…43 characters
    kind, shard, handle, secret

The shard says where in the store the grant is, the handle which one: all tokens of a *family* (what descends from one
consent) share it. The store knows neither: the family's id there is a hash of the handle, and of a secret it keeps the
SHA-256. So whoever presents a handle has once held a token of that family, and a secret that is not the present one is
a replay and not a guess.
"""

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from noctule.base.errors import StorageError

Kind = Literal["nac", "nrt"]
"""Of an authorization code, of a refresh token."""

_TEXT = re.compile(r"(nac|nrt)\.([0-9]{1,3})\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")
_SEAL = b"noctule refresh answer 1"
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class OpaqueToken:
    """A code or a refresh token in the hands of this process."""

    kind: Kind
    shard: int
    handle: str = field(repr=False)
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """What the client gets."""
        return f"{self.kind}.{self.shard}.{self.handle}.{self.secret}"

    @property
    def family(self) -> str:
        """The id of its family, which gives nothing away: 22 characters of base64url."""
        return digest_of("family", self.handle)

    @property
    def digest(self) -> str:
        """What the store keeps of the secret."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def successor(self) -> "OpaqueToken":
        """Another refresh token of the same family."""
        return OpaqueToken("nrt", self.shard, self.handle, secrets.token_urlsafe(32))

    def seal(self, answer: bytes) -> bytes:
        """The answer, readable only with this token in hand."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self._key()).encrypt(nonce, answer, self.family.encode())

    def open(self, sealed: bytes) -> bytes:
        """What was sealed with this token. Raises `StorageError` when it was not, or is damaged."""
        try:
            return AESGCM(self._key()).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], self.family.encode())
        except (InvalidTag, ValueError):
            raise StorageError("a stored answer cannot be opened with the token that it belongs to") from None

    def _key(self) -> bytes:
        # Not the digest that the store has, and nothing that can be computed from it.
        return hmac.new(self.secret.encode(), _SEAL, hashlib.sha256).digest()


def new_code(shard: int) -> OpaqueToken:
    """An authorization code, with which a family begins."""
    return OpaqueToken("nac", shard, secrets.token_urlsafe(16), secrets.token_urlsafe(32))


def parse_opaque(text: str, kind: Kind, shards: int) -> OpaqueToken | None:
    """The token in a text; None where it is none of this kind and deployment."""
    match = _TEXT.fullmatch(text)
    if match is None or match[1] != kind or int(match[2]) >= shards:
        return None
    return OpaqueToken(kind, int(match[2]), match[3], match[4])


def digest_of(what: str, text: str) -> str:
    """A name for the store that does not tell the text: 128 bits in 22 characters of base64url."""
    return urlsafe_b64encode(hashlib.sha256(f"noctule {what}\0{text}".encode()).digest()[:16]).rstrip(b"=").decode()


def shard_of(subject: str, shards: int) -> int:
    """Where everything of a subject is kept."""
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:4], "big") % shards
