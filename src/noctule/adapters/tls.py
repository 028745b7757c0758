"""Mutual TLS between nodes: who has a certificate of our CA that names our cluster is let in, and nobody else.

The files are read anew for the next connection after they changed, so a renewed certificate needs no restart;
connections that stand are left alone. Which node it is, its Hello says; the certificate says of which cluster.
"""

import logging
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import grpc

from noctule.base.errors import ConfigError

log = logging.getLogger("noctule.tls")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the CA, and this node's certificate and private key."""

    ca: Path
    cert: Path
    key: Path


def uri_of(cluster: str) -> str:
    """The subject alternative name (a URI) by which a certificate says that it is of a node of this cluster."""
    return f"noctule://{cluster}/node"


def dns_name_of(cluster: str) -> str:
    """The same as a DNS name, which libraries that know of no others compare by themselves; nobody resolves it."""
    return f"{cluster}.node.noctule"


class Tls:
    """What connections of one node need, of the newest usable files."""

    def __init__(self, files: TlsFiles, cluster: str) -> None:
        """Read the files. Raises `ConfigError` when they cannot be used."""
        self.files = files
        self.cluster = cluster
        self.generation = 0
        """Rises when other files are in use."""
        self._seen = self._look()
        self._adopt()

    def server_context(self) -> ssl.SSLContext:
        """For the next connection that is accepted."""
        self.refresh()
        return self._server

    def client_context(self) -> ssl.SSLContext:
        """For the next connection that is dialled."""
        self.refresh()
        return self._client

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For the next gRPC channel, whose target must be overridden by `dns_name_of`."""
        self.refresh()
        ca, cert, key = self._pem
        return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a gRPC server, which asks for the newest files at each connection."""

        def configuration() -> grpc.ServerCertificateConfiguration:
            self.refresh()
            ca, cert, key = self._pem
            return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)

        return grpc.dynamic_ssl_server_credentials(configuration(), configuration, require_client_authentication=True)

    def refusal_of(self, names: Iterable[str]) -> str:
        """Why a peer whose certificate our CA has signed must be kept out all the same; empty when it may come in.

        `names` are its subject alternative names, without their kinds.
        """
        shown = sorted(names)
        if uri_of(self.cluster) in shown or dns_name_of(self.cluster) in shown:
            return ""
        return f"its certificate is for {', '.join(shown) or 'nobody'}, not for {uri_of(self.cluster)}"

    def refresh(self) -> None:
        """Take renewed files into use. Those that cannot be used, as between two renames, are tried again later."""
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._adopt()
        except ConfigError as error:
            log.warning("tls_files_unusable", extra={"fields": {"reason": str(error)}})
        else:
            log.info("tls_files_renewed", extra={"fields": {"file": str(self.files.cert)}})

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for path in (self.files.ca, self.files.cert, self.files.key):
            try:
                status = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)

    def _adopt(self) -> None:
        server = _context(ssl.PROTOCOL_TLS_SERVER, self.files)
        client = _context(ssl.PROTOCOL_TLS_CLIENT, self.files)
        pem = tuple(path.read_bytes() for path in (self.files.ca, self.files.cert, self.files.key))
        self._server, self._client, self._pem = server, client, pem
        self.generation += 1


def names_in(certificate: object) -> list[str]:
    """The subject alternative names in what `ssl` gives as a peer's certificate."""
    if not isinstance(certificate, dict):
        return []
    return [str(name) for kind, name in certificate.get("subjectAltName", ()) if kind in ("URI", "DNS")]


def _context(kind: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(kind)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The cluster's name is compared instead: the addresses of nodes change, and are in no certificate that must be.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(files.ca)
        context.load_cert_chain(files.cert, files.key)
    except ssl.SSLError as error:
        raise ConfigError(
            f"{files.ca}, {files.cert} and {files.key} are not a CA, a certificate and its private key in PEM: "
            f"{error.reason or error}"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename or files.cert}: {error.strerror or error}") from error
    return context
