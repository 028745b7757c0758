"""Secrets of the app, from its settings, under which it keeps private keys in the store.

The first seals, all of them open. To change it while instances run: add the new one at the end on all of them, then put
it in front, then drop the old one once nothing is sealed with it any more (`SigningKeyRing.describe`).
"""

import hashlib
import os
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from noctule.base.errors import ConfigError

SECRET_CHARACTERS_MIN = 32
_NONCE_BYTES = 12


class AppKeys:
    """Seals and opens with AES-256-GCM, by keys that HKDF makes of the secrets.

    None means the environment's JWT_SECRET, several separated by spaces. Raises `ConfigError` for none or short ones.
    """

    def __init__(self, secrets_: Sequence[str] | None = None) -> None:
        if secrets_ is None:
            secrets_ = os.environ.get("JWT_SECRET", "").split()
        if not secrets_ or any(len(each) < SECRET_CHARACTERS_MIN for each in secrets_):
            raise ConfigError(
                f"app keys (JWT_SECRET): each secret must have at least {SECRET_CHARACTERS_MIN} characters; "
                "make one with python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        derived = [HKDF(SHA256(), 32, None, b"noctule app key 1").derive(each.encode()) for each in secrets_]
        self._keys = {hashlib.sha256(b"id" + key).hexdigest()[:8]: AESGCM(key) for key in derived}
        self.newest = next(iter(self._keys))
        """The id of the key that seals; it gives nothing away."""

    def seal(self, plain: bytes, context: str) -> bytes:
        """Sealed with the newest key; it opens in the same context only."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._keys[self.newest].encrypt(nonce, plain, context.encode())

    def open(self, sealed: bytes, key_id: str, context: str) -> bytes:
        """What was sealed. Raises `ConfigError` when no secret here is the one."""
        key = self._keys.get(key_id)
        try:
            if key is not None:
                return key.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context.encode())
        except (InvalidTag, ValueError):
            pass
        raise ConfigError(
            f"app keys: none of the secrets opens what was sealed with {key_id}; was one dropped too early?"
        )

    def __repr__(self) -> str:
        return f"<AppKeys {', '.join(self._keys)}>"
