"""What the kits of an app need beside the store: a place for files, one secret for all instances, and their origin."""

import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from noctule.adapters.files import disk_errors, write_atomically
from noctule.base.errors import ConfigError, StorageError
from noctule.deploy.local.plan import UpConfig, gateway_url

SECRET_FILE = "app-secret"
SECRET_BYTES = 32


def app_environment(config: UpConfig, given: Mapping[str, str]) -> dict[str, str]:
    """The variables that every instance gets; what `given`, the user's environment, says already stays as it is.

    Makes the secret at the first start with an app and keeps it in the data folder, which must be the caller's alone.
    Raises `ConfigError` when it cannot be kept, or is no secret any more.
    """
    if config.app is None:
        return {}
    found = {"NOCTULE_INSTANCES": str(config.instances)}
    if not given.get("NOCTULE_PUBLIC_URL"):
        found["NOCTULE_PUBLIC_URL"] = gateway_url(config.host, config.port)
    if not given.get("NOCTULE_FILES_URL"):
        # True, and so it is said: all instances are on this machine, and see this folder.
        found["NOCTULE_FILES_URL"] = f"{(config.data_dir.absolute() / 'files').as_uri()}?shared=true"
    if not given.get("NOCTULE_APP_SECRET"):
        found["NOCTULE_APP_SECRET"] = kept_secret(config.data_dir / SECRET_FILE)
    return found


def kept_secret(path: Path) -> str:
    """The secret in this file, made with 256 random bits if there is none; nobody but its owner may read it."""
    try:
        with disk_errors("reading", path):
            mode = stat.S_IMODE(path.stat().st_mode)
            secret = path.read_text("ascii", "replace").strip()
    except StorageError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise ConfigError(f"{error}; or choose another --data-dir") from None
        return _new_secret(path)
    if mode & 0o077:
        raise ConfigError(
            f"the app's secret {path} may be read by others (mode {mode:o}): chmod 600 it if nobody has, "
            "or remove it, which ends what was signed and sealed with it"
        )
    if len(secret) < SECRET_BYTES:
        raise ConfigError(f"the app's secret {path} is damaged: restore it, or remove it for another one")
    return secret


def _new_secret(path: Path) -> str:
    secret = secrets.token_urlsafe(SECRET_BYTES)
    try:
        write_atomically(path, secret.encode() + b"\n")  # With mode 0600, as every file of a data folder.
    except StorageError as error:
        raise ConfigError(f"{error}; or choose another --data-dir") from None
    return secret
