"""Chains of stores by URL, and what is refused before anything is stored."""

import stat
from pathlib import Path

import pytest

from noctule.base.errors import ConfigError
from noctule.kits.files import FileStore
from noctule.kits.files.endpoints import load_endpoints

KEYS = "access_key_id=id&secret_access_key=geheim"
KEY = "a/2026/01/01/00000000-0000-7000-8000-000000000000"


def test_a_chain_in_order(tmp_path: Path) -> None:
    chain = load_endpoints(f"s3://b/p?{KEYS}&endpoint=http://h:1, s3://b?{KEYS}&public=true,file://{tmp_path}/x")
    assert [each.name for each in chain] == ["http://h:1/b/p", "aws/b", f"file://{tmp_path}/x"]
    assert [each.is_public for each in chain] == [False, True, False]
    assert [each.is_shared for each in chain] == [True, True, False]
    assert [each.is_local for each in chain] == [False, False, True]
    assert chain[0].signer is not None
    assert chain[1].signer is not None
    assert chain[0].signer.public_url(KEY) == f"http://h:1/b/p/{KEY}"
    assert chain[1].signer.public_url(KEY) == f"https://b.s3.us-east-1.amazonaws.com/{KEY}"


def test_links_are_for_the_public_host() -> None:
    (endpoint,) = load_endpoints(f"s3://b?{KEYS}&endpoint=http://inside:1&public_endpoint=https://out.example.com/")
    assert endpoint.signer is not None
    assert endpoint.signer.presign("GET", "k", expires_s=1, wall_ms=0).startswith("https://out.example.com/b/k?")


def test_a_folder_is_private(tmp_path: Path) -> None:
    load_endpoints(f"file://{tmp_path}/files")
    assert stat.S_IMODE((tmp_path / "files").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ("", "no store"),
        ("http://x", "begins with s3"),
        ("s3://", "begins with s3"),
        ("s3://id:geheim@bucket", "begins with s3"),
        ("s3://b?region=eu", "needs access_key_id"),
        (f"s3://b?{KEYS}&acl=public", "unknown options acl"),
        (f"s3://b?{KEYS}&public=yes", "true or false"),
        (f"s3://b?{KEYS}&shared=true", "unknown options shared"),
        ("file:///tmp?shared=1", "shared of /tmp is true or false"),
        (f"s3://b?{KEYS},s3://b?{KEYS}", "the same"),
        ("file://relative/path", "whole path"),
        ("file:///dev/null/x", "cannot be used"),
        ("file:///tmp?x=1", "unknown options x"),
    ],
)
def test_what_cannot_work_is_said_without_secrets(urls: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with pytest.raises(ConfigError, match=message) as caught:
        load_endpoints(urls)
    assert "geheim" not in str(caught.value)


def test_a_folder_is_refused_with_several_instances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind an S3 store: then a write during its loss would be on one machine only."""
    monkeypatch.delenv("NOCTULE_INSTANCES", raising=False)
    for urls in (f"file://{tmp_path}", f"s3://b?{KEYS},file://{tmp_path}"):
        with pytest.raises(ConfigError, match="2 instances"):
            FileStore(urls, instances=2)
        FileStore(urls, instances=1)
        FileStore(urls)
    FileStore(f"s3://b?{KEYS}", instances=2)


def test_a_folder_that_all_instances_see_says_so(tmp_path: Path) -> None:
    FileStore(f"s3://b?{KEYS},file://{tmp_path}?shared=true", instances=2)
    with pytest.raises(ConfigError, match=r"end the URL with \?shared=true"):
        FileStore(f"file://{tmp_path}?shared=false", instances=2)


def test_the_environment_says_how_many_instances_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOCTULE_INSTANCES", "3")
    with pytest.raises(ConfigError, match="3 instances"):
        FileStore(f"file://{tmp_path}")
    FileStore(f"file://{tmp_path}", instances=1)
    monkeypatch.setenv("NOCTULE_INSTANCES", "many")
    with pytest.raises(ConfigError, match="not 'many'"):
        FileStore(f"file://{tmp_path}")
