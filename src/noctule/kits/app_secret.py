"""The secret that all instances of an app share, from which kits make their keys.

NOCTULE_APP_SECRET in the environment. To change it while instances run, it is several, separated by spaces: add the new
one at the end on all instances, then put it in front, then drop the old one. The first signs and seals, all of them
check and open.
"""

import os

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from noctule.base.errors import ConfigError

VARIABLE = "NOCTULE_APP_SECRET"
SECRET_CHARACTERS_MIN = 32


def app_secrets(variable: str = VARIABLE) -> tuple[str, ...]:
    """What the variable of the environment holds; none when it is not set. Raises `ConfigError` for short ones."""
    return checked_secrets(os.environ.get(variable, "").split(), variable)


def checked_secrets(secrets: list[str], whose: str) -> tuple[str, ...]:
    """The same secrets. Raises `ConfigError`, without a secret in it, for one that is too short to be one."""
    if any(len(each) < SECRET_CHARACTERS_MIN for each in secrets):
        raise ConfigError(
            f"{whose}: each secret must have at least {SECRET_CHARACTERS_MIN} characters; "
            "make one with python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return tuple(secrets)


def derived_key(secret: str, purpose: str) -> bytes:
    """32 bytes for this purpose alone: who learns a key learns neither the secret nor any other key (RFC 5869)."""
    return HKDF(SHA256(), 32, None, f"noctule {purpose} 1".encode()).derive(secret.encode())
