"""Makes a CA and the certificates of nodes or of a gateway, for a start without a PKI of one's own.

A node's certificate names its cluster as adapters/tls.py wants it, and the hosts it was made for, so that other
clients may compare them. Keys are P-256; the CA's key is needed for further nodes only and belongs off the machines.
"""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from noctule.adapters.tls import dns_name_of, uri_of
from noctule.base.errors import ConfigError

CA_DAYS = 3_650
NODE_DAYS = 825
"""What browsers and TLS libraries accept at most from a private CA."""
_BACKDATED = datetime.timedelta(hours=1)
"""Clocks of other machines may be behind."""


class CertificateAuthority:
    """A CA made anew, with its private key."""

    def __init__(self, cluster: str, now: datetime.datetime) -> None:
        self.cluster = cluster
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA of {cluster}"[:64])])
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._certificate = (
            _builder(self._name, self._name, self._key.public_key(), now, CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(is_ca=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate_pem(self) -> bytes:
        """What nodes know it by."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """Whoever has it makes nodes of this cluster."""
        return _key_pem(self._key)

    def issue(
        self, hosts: Sequence[str], now: datetime.datetime, days: int = NODE_DAYS, *, is_node: bool = True
    ) -> tuple[bytes, bytes]:
        """The certificate and the private key of a node at these names or addresses, in PEM.

        With `is_node` false it is a server's only, which no node takes for one of its cluster.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
        names = [_name_of(host) for host in hosts]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH]
        if is_node:
            of_cluster = [x509.UniformResourceIdentifier(uri_of(self.cluster)), x509.DNSName(dns_name_of(self.cluster))]
            names = [*of_cluster, *names]
            usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            _builder(subject, self._name, key.public_key(), now, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key)


def write_certificates(
    folder: Path, cluster: str, hosts: Sequence[str], now: datetime.datetime, *, is_node: bool = True
) -> list[Path]:
    """Write ``ca.pem``, ``ca.key``, and for each host ``<host>.pem`` and ``<host>.key``; gives their paths.

    Keys can be read by their owner only. Raises `ConfigError`, before anything is written, when one is there already.
    """
    files: dict[Path, bytes] = {}
    authority = CertificateAuthority(cluster, now)
    files[folder / "ca.pem"] = authority.certificate_pem
    files[folder / "ca.key"] = authority.key_pem
    for host in hosts:
        stem = _file_name(host)
        files[folder / f"{stem}.pem"], files[folder / f"{stem}.key"] = authority.issue([host], now, is_node=is_node)
    if there := [str(path) for path in files if path.exists()]:
        raise ConfigError(f"{', '.join(there)} would be overwritten: choose another folder, or remove it first")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            mode = 0o600 if path.suffix == ".key" else 0o644
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
    except OSError as error:
        raise ConfigError(f"cannot write to {error.filename or folder}: {error.strerror or error}") from error
    return list(files)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _name_of(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ConfigError(f"{host!r} is neither a name nor an address of a host") from error


def _file_name(host: str) -> str:
    if not host or host in (".", "..", "ca") or "/" in host or "\0" in host:
        raise ConfigError(f"{host!r} is neither a name nor an address of a host")
    return host.strip("[]").replace(":", "_").replace("*", "_")


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
