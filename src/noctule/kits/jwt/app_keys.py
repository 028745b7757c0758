"""Secrets of the app, from its settings, under which it keeps private keys in the store.

The first seals, all of them open. To change it while instances run: add the new one at the end on all of them, then put
it in front, then drop the old one once nothing is sealed with it any more (`SigningKeyRing.describe`).
"""

import hashlib
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from noctule.base.errors import ConfigError
from noctule.kits.app_secret import VARIABLE, app_secrets, checked_secrets, derived_key

_NONCE_BYTES = 12


class AppKeys:
    """Seals and opens with AES-256-GCM, by keys that HKDF makes of the secrets.

    None means the environment's JWT_SECRET, several separated by spaces, or without it NOCTULE_APP_SECRET. Raises
    `ConfigError` for none or short ones.
    """

    def __init__(self, secrets_: Sequence[str] | None = None) -> None:
        found = checked_secrets(list(secrets_), "app keys") if secrets_ is not None else app_secrets("JWT_SECRET")
        if secrets_ is None and not found:
            found = app_secrets()
        if not found:
            raise ConfigError(f"app keys: there is no secret; set JWT_SECRET or {VARIABLE}, on all instances the same")
        derived = [derived_key(each, "app key") for each in found]
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
