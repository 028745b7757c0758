"""`noctule gateway certs` makes what clients that trust its CA accept, and what no node takes for one of its own."""

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from noctule.cli.main import main


def test_a_client_that_trusts_the_ca_accepts_each_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hosts = ["shop.example", "*.shop.example", "127.0.0.1"]
    assert (
        main(["gateway", "certs", "--out", str(tmp_path), *(word for host in hosts for word in ("--host", host))]) == 0
    )
    stems = ["ca", "shop.example", "_.shop.example", "127.0.0.1"]
    assert capsys.readouterr().out.split() == [
        str(tmp_path / f"{stem}.{end}") for stem in stems for end in ("pem", "key")
    ]
    for stem, asked in zip(stems[1:], ("shop.example", "api.shop.example", "127.0.0.1"), strict=True):
        assert shake_hands(tmp_path, stem, asked)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path, "shop.example", "other.example")


def test_it_is_no_certificate_of_a_node(tmp_path: Path) -> None:
    """With one of `noctule cluster certs` a gateway, the most exposed of all, could speak as a node."""
    assert main(["gateway", "certs", "--out", str(tmp_path), "--host", "shop.example"]) == 0
    found = x509.load_pem_x509_certificate((tmp_path / "shop.example.pem").read_bytes()).extensions
    names = found.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["shop.example"]
    assert list(found.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]


def shake_hands(folder: Path, stem: str, host: str) -> bool:
    """A handshake in memory between a server with these files and a client that asks for a host."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / f"{stem}.pem", folder / f"{stem}.key")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context(cafile=folder / "ca.pem").wrap_bio(down, up, server_hostname=host)
    server = serving.wrap_bio(up, down, server_side=True)
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            done.add(side)
    return True
