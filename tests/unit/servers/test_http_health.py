"""Health checks: each thing that can be wrong, and which of the four addresses says so."""

from dataclasses import replace

import msgspec
import pytest

from noctule.core.keyspace.reply import Failure
from noctule.servers import http_health

from .http_fakes import PICTURE, FakeNode, ask


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


async def health(node: FakeNode, path: str) -> tuple[int, dict[str, object]]:
    answer = await ask(node, "GET", path)
    shown = msgspec.json.decode(answer.body)
    assert isinstance(shown, dict)
    return answer.status, shown


async def test_a_good_node_is_ok_everywhere(node: FakeNode) -> None:
    assert await health(node, "/health") == (
        200,
        {"status": "ok", "node_id": 1, "version": "1.2.3", "uptime_s": 12.5, "reason": ""},
    )
    assert await health(node, "/health/live") == (200, {"status": "ok"})
    assert await health(node, "/health/ready") == (200, {"status": "ok", "reason": ""})
    status, shown = await health(node, "/health/backend")
    latency_ms = shown.pop("latency_ms")
    assert isinstance(latency_ms, float)
    assert 0 < latency_ms < 1000
    assert (status, shown) == (
        200,
        {
            "status": "ok",
            "instanceId": "node-1",
            "checks": {
                "storage": {"status": "ok", "reason": ""},
                "groups": {"status": "ok", "reason": ""},
                "peers": {"status": "ok", "reason": "2 of 3 nodes alive; not heard: 3"},
            },
        },
    )


def failed_checks(shown: dict[str, object]) -> dict[str, str]:
    checks = shown["checks"]
    assert isinstance(checks, dict)
    assert checks.keys() == {"storage", "groups", "peers"}
    return {name: check["reason"] for name, check in checks.items() if check["status"] == "failed"}


async def test_a_node_that_may_not_take_traffic_says_why_and_lives(node: FakeNode) -> None:
    node.unready = "group 3 has no leader"
    for path in ("/health", "/health/ready"):
        status, shown = await health(node, path)
        assert (status, shown["status"], shown["reason"]) == (503, "unavailable", "group 3 has no leader")
    status, shown = await health(node, "/health/backend")
    assert (status, shown["status"], failed_checks(shown)) == (503, "unavailable", {"groups": "group 3 has no leader"})
    assert node.meta.submitted == []
    assert (await health(node, "/health/live"))[0] == 200


async def test_a_failed_disk_is_told_before_what_it_causes(node: FakeNode) -> None:
    node.shown = replace(PICTURE, storage_failure="fdatasync: Input/output error")
    node.unready = "the disk failed"
    status, shown = await health(node, "/health")
    assert (status, shown["reason"]) == (503, "fdatasync: Input/output error")
    _, shown = await health(node, "/health/backend")
    assert failed_checks(shown)["storage"] == "fdatasync: Input/output error"


async def test_the_groups_are_proved_by_a_read_through_them(node: FakeNode) -> None:
    """Everybody may believe in a leader that has just lost its majority; only a ReadIndex round tells."""
    node.meta.failure = Failure(b"CLUSTERDOWN no leader was found in time")
    status, shown = await health(node, "/health/backend")
    assert (status, failed_checks(shown)) == (503, {"groups": "no leader was found in time"})


async def test_a_backend_that_does_not_answer_is_not_waited_for(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_health, "CHECK_S_MAX", 0.01)
    node.meta.is_silent = True
    status, shown = await health(node, "/health/backend")
    assert status == 503
    assert "within 0.01 s" in failed_checks(shown)["groups"]
    latency_ms = shown["latency_ms"]
    assert isinstance(latency_ms, float)
    assert latency_ms >= 10


@pytest.mark.parametrize(
    ("alive", "fails"),
    [("1", False), ("0", True), ("111", False), ("110", False), ("100", True), ("1100", True), ("1110", False)],
)
async def test_peers_fail_without_a_majority(node: FakeNode, alive: str, fails: bool) -> None:
    nodes = [replace(PICTURE.nodes[0], id=number, alive=word == "1") for number, word in enumerate(alive, 1)]
    node.shown = replace(PICTURE, nodes=nodes)
    status, shown = await health(node, "/health/backend")
    assert status == (503 if fails else 200)
    assert ("peers" in failed_checks(shown)) is fails


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/health/backend", "/metrics"])
async def test_what_probes_add_to_an_address_is_passed_over(node: FakeNode, path: str) -> None:
    assert (await ask(node, "GET", f"{path}?at=5&at=6&%zz")).status == 200
