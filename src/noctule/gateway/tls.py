"""TLS of the gateway: certificates by name (SNI), read anew when their files change, HTTP/2 by ALPN.

One context is listened with for as long as the gateway runs, so tickets for session resumption stay good. During each
handshake it gives way to the context of the certificate that was asked for. Changed files become new contexts; the
connections that stand keep theirs. A pair of files that does not fit together is told and the old one stays in use.
"""

import asyncio
import logging
import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509

from noctule.base.errors import ConfigError
from noctule.gateway.downstream import ClientConnection
from noctule.gateway.h2 import Http2Connection
from noctule.gateway.model import Certificate
from noctule.gateway.plane import DataPlane

RELOAD_INTERVAL_S = 2.0
"""How often the files are looked at."""

HANDSHAKE_TIMEOUT_S = 10.0

SHUTDOWN_TIMEOUT_S = 2.0
"""How long a client may take to answer a close."""

log = logging.getLogger("noctule.gateway")

_Stamp = tuple[int, ...]


class Certificates:
    """The certificates of one gateway. `ConfigError` when the first reading fails."""

    def __init__(self, settings: Sequence[Certificate], *, has_http2: bool) -> None:
        if not settings:
            raise ConfigError("gateway: tls_port is set, and there is no certificate; name one in [[certificates]]")
        self._settings = tuple(settings)
        self._has_http2 = has_http2
        self._stamps: dict[Certificate, _Stamp] = {}
        self._contexts: dict[Certificate, ssl.SSLContext] = {}
        self._by_host: dict[str, ssl.SSLContext] = {}
        for each in self._settings:
            try:
                self._load(each)
            except (OSError, ssl.SSLError, ValueError) as error:
                why = _reason(error)
                raise ConfigError(f"gateway: the certificate {each.certificate} cannot be used: {why}") from error
        self._index()
        self.context = self._make(self._settings[0])
        """To listen with."""
        self.context.sni_callback = self._choose

    def follow(self, settings: Sequence[Certificate]) -> None:
        """These are the certificates now; those that cannot be read are told and left as they were."""
        if settings:
            self._settings = tuple(settings)
            self.reload()

    def reload(self) -> None:
        """Read what has changed."""
        for each in self._settings:
            try:
                if _stamp(each) != self._stamps.get(each):
                    is_first = each not in self._contexts
                    self._load(each)
                    if not is_first:
                        log.info("certificate_reloaded", extra={"certificate": each.certificate})
            except (OSError, ssl.SSLError, ValueError) as error:
                fields = {"certificate": each.certificate, "error": _reason(error)}
                log.warning("certificate_unusable", extra=fields)
        self._index()

    async def watch(self) -> None:
        """Reload again and again, until cancelled."""
        while True:
            await asyncio.sleep(RELOAD_INTERVAL_S)
            await asyncio.to_thread(self.reload)

    def _load(self, each: Certificate) -> None:
        stamp = _stamp(each)
        # Noted first: files that do not fit together are told once, not every other second.
        self._stamps[each] = stamp
        self._contexts[each] = self._make(each)

    def _make(self, each: Certificate) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.load_cert_chain(each.certificate, each.key)
        context.set_alpn_protocols(["h2", "http/1.1"] if self._has_http2 else ["http/1.1"])
        return context

    def _index(self) -> None:
        by_host: dict[str, ssl.SSLContext] = {}
        for each in self._settings:
            if each in self._contexts:
                for host in each.hosts or _names(each):
                    by_host.setdefault(host.lower(), self._contexts[each])
        self._by_host = by_host

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        host = (name or "").lower()
        found = self._by_host.get(host) or self._by_host.get("*." + host.partition(".")[2])
        connection.context = found or next(iter(self._contexts.values()))


class TlsDoor(asyncio.Protocol):
    """Stands until the handshake is done, and gives the connection to the protocol that was agreed on."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        agreed = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        plane = self._plane
        chosen = Http2Connection(plane) if agreed == "h2" else ClientConnection(plane, scheme=b"https")
        transport.set_protocol(chosen)
        chosen.connection_made(transport)


def _names(each: Certificate) -> list[str]:
    """The hosts that a certificate is for."""
    found = x509.load_pem_x509_certificate(Path(each.certificate).read_bytes())
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _reason(error: Exception) -> str:
    """OpenSSL has no word for a file that holds something else, or nothing."""
    is_no_pem = isinstance(error, ssl.SSLError) and error.reason is None
    return "one of its two files is not a certificate or a key in PEM" if is_no_pem else str(error)


def _stamp(each: Certificate) -> _Stamp:
    stats = [Path(path).stat() for path in (each.certificate, each.key)]
    return tuple(number for stat in stats for number in (stat.st_mtime_ns, stat.st_size, stat.st_ino))
