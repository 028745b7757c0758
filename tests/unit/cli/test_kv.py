"""``noctule kv``: what is printed, and where, for what a node answers."""

import io
import json
import sys
from types import TracebackType
from typing import Any, ClassVar, Self

import pytest

from noctule.base.bounds import VALUE_BYTES_MAX
from noctule.base.errors import OutcomeUnknownError
from noctule.cli.main import main
from noctule.client.pictures import Entry, KeyPage


class Nodes:
    """Stands in for the client: a dictionary behind its methods, and pages of two keys with one key given twice."""

    values: ClassVar[dict[str, bytes]] = {}
    calls: ClassVar[list[tuple[Any, ...]]] = []
    url: ClassVar[str] = ""
    is_silent: ClassVar[bool] = False

    def __init__(self, url: str) -> None:
        type(self).url = url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def kv_get(self, key: str, consistency: str) -> Entry | None:
        self.calls.append(("get", key, consistency))
        return Entry(key, self.values[key], 1500) if key in self.values else None

    async def kv_set(self, key: str, value: bytes, *, ttl_s: float | None) -> None:
        if self.is_silent:
            raise OutcomeUnknownError("PUT: no answer within 10 s")
        self.calls.append(("set", key, value, ttl_s))

    async def kv_delete(self, key: str) -> bool:
        return self.values.pop(key, None) is not None

    async def kv_scan(self, prefix: str, *, cursor: str, count: int) -> KeyPage:
        self.calls.append(("scan", cursor, count))
        keys = [key for key in sorted(self.values) if key.startswith(prefix)]
        at = int(cursor)
        page = keys[max(at - 1, 0) : at + 2]
        return KeyPage(page, str(at + 2) if at + 2 < len(keys) else "0")


@pytest.fixture(autouse=True)
def nodes(monkeypatch: pytest.MonkeyPatch) -> type[Nodes]:
    class Fresh(Nodes):
        values: ClassVar[dict[str, bytes]] = {}
        calls: ClassVar[list[tuple[Any, ...]]] = []

    monkeypatch.setattr("noctule.client.api.NodeClient", Fresh)
    monkeypatch.delenv("NOCTULE_NODE", raising=False)
    return Fresh


def test_get_gives_the_bytes_and_nothing_else(nodes: type[Nodes], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    nodes.values["k"] = b"\xff\x00\n"
    assert main(["kv", "get", "k"]) == 0
    assert capfdbinary.readouterr() == (b"\xff\x00\n", b"")
    assert nodes.calls == [("get", "k", "linearizable")]
    assert nodes.url == "http://127.0.0.1:7501"


def test_a_missing_key_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kv", "get", "k"]) == 1
    assert capsys.readouterr() == ("", "error: there is no key 'k'\n")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("é".encode(), {"value": "é", "value_base64": None}),
        (b"", {"value": "", "value_base64": None}),
        (b"\xff", {"value": None, "value_base64": "/w=="}),
    ],
)
def test_get_as_json(
    nodes: type[Nodes], capsys: pytest.CaptureFixture[str], value: bytes, shown: dict[str, str | None]
) -> None:
    nodes.values["k"] = value
    assert main(["kv", "get", "k", "--json", "--consistency", "eventual"]) == 0
    assert json.loads(capsys.readouterr().out) == {"key": "k", **shown, "ttl_ms": 1500, "staleness_ms": 0}
    assert nodes.calls == [("get", "k", "eventual")]


def test_the_node_is_named_by_flag_or_environment(nodes: type[Nodes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOCTULE_NODE", "http://b:2")
    main(["kv", "get", "k"])
    assert nodes.url == "http://b:2"
    main(["kv", "get", "k", "--node", "http://a:1"])
    assert nodes.url == "http://a:1"


def test_set_takes_the_value_and_its_life(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kv", "set", "k", "v", "--ttl", "1.5"]) == 0
    assert main(["kv", "set", "k", "--json", "--", "-v"]) == 0
    assert nodes.calls == [("set", "k", b"v", 1.5), ("set", "k", b"-v", None)]
    assert capsys.readouterr().out == 'OK\n{"key":"k","ok":true}\n'


def test_set_reads_bytes_from_standard_input(nodes: type[Nodes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n")))
    assert main(["kv", "set", "k", "-"]) == 0
    assert nodes.calls == [("set", "k", b"\xff\n", None)]


def test_a_value_over_the_bound_is_not_sent(
    nodes: type[Nodes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(VALUE_BYTES_MAX + 1))))
    assert main(["kv", "set", "k", "-"]) == 4
    assert nodes.calls == []
    assert f"longer than {VALUE_BYTES_MAX} bytes" in capsys.readouterr().err


def test_a_lost_answer_says_that_it_may_have_happened(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    nodes.is_silent = True
    assert main(["kv", "set", "k", "v"]) == 5
    assert "hint: it may have been applied; look before you try again" in capsys.readouterr().err


def test_delete_is_no_error_when_there_is_none(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    nodes.values["k"] = b""
    assert [main(["kv", "delete", "k", "--json"]) for _ in range(2)] == [0, 0]
    assert main(["kv", "delete", "k"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == ['{"key":"k","deleted":true}', '{"key":"k","deleted":false}', "there was none"]


def test_scan_prints_every_key_once(nodes: type[Nodes], capsys: pytest.CaptureFixture[str]) -> None:
    nodes.values.update(dict.fromkeys(["a1", "a2", "a3", "a4", "a5", "b1"], b""))
    assert main(["kv", "scan", "a"]) == 0
    assert capsys.readouterr() == ("a1\na2\na3\na4\na5\n", "")
    assert main(["kv", "scan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"keys": sorted(nodes.values), "complete": True}


@pytest.mark.parametrize(("limit", "complete"), [(1, False), (4, False), (5, True), (6, True)])
def test_scan_stops_at_its_limit_and_says_so(
    nodes: type[Nodes], capsys: pytest.CaptureFixture[str], limit: int, complete: bool
) -> None:
    nodes.values.update(dict.fromkeys(["a1", "a2", "a3", "a4", "a5"], b""))
    assert main(["kv", "scan", "--limit", str(limit), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"keys": sorted(nodes.values)[:limit], "complete": complete}
    assert shown.err == ("" if complete else f"there are more than {limit} keys; --limit shows more\n")
