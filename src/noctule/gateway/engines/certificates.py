"""The model's certificates as engines need them: which names each is for, and HAProxy's key and certificate in one."""

from pathlib import Path

import msgspec
from cryptography import x509

from noctule.base.errors import ConfigError
from noctule.gateway.model import GatewayModel

PEM_BYTES_MAX = 1024 * 1024
"""A longer file is no certificate."""


def with_hosts(model: GatewayModel) -> GatewayModel:
    """The model with the hosts of each certificate, out of the file where the model does not say them.

    `ConfigError` for a file that cannot be read or is no certificate.
    """
    certificates = tuple(
        each if each.hosts else msgspec.structs.replace(each, hosts=_names(each.certificate))
        for each in model.certificates
    )
    return msgspec.structs.replace(model, certificates=certificates)


def combined(model: GatewayModel) -> dict[str, bytes]:
    """HAProxy's files, relative to its folder: certificate, chain and key in one. `ConfigError`."""
    return {
        f"certificates/{number}.pem": _read(each.certificate).rstrip() + b"\n" + _read(each.key)
        for number, each in enumerate(model.certificates)
    }


def fingerprint(model: GatewayModel) -> tuple[tuple[int, int], ...]:
    """Another value once a certificate or a key was replaced; a missing file counts as one that stays as it was."""
    found = []
    for path in (path for each in model.certificates for path in (each.certificate, each.key)):
        try:
            stat = Path(path).stat()
        except OSError:
            found.append((0, 0))
        else:
            found.append((stat.st_mtime_ns, stat.st_ino))
    return tuple(found)


def _names(path: str) -> tuple[str, ...]:
    try:
        certificate = x509.load_pem_x509_certificate(_read(path))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        return ()
    except ValueError as error:
        raise ConfigError(f"gateway: {path} is not a PEM certificate: {error}") from error


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(PEM_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"gateway: cannot read {path}: {error.strerror}") from error
    if len(content) > PEM_BYTES_MAX:
        raise ConfigError(f"gateway: {path} is over {PEM_BYTES_MAX} bytes; it is no certificate")
    return content
