"""`noctule cluster certs` makes what nodes accept, keeps keys to their owner, and never overwrites."""

import ssl
import stat
from pathlib import Path

import pytest

from noctule.adapters.tls import Tls, TlsFiles
from noctule.cli.main import main


def test_what_it_makes_can_be_used_by_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "certs"
    code = main(["cluster", "certs", "--out", str(out), "--cluster", "bats", "--host", "a.example", "--host", "::1"])
    assert code == 0
    names = ["ca.pem", "ca.key", "a.example.pem", "a.example.key", "__1.pem", "__1.key"]
    assert capsys.readouterr().out.split() == [str(out / name) for name in names]
    for name in names:
        mode = stat.S_IMODE((out / name).stat().st_mode)
        assert mode == (0o600 if name.endswith(".key") else 0o644), name
    for stem in ("a.example", "__1"):
        tls = Tls(TlsFiles(out / "ca.pem", out / f"{stem}.pem", out / f"{stem}.key"), "bats")
        assert tls.client_context().minimum_version == ssl.TLSVersion.TLSv1_3


def test_it_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The key of a CA that is gone cannot be made again."""
    (tmp_path / "ca.key").write_text("mine")
    assert main(["cluster", "certs", "--out", str(tmp_path), "--host", "a"]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "ca.key").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["ca.key"]


@pytest.mark.parametrize("host", ["", "../x", "ca", "ü.example", "a b", "a.*.example"])
def test_a_host_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str) -> None:
    assert main(["cluster", "certs", "--out", str(tmp_path), "--host", host]) == 2
    assert "neither a name nor an address" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
