"""Keys that seal what a session holds: AES-256-GCM, by a ring of keys that can be rotated.

    keys = KeyRing.parse(os.environ["SESSION_KEYS"])      # "2026b:<base64 of 32 bytes>,2026a:<…>"
    keys = KeyRing.of_app()                               # of NOCTULE_APP_SECRET, which `noctule up` gives

The first key seals, all of them open. To rotate: add the new key at the end everywhere, then put it first everywhere,
and drop the old one when the longest session has ended. What is sealed is bound to its place (session and field), so
nobody who can write to the store can move it elsewhere.
"""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from noctule.base.errors import ConfigError, StorageError
from noctule.kits.app_secret import VARIABLE, app_secrets, derived_key

KEY_BYTES = 32
NONCE_BYTES = 12
"""Drawn for each value: so one key may seal 2**32 values (NIST SP 800-38D 8.3), then it has to be rotated."""
KEY_NAME_CHARACTERS_MAX = 16

_MARK = b"\x01"
"""How a sealed value begins; no JSON does."""


class KeyRing:
    """Seals and opens. `keys`: names to 32 random bytes each; `active`: the one that seals.

    With `accept_plain` what is not sealed is read as it is, for the time in which sealing is introduced; without it
    such a value is refused, so that whoever writes to the store cannot put one in place of a sealed one.
    Raises `ConfigError`.
    """

    def __init__(self, keys: Mapping[str, bytes], active: str, *, accept_plain: bool = False) -> None:
        if active not in keys:
            raise ConfigError("session keys: the active key is not among the keys")
        for name, key in keys.items():
            if len(key) != KEY_BYTES:
                raise ConfigError(f"session keys: key {name!r} has {len(key)} bytes, it must have {KEY_BYTES}")
            if not (name.isascii() and name.isalnum() and len(name) <= KEY_NAME_CHARACTERS_MAX):
                raise ConfigError(
                    f"session keys: the name {name!r} must be 1 to {KEY_NAME_CHARACTERS_MAX} letters and digits"
                )
        self._ciphers = {name.encode(): AESGCM(key) for name, key in keys.items()}
        self._active = active.encode()
        self.accepts_plain = accept_plain

    @classmethod
    def parse(cls, text: str, *, accept_plain: bool = False) -> "KeyRing":
        """The ring that ``name:key,name:key`` tells, keys in base64, the first one active. Raises `ConfigError`."""
        keys: dict[str, bytes] = {}
        for part in text.split(","):
            name, _, key = part.strip().partition(":")
            try:
                keys[name] = base64.b64decode(key, altchars=b"-_", validate=True)
            except (binascii.Error, ValueError):
                raise ConfigError(f"session keys: key {name!r} is not base64") from None
        return cls(keys, next(iter(keys)), accept_plain=accept_plain)

    @classmethod
    def of_app(cls, *, accept_plain: bool = False) -> "KeyRing":
        """The ring that is made of the app's secrets, see app_secret.py. Raises `ConfigError` when there are none."""
        derived = [derived_key(each, "sessions") for each in app_secrets()]
        if not derived:
            raise ConfigError(f"session keys: {VARIABLE} is not set; it must be the same on all instances")
        # The names tell nothing of the keys, and are the same on every instance.
        keys = {hashlib.sha256(b"name" + key).hexdigest()[:KEY_NAME_CHARACTERS_MAX]: key for key in derived}
        return cls(keys, next(iter(keys)), accept_plain=accept_plain)

    def __repr__(self) -> str:
        return f"<KeyRing {', '.join(self.names)}>"

    @property
    def names(self) -> list[str]:
        """Of the keys, the active one first; for status pages."""
        others = sorted(name.decode() for name in self._ciphers if name != self._active)
        return [self._active.decode(), *others]

    def seal(self, value: bytes, place: str) -> bytes:
        """Seal a value for its place; sealing the same value again gives something else."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        header = _MARK + bytes([len(self._active)]) + self._active
        return header + nonce + self._ciphers[self._active].encrypt(nonce, value, header + place.encode())

    def unseal(self, value: bytes, place: str) -> bytes:
        """Open it. Raises `StorageError`: it was changed, moved, or sealed with a key that is not in the ring."""
        if not value.startswith(_MARK):
            if self.accepts_plain:
                return value
            raise StorageError("a session holds a value that is not sealed")
        name_end = 2 + (value[1] if len(value) > 1 else 0)
        cipher = self._ciphers.get(value[2:name_end])
        if cipher is None:
            raise StorageError("a session was sealed with a key that is not in the ring")
        nonce, sealed = value[name_end : name_end + NONCE_BYTES], value[name_end + NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, sealed, value[:name_end] + place.encode())
        except (InvalidTag, ValueError):
            raise StorageError("a sealed value of a session was changed or moved") from None
