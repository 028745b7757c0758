"""``noctule verify`` against clusters with one fault each: the check that should fail does, and the others do not."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from app_processes import board_environment
from up_process import PACKAGE
from verification_toys import ToyCluster, serving, toy_cluster

from noctule.base.errors import RequestError
from noctule.verify.verification.local_process import kill_listener
from noctule.verify.verification.options import Options
from noctule.verify.verification.report import CheckResult, CheckStatus, Report
from noctule.verify.verification.run import CHECKS, verify
from noctule.verify.verification.visitor import Visitor

if TYPE_CHECKING:
    from app_processes import InstanceProcess, StartInstance
    from engines import RedisServer

pytest_plugins = ("engines", "app_processes")
pytestmark = [pytest.mark.integration, pytest.mark.engine("redis-server")]

HARMLESS = {check.id for check in CHECKS if not check.destructive}
KILLING = {check.id for check in CHECKS if check.destructive}
BOARD = "examples.board.app:app"


@pytest.fixture
async def cluster(redis_server: "RedisServer") -> AsyncIterator[ToyCluster]:
    async with toy_cluster(redis_server.port) as running:
        yield running


async def report_on(cluster: ToyCluster, **options: Any) -> Report:
    return await verify(cluster.url, Options(node=cluster.node_url, timeout_s=2.0, **options))


def failed(report: Report) -> set[str]:
    return {result.id for result in report.checks if result.status is CheckStatus.FAILED}


def result_of(report: Report, check_id: str) -> CheckResult:
    return next(result for result in report.checks if result.id == check_id)


def words_of(report: Report, check_id: str) -> str:
    return " | ".join(result_of(report, check_id).problems)


async def test_a_sound_cluster_passes_every_check(cluster: ToyCluster) -> None:
    report = await report_on(cluster)
    assert failed(report) == set(), report
    assert {result.id for result in report.checks if result.passed} == HARMLESS
    assert {result.id for result in report.checks if result.status is CheckStatus.SKIPPED} == KILLING
    assert report.exit_code == 0
    balance = result_of(report, "traffic-balanced")
    assert balance.measurements["share_percent"] == {"web-1": 33.3, "web-2": 33.3, "web-3": 33.3}
    assert "web-1  10 requests (33.3 %)" in balance.detail


async def test_instances_may_be_given_one_by_one_without_a_node(
    cluster: ToyCluster, redis_server: "RedisServer"
) -> None:
    urls = tuple(f"http://{instance.address}/" for instance in cluster.instances)
    options = Options(node="http://127.0.0.1:1", instances=urls, store=redis_server.url, timeout_s=2.0)
    report = await verify(cluster.url, options)
    assert failed(report) == set(), report


async def test_an_instance_given_twice_is_told(cluster: ToyCluster) -> None:
    url = f"http://{cluster.instances[0].address}"
    report = await report_on(cluster, instances=(url, url))
    assert "calls itself web-1, as another instance does" in words_of(report, "instances-known")


async def test_no_node_and_no_instances_fails_all_that_needs_them(cluster: ToyCluster) -> None:
    report = await verify(cluster.url, Options(node="http://127.0.0.1:1", timeout_s=2.0))
    assert "cannot connect" in words_of(report, "instances-known")
    assert "no instance is known" in words_of(report, "instance-health")
    # The balancer is there, and what needs nothing else is still looked at.
    assert not {"balancer-health", "requests-answered", "session-created"} & failed(report)


@pytest.mark.parametrize("state", ["starting", "unhealthy", "draining"])
async def test_an_instance_registered_as_not_healthy_fails(cluster: ToyCluster, state: str) -> None:
    cluster.node.register("web-2", cluster.instances[1].address, pid=1, state=state)
    report = await report_on(cluster)
    assert failed(report) == {"instances-known"}
    assert f"is registered as {state}" in words_of(report, "instances-known")


async def test_a_registry_without_instances_fails(cluster: ToyCluster) -> None:
    cluster.node.instances.clear()
    assert "knows no instance" in words_of(await report_on(cluster), "instances-known")


async def test_no_balancer_fails_everything_through_it(cluster: ToyCluster) -> None:
    report = await verify("http://127.0.0.1:1", Options(node=cluster.node_url, timeout_s=2.0))
    direct = {"instances-known", "instance-health", "instance-ready", "instance-live", "instance-endpoints"}
    assert failed(report) == HARMLESS - direct
    assert report.exit_code == 1


async def test_a_balancer_that_is_not_well_fails(cluster: ToyCluster) -> None:
    cluster.switches.balancer_answers["/health"] = (503, {"status": "unavailable"})
    report = await report_on(cluster)
    assert failed(report) == {"balancer-health", "balancer-endpoints"}
    assert "503 instead of 200" in words_of(report, "balancer-health")


@pytest.mark.parametrize(
    ("path", "check_id"),
    [("/health", "instance-health"), ("/health/ready", "instance-ready"), ("/health/live", "instance-live")],
)
async def test_an_instance_that_says_503_fails_the_check_of_that_endpoint(
    cluster: ToyCluster, path: str, check_id: str
) -> None:
    cluster.switches.instance_answers["web-2", path] = (503, {"status": "unavailable", "reason": "draining"})
    report = await report_on(cluster)
    # The balancer's own round over the endpoints may or may not meet web-2.
    assert failed(report) - {"balancer-health", "balancer-endpoints"} == {check_id, "instance-endpoints"}
    assert "web-2" in words_of(report, check_id)


async def test_a_dead_instance_fails_everything_that_asks_it(cluster: ToyCluster) -> None:
    await cluster.stop_instance["web-3"]()
    report = await report_on(cluster)
    assert failed(report) == {
        "instance-health",
        "instance-ready",
        "instance-live",
        "all-get-traffic",
        "traffic-balanced",
        "session-consistent",
        "instance-endpoints",
    }
    assert "web-3: GET" in words_of(report, "instance-health")
    assert "cannot connect" in words_of(report, "instance-health")


async def test_another_process_at_an_instances_address_fails(cluster: ToyCluster) -> None:
    cluster.node.register("web-2", cluster.instances[0].address, pid=1)
    report = await report_on(cluster)
    assert "answered by web-1 instead of web-2" in words_of(report, "instance-health")


async def test_requests_that_fail_are_counted(cluster: ToyCluster) -> None:
    await cluster.stop_instance["web-3"]()
    cluster.balancer.retries = False
    report = await report_on(cluster)
    assert "requests-answered" in failed(report)
    assert result_of(report, "requests-answered").measurements["answered_count"] == 20


async def test_an_instance_that_answers_503_to_a_spread_request_fails(cluster: ToyCluster) -> None:
    cluster.switches.instance_answers["web-1", "/health/backend"] = (503, {"status": "unavailable"})
    report = await report_on(cluster, requests=6)
    assert "requests-answered" in failed(report)
    assert "503" in words_of(report, "requests-answered")
    assert "answered by web-1" in words_of(report, "requests-answered")


async def test_answers_that_name_nobody_fail(cluster: ToyCluster) -> None:
    cluster.switches.unnamed = True
    report = await report_on(cluster)
    assert {"requests-answered", "all-get-traffic", "traffic-balanced"} <= failed(report)
    assert "and 20 more" in words_of(report, "requests-answered")


async def test_an_instance_that_never_gets_traffic_fails(cluster: ToyCluster) -> None:
    cluster.balancer.upstreams.pop(1)
    report = await report_on(cluster)
    assert failed(report) == {"all-get-traffic", "traffic-balanced", "session-consistent"}
    assert words_of(report, "all-get-traffic") == "web-2 got none of 30 requests"
    assert "none went to web-2" in words_of(report, "session-consistent")


async def test_traffic_to_an_unknown_instance_fails(cluster: ToyCluster) -> None:
    cluster.node.instances.pop()
    report = await report_on(cluster)
    assert failed(report) == {"all-get-traffic"}
    assert "web-3 answered 10 requests and is not among the known" in words_of(report, "all-get-traffic")


async def test_a_skewed_balance_fails(cluster: ToyCluster) -> None:
    first, second, third = cluster.balancer.upstreams
    cluster.balancer.upstreams = [first] * 8 + [second, third]
    report = await report_on(cluster)
    assert failed(report) == {"traffic-balanced"}
    assert "web-1 got 24 of 30 requests, more than double" in words_of(report, "traffic-balanced")


@pytest.mark.parametrize(
    ("sign_in", "words"),
    [((200, True), "instead of 303"), ((500, False), "instead of 303"), ((303, False), "no cookie")],
)
async def test_a_sign_in_that_does_not_sign_in_fails(
    cluster: ToyCluster, sign_in: tuple[int, bool], words: str
) -> None:
    cluster.switches.sign_in = sign_in
    report = await report_on(cluster)
    assert failed(report) == {"session-created", "session-consistent", "session-stored"}
    assert words in words_of(report, "session-created")
    assert "there is no session to look at" in words_of(report, "session-stored")


async def test_a_session_page_that_is_none_fails(cluster: ToyCluster) -> None:
    report = await report_on(cluster, session_path="/health/live")
    assert "not the page of a session" in words_of(report, "session-created")


# Taking turns, the balancer gives the sign-in to web-2, its landing page to web-3 and the first look at the session to
# web-1, so that what is wrong with the others is left for the later checks to find.


async def test_a_session_lost_on_one_instance_fails(cluster: ToyCluster) -> None:
    cluster.switches.forgetful = "web-3"
    report = await report_on(cluster)
    assert "session-consistent" in failed(report) <= {"session-consistent", "session-stored"}
    assert "web-3: the session of 'verify-" in words_of(report, "session-consistent")
    assert "is that of None" in words_of(report, "session-consistent")


async def test_a_visit_counter_that_goes_backwards_fails(cluster: ToyCluster) -> None:
    cluster.switches.private_counter = "web-2"
    report = await report_on(cluster)
    assert "session-consistent" in failed(report) <= {"session-consistent", "session-stored"}
    assert "web-2: the count of visits went from" in words_of(report, "session-consistent")


async def test_another_session_on_one_instance_fails(cluster: ToyCluster) -> None:
    cluster.switches.own_session = "web-2"
    report = await report_on(cluster)
    assert "session-consistent" in failed(report) <= {"session-consistent", "session-stored"}
    assert "web-2: the session is '00000000' instead of" in words_of(report, "session-consistent")


async def test_a_session_whose_cookie_is_not_its_id_fails(cluster: ToyCluster) -> None:
    cluster.switches.own_session = "web-1"
    report = await report_on(cluster)
    assert "no cookie has a SHA-256 that begins with 00000000" in words_of(report, "session-stored")


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("none", "holds nothing instead of a hash under session:{"),
        ("string", "holds a string instead of a hash"),
        ("frozen", "left session:{"),
    ],
)
async def test_a_session_that_is_not_in_the_store_fails(cluster: ToyCluster, store: str, words: str) -> None:
    cluster.switches.store = store
    report = await report_on(cluster)
    assert failed(report) == {"session-stored"}
    assert words in words_of(report, "session-stored")


async def test_a_store_that_is_away_fails(cluster: ToyCluster) -> None:
    report = await report_on(cluster, store="redis://127.0.0.1:1/0")
    assert failed(report) == {"session-stored"}
    assert "store: TYPE failed" in words_of(report, "session-stored")


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/health/backend"])
@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, {}, "404 instead of 200"),
        (200, {"state": "fine"}, "missing required field `status`"),
        (200, {"status": "unavailable", "instanceId": "web-1", "uptime_s": 1, "checks": {}}, "instead of 'ok'"),
    ],
)
async def test_a_missing_or_wrong_endpoint_fails_through_the_balancer(
    cluster: ToyCluster, path: str, status: int, body: Any, words: str
) -> None:
    cluster.switches.balancer_answers[path] = (status, body)
    report = await report_on(cluster, requests=6)
    assert "balancer-endpoints" in failed(report)
    assert "instance-endpoints" not in failed(report)
    assert words in words_of(report, "balancer-endpoints")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, {}, "404 instead of 200"),
        (200, {"status": "ok", "instanceId": "web-3"}, "missing required field `checks`"),
        (200, {"status": "ok", "instanceId": "web-3", "checks": {"store": {"status": "meh"}}}, "Invalid enum value"),
    ],
)
async def test_a_wrong_endpoint_of_one_instance_fails(cluster: ToyCluster, status: int, body: Any, words: str) -> None:
    cluster.switches.instance_answers["web-3", "/health/backend"] = (status, body)
    report = await report_on(cluster)
    assert "instance-endpoints" in failed(report)
    assert words in words_of(report, "instance-endpoints")


class Supervised:
    """Two real instances of the board behind the toy balancer; the first is started again when it was killed."""

    def __init__(self, cluster: ToyCluster, start: "StartInstance", store_url: str, directory: Path) -> None:
        self._cluster = cluster
        self._start = start
        self._store_url = store_url
        self._directory = directory
        self.first: InstanceProcess

    async def start(self, name: str) -> "InstanceProcess":
        environment = board_environment(self._store_url, self._directory)
        process = await asyncio.to_thread(self._start, environment, app=BOARD, id=name)
        address = process.url.removeprefix("http://")
        self._cluster.balancer.upstreams.append(address)
        self._cluster.node.register(name, address, process.process.pid)
        return process

    async def begin(self) -> None:
        self.first = await self.start("web-1")
        await self.start("web-2")

    async def start_again_when_killed(self) -> None:
        await asyncio.to_thread(self.first.process.wait)
        self.first = await self.start("web-1")


@pytest.fixture
async def supervised(
    redis_server: "RedisServer", start_instance: "StartInstance", tmp_path: Path
) -> AsyncIterator[Supervised]:
    async with toy_cluster(redis_server.port, instances=0) as cluster:
        running = Supervised(cluster, start_instance, redis_server.url, tmp_path)
        await running.begin()
        yield running


async def destructive_report(supervised: Supervised, *, watch_s: float, return_within_s: float) -> Report:
    return await report_on(supervised._cluster, destructive=True, watch_s=watch_s, return_within_s=return_within_s)


async def test_a_killed_instance_that_is_replaced_passes_every_check(supervised: Supervised) -> None:
    killed_pid = supervised.first.process.pid
    async with asyncio.TaskGroup() as tasks:
        supervisor = tasks.create_task(supervised.start_again_when_killed())
        report = await destructive_report(supervised, watch_s=2.0, return_within_s=20.0)
    assert supervisor.done()
    assert failed(report) == set(), report
    assert report.summary.skipped == 0
    assert report.exit_code == 0
    returned = result_of(report, "instance-returns")
    assert f"with pid {supervised.first.process.pid}" in returned.detail[0]
    assert supervised.first.process.pid != killed_pid
    requests = result_of(report, "session-survives-kill").measurements["requests_count"]
    assert isinstance(requests, int)
    assert requests > 5


async def test_a_killed_instance_that_stays_away_fails(supervised: Supervised) -> None:
    report = await destructive_report(supervised, watch_s=0.3, return_within_s=1.0)
    assert failed(report) == {"instance-returns"}
    assert "web-1 was not back within 1 s: it is still registered with pid" in words_of(report, "instance-returns")
    assert supervised.first.process.wait(5) == -signal.SIGKILL


async def test_visits_that_fail_after_the_kill_fail_the_check(supervised: Supervised) -> None:
    supervised._cluster.balancer.retries = False
    report = await destructive_report(supervised, watch_s=1.0, return_within_s=0.5)
    assert failed(report) == {"session-survives-kill", "instance-returns"}
    assert "502" in words_of(report, "session-survives-kill")


async def test_processes_of_other_machines_are_not_killed(cluster: ToyCluster) -> None:
    cluster.node.register("web-1", "192.0.2.7:80", pid=4)
    report = await report_on(
        cluster, destructive=True, instances=tuple(f"http://{instance.address}" for instance in cluster.instances)
    )
    assert failed(report) == KILLING
    words = words_of(report, "session-survives-kill")
    assert "192.0.2.7:80 is not a loopback address" in words
    assert "pid 1 is not that of an instance" in words


async def test_the_only_instance_is_not_killed(cluster: ToyCluster) -> None:
    del cluster.node.instances[1:]
    report = await report_on(cluster, destructive=True)
    assert "killing needs another one" in words_of(report, "session-survives-kill")


LISTENER = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
"""


async def test_only_the_process_that_listens_is_killed() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LISTENER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        its_address = f"127.0.0.1:{int(await process.stdout.readline())}"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            with pytest.raises(RequestError, match="does not listen on"):
                kill_listener(address, process.pid)
            with pytest.raises(RequestError, match="is not that of an instance"):
                kill_listener(address, os.getpid())
        assert process.returncode is None
        kill_listener(its_address, process.pid)
        assert await asyncio.wait_for(process.wait(), 10) == -signal.SIGKILL
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
    with pytest.raises(RequestError, match="No such process"):
        kill_listener(its_address, process.pid)


async def test_every_request_is_a_connection_of_its_own() -> None:
    """So that a balancer that spreads connections is judged as one that spreads requests."""
    visitors: list[Any] = []

    async def remember(request: web.BaseRequest) -> web.StreamResponse:
        visitors.append(request.transport)
        return web.Response()

    async with serving(remember) as (address, _), Visitor(timeout_s=2.0) as visitor:
        for _ in range(3):
            assert (await visitor.get(f"http://{address}/")).status == 200
    assert len(set(map(id, visitors))) == 3


async def run_command(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "noctule", "verify", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE), **(environment or {})},
    )  # fmt: skip
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), 60)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert process.returncode is not None
    return process.returncode, stdout.decode(), stderr.decode()


async def test_the_command_exits_0_and_says_in_words_what_passed(cluster: ToyCluster) -> None:
    code, stdout, stderr = await run_command(cluster.url, environment={"NOCTULE_NODE": cluster.node_url})
    assert (code, stderr) == (0, "")
    assert "\x1b" not in stdout
    assert stdout.count("  PASS  ") == len(HARMLESS) + 6
    assert "13 passed, 0 failed, 2 skipped" in stdout
    assert "web-2  10 requests (33.3 %)" in stdout


async def test_the_command_gives_one_json_document(cluster: ToyCluster) -> None:
    code, stdout, stderr = await run_command(cluster.url, "--node", cluster.node_url, "--json", "--requests", "9")
    assert (code, stderr) == (0, "")
    document = json.loads(stdout)
    assert document["passed"] is True
    assert document["summary"] == {"passed": 13, "failed": 0, "skipped": 2}
    assert [check["id"] for check in document["checks"]] == [check.id for check in CHECKS]
    assert document["checks"][6]["measurements"]["answers_count"] == {"web-1": 3, "web-2": 3, "web-3": 3}


@pytest.mark.parametrize("arguments", [(), ("--json",)])
async def test_the_command_exits_1_when_a_check_fails(cluster: ToyCluster, arguments: tuple[str, ...]) -> None:
    cluster.balancer.upstreams.pop()
    code, stdout, _ = await run_command(cluster.url, "--node", cluster.node_url, *arguments)
    assert code == 1
    if arguments:
        assert json.loads(stdout)["passed"] is False
    else:
        assert "  FAIL  Every instance gets traffic" in stdout
        assert "! web-3 got none of 30 requests" in stdout


async def test_colour_is_used_when_asked_for_and_never_with_no_color(cluster: ToyCluster) -> None:
    arguments = (cluster.url, "--node", cluster.node_url)
    coloured = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    _, stdout, _ = await run_command(*arguments, environment=coloured)
    assert "\x1b[1;32mPASS" in stdout
    _, stdout, _ = await run_command(*arguments, environment={**coloured, "NO_COLOR": "1"})
    assert "\x1b[1;32m" not in stdout
    assert "PASS" in stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ftp://127.0.0.1",), "URL 'ftp://127.0.0.1' is not a URL of host and port"),
        (("--requests", "0"), "--requests 0 must be from 1"),
        (("--session-path", "whoami"), "--session-path 'whoami' must begin with /"),
    ],
)
async def test_the_command_exits_2_with_one_line_for_wrong_options(arguments: tuple[str, ...], words: str) -> None:
    code, stdout, stderr = await run_command(*arguments)
    assert (code, stdout) == (2, "")
    assert words in stderr
    assert stderr.count("\n") == 1


async def test_a_hidden_retry_would_be_seen() -> None:
    """aiohttp repeats a GET whose connection broke; the visitor must not, or failures would go unseen."""
    asked = 0

    async def break_off(request: Any) -> Any:
        nonlocal asked
        asked += 1
        request.transport.abort()

    async with serving(break_off) as (address, _):
        report = await verify(f"http://{address}", Options(node="http://127.0.0.1:1", requests=5, timeout_s=2.0))
    spread = result_of(report, "requests-answered")
    assert spread.measurements["answered_count"] == 0
    # One for the balancer's health, five spread, one sign-in, four endpoints.
    assert asked == 1 + 5 + 1 + 4
