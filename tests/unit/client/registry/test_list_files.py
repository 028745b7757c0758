"""A list is read as it was saved, or not at all."""

import logging
from pathlib import Path

import msgspec
import pytest

from noctule.client.registry.endpoints import Endpoint
from noctule.client.registry.list_files import AGE_S_MAX, FILE_BYTES_MAX, ListFiles

NOW_MS = 1_700_000_000_000
ENDPOINTS = [Endpoint("n/a", "10.0.0.1", 80, 3, "north", ("x",)), Endpoint("n/b", "::1", 81)]


def saved_file(directory: Path) -> Path:
    ListFiles(directory).save("orders", "", 7, ENDPOINTS, NOW_MS)
    (path,) = directory.iterdir()
    return path


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    files = ListFiles(tmp_path / "made" / "when missing")
    assert files.load("orders", "", NOW_MS) is None
    files.save("orders", "", 7, ENDPOINTS, NOW_MS)
    saved = files.load("orders", "", NOW_MS + 1)
    assert saved is not None
    assert (saved.endpoints, saved.index, saved.saved_ms) == (ENDPOINTS, 7, NOW_MS)
    assert files.load("orders", "blue", NOW_MS) is None
    assert files.load("../orders", "", NOW_MS) is None


def test_no_name_leads_out_of_the_directory(tmp_path: Path) -> None:
    files = ListFiles(tmp_path / "lists")
    for service in ("../../x", "/etc/x", "a" * 255, "ü\0", "x.json"):
        files.save(service, "", 1, ENDPOINTS, NOW_MS)
        assert files.load(service, "", NOW_MS) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["lists"]
    assert len(list((tmp_path / "lists").iterdir())) == 5


def damaged(path: Path, **fields: object) -> None:
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | fields))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"version": 2}, "version 2"),
        ({"service": "other"}, "about 'other'"),
        ({"saved_ms": NOW_MS - AGE_S_MAX * 1000 - 1}, "older than 24 hours"),
        ({"endpoints": [{"id": "a", "address": "b", "port": 0}]}, "no registry says"),
        ({"endpoints": [{"id": "a"}]}, "missing required field"),
    ],
)
def test_what_cannot_be_used_is_not_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, object], reason: str
) -> None:
    damaged(saved_file(tmp_path), **fields)
    with caplog.at_level(logging.WARNING):
        assert ListFiles(tmp_path).load("orders", "", NOW_MS) is None
    (record,) = caplog.records
    assert record.msg == "list_unreadable"
    assert reason in record.__dict__["reason"]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b" " * (FILE_BYTES_MAX + 2)])
def test_damage_of_any_kind_is_survived(tmp_path: Path, data: bytes) -> None:
    saved_file(tmp_path).write_bytes(data)
    assert ListFiles(tmp_path).load("orders", "", NOW_MS) is None


def test_a_disk_that_takes_nothing_is_told_once_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    files = ListFiles(tmp_path / "file")
    for _ in range(3):
        files.save("orders", "", 7, ENDPOINTS, NOW_MS)
    assert files.write_failures == 3
    assert [record.msg for record in caplog.records] == ["list_unwritable"]
    assert files.load("orders", "", NOW_MS) is None
