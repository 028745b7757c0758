"""``noctule up`` on this machine: started, attacked, stopped; and everything that keeps it from starting."""

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import stat
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from cluster_processes import SEGMENT_BYTES_MAX, write_settings
from up_process import TOY_APP, Up, command, environment, get_json, is_running, run, wait_until

pytestmark = pytest.mark.integration

StartUp: TypeAlias = Callable[..., Up]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return furnished(tmp_path)


def furnished(directory: Path) -> Path:
    """A directory with the app, and with settings by which nodes start soon."""
    (directory / "toy.py").write_text(TOY_APP)
    write_settings(directory, segment_bytes_max=SEGMENT_BYTES_MAX)
    return directory


@pytest.fixture
def start_up(directory: Path) -> Iterator[StartUp]:
    """``start_up("toy:app", "--nodes", "1")``: started, and ended after the test however that ends."""
    started: list[Up] = []

    def start(*arguments: str, data_dir: str = "data") -> Up:
        started.append(Up(directory, *arguments, data_dir=data_dir))
        return started[-1]

    try:
        yield start
    finally:
        for up in started:
            up.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, dict[str, Any]]]:
    """Three nodes and two instances, for all tests that leave it as it was."""
    up = Up(furnished(tmp_path_factory.mktemp("up")), "toy:app", "--instances", "2")
    try:
        yield up, up.wait_up()
    finally:
        up.close()


def instances_of(running: dict[str, Any], *, node: int = 0) -> dict[str, dict[str, Any]]:
    """The registry, as one node shows it."""
    found = get_json(f"{node_url(running, node)}/api/instances")
    return {each["id"]: each for each in found["instances"]} if found else {}


def node_url(running: dict[str, Any], position: int) -> str:
    node = running["nodes"][position]
    return f"http://{node['host']}:{node['http_port']}"


def test_the_line_tells_what_runs_where(cluster: tuple[Up, dict[str, Any]]) -> None:
    up, running = cluster
    assert set(running) == {"gateway", "nodes", "instances", "cluster", "data_dir", "pid"}
    assert running["pid"] == up.process.pid
    assert running["data_dir"] == str(up.data_dir)
    assert running["cluster"] == json.loads((up.data_dir / "cluster.json").read_text())["cluster"]
    assert [node["id"] for node in running["nodes"]] == [1, 2, 3]
    assert [each["id"] for each in running["instances"]] == ["web-1", "web-2"]
    pids = [each["pid"] for each in (*running["nodes"], *running["instances"])]
    assert sorted(pids) == sorted(up.children())
    for position, node in enumerate(running["nodes"]):
        picture = get_json(f"{node_url(running, position)}/api/cluster")
        assert (picture["node_id"], picture["pid"]) == (node["id"], node["pid"])
        assert picture["cluster"] == running["cluster"]
        assert picture["data_dir"] == node["data_dir"]
        with socket.create_connection((node["host"], node["resp_port"]), timeout=5) as client:
            client.sendall(b"PING\r\n")
            assert client.recv(64) == b"+PONG\r\n"


def test_a_cluster_that_is_up_takes_every_command_at_once(start_up: StartUp) -> None:
    for node in start_up().wait_up()["nodes"]:
        with socket.create_connection((node["host"], node["resp_port"]), timeout=5) as client:
            client.sendall(b"SELECT 1\r\n")
            assert client.recv(64) == b"+OK\r\n"


def test_the_gateway_spreads_over_instances_that_know_their_place(cluster: tuple[Up, dict[str, Any]]) -> None:
    _, running = cluster
    answers = [get_json(f"{running['gateway']}/") for _ in range(10)]
    assert set(Counter(each["INSTANCE_ID"] for each in answers)) == {"web-1", "web-2"}
    resp = [f"127.0.0.1:{node['resp_port']}" for node in running["nodes"]]
    for answer in answers:
        number = int(answer["INSTANCE_ID"].removeprefix("web-"))
        plan = running["instances"][number - 1]
        assert (answer["pid"], answer["PORT"]) == (plan["pid"], str(plan["port"]))
        rotated = [*resp[number - 1 :], *resp[: number - 1]]
        assert answer["NOCTULE_STORE_URL"] == f"redis://{','.join(rotated)}/0"
        assert answer["NOCTULE_NODE"] == node_url(running, number - 1)


def test_the_gateway_tells_of_itself_as_any_other(cluster: tuple[Up, dict[str, Any]]) -> None:
    _, running = cluster
    found = get_json(f"{running['gateway']}/__noctule/status")
    assert found is not None
    assert found["config"] == "noctule up"
    states = {each["id"]: each["state"] for one in found["traffic"]["services"] for each in one["instances"]}
    assert states == {"web-1": "healthy", "web-2": "healthy"}


def test_keys_are_read_and_written_at_any_node(cluster: tuple[Up, dict[str, Any]]) -> None:
    up, running = cluster
    first, second, third = ([*("--node", node_url(running, position))] for position in range(3))
    assert run(up.directory, "kv", "set", "bat/1", "noctule é", "--ttl", "600", *first).stdout == "OK\n"
    assert run(up.directory, "kv", "get", "bat/1", *second).stdout == "noctule é"
    shown = json.loads(run(up.directory, "kv", "get", "bat/1", "--json", *third).stdout)
    assert shown["value"] == "noctule é"
    assert 590_000 < shown["ttl_ms"] <= 600_000
    assert run(up.directory, "kv", "scan", "bat/", *third).stdout == "bat/1\n"
    assert run(up.directory, "kv", "delete", "bat/1", *second).stdout == "deleted\n"
    missing = run(up.directory, "kv", "get", "bat/1", *first)
    assert (missing.returncode, missing.stdout, missing.stderr) == (1, "", "error: there is no key 'bat/1'\n")


def test_status_shows_nodes_and_instances(cluster: tuple[Up, dict[str, Any]]) -> None:
    up, running = cluster
    url = node_url(running, 1)
    wait_until(
        lambda: {each["state"] for each in instances_of(running).values()} == {"healthy"}, "two healthy instances"
    )
    shown = json.loads(run(up.directory, "status", "--node", url, "--json").stdout)
    assert shown["node_id"] == 2
    assert {peer["id"]: peer["alive"] for peer in shown["nodes"]} == {1: True, 2: True, 3: True}
    assert sum(peer["leads"] for peer in shown["nodes"]) == 17
    assert set(shown["lag_entries"]) == {"1", "2", "3"}
    assert None not in shown["lag_entries"].values()
    assert {each["id"]: each["service"] for each in shown["instances"]} == {"web-1": "toy", "web-2": "toy"}
    table = run(up.directory, "status", "--node", url)
    assert table.returncode == 0
    assert running["cluster"] in table.stdout
    for each in running["instances"]:
        assert f"{each['host']}:{each['port']}" in table.stdout


def test_a_second_up_on_the_same_data_is_refused(cluster: tuple[Up, dict[str, Any]]) -> None:
    up, _ = cluster
    refused = run(up.directory, "up", "--data-dir", str(up.data_dir), "--port", "0")
    assert refused.returncode == 2
    assert f"another noctule up (pid {up.process.pid}) is running on the data folder" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_killed_node_comes_back_on_its_ports(cluster: tuple[Up, dict[str, Any]]) -> None:
    up, running = cluster
    victim = running["nodes"][2]
    before = get_json(f"{node_url(running, 2)}/api/cluster")["pid"]
    os.kill(before, signal.SIGKILL)

    def is_back() -> bool:
        picture = get_json(f"{node_url(running, 2)}/api/cluster")
        return picture is not None and picture["pid"] != before

    wait_until(is_back, "the node with another pid")
    wait_until(lambda: get_json(f"{node_url(running, 2)}/health/ready") is not None, "its readiness")
    assert get_json(f"{node_url(running, 2)}/api/cluster")["node_id"] == victim["id"]
    assert "node-3: was ended by signal 9" in up.stderr
    assert "node-3 serves again" in up.stderr


def test_a_killed_instance_leaves_the_gateway_at_once_and_comes_back(cluster: tuple[Up, dict[str, Any]]) -> None:
    up, running = cluster
    before = instances_of(running)["web-1"]
    os.kill(before["pid"], signal.SIGKILL)
    # Nobody but the gateway can make up for the dead one here: each request is made once.
    answers = [get_json(f"{running['gateway']}/") for _ in range(20)]
    assert None not in answers

    def is_back() -> bool:
        now = instances_of(running, node=1).get("web-1", {})
        return now.get("state") == "healthy" and now.get("pid") != before["pid"]

    wait_until(is_back, "web-1 registered as healthy with another pid")
    after = instances_of(running)["web-1"]
    assert after["address"] == before["address"]
    assert is_running(after["pid"])
    wait_until(lambda: get_json(f"{running['gateway']}/")["INSTANCE_ID"] == "web-1", "a request that reaches it again")
    events = [json.loads(line)["event"] for line in (up.data_dir / "logs" / "up.log").read_text().splitlines()]
    assert "child_restarted" in events


def test_it_stops_in_order_and_leaves_nothing(cluster: tuple[Up, dict[str, Any]]) -> None:
    """The last of the tests that share the cluster: it ends it."""
    up, running = cluster
    assert len(up.children()) == 5
    assert up.stop() == 0
    assert up.children() == []
    assert up.stdout.count("\n") == 1, "--json prints exactly one line"
    order = [up.stderr.index(words) for words in ("draining the gateway", "stopping 2 instances", "stopping 3 nodes")]
    assert order == sorted(order)
    for name in ("node-1", "node-2", "node-3", "web-1", "web-2"):
        lines = (up.data_dir / "logs" / f"{name}.log").read_text().splitlines()
        events = [json.loads(line)["event"] for line in lines]
        assert events[-1] in ("node_stopped", "instance_stopped"), name
    assert get_json(f"{running['gateway']}/") is None


def test_nodes_alone_keep_what_was_written_from_one_run_to_the_next(start_up: StartUp, directory: Path) -> None:
    up = start_up("--nodes", "1")
    running = up.wait_up()
    assert (running["gateway"], running["instances"]) == (None, [])
    assert run(directory, "kv", "set", "k", "v", "--node", node_url(running, 0)).returncode == 0
    assert up.stop(signal.SIGINT) == 0
    again = start_up("--nodes", "1").wait_up()
    assert again["cluster"] == running["cluster"]
    assert run(directory, "kv", "get", "k", "--node", node_url(again, 0)).stdout == "v"


def test_all_instances_share_a_secret_that_outlives_the_run_and_is_told_nobody(start_up: StartUp) -> None:
    seen = set()
    for _ in range(2):
        up = start_up("toy:app", "--nodes", "1", "--instances", "2")
        gateway = up.wait_up()["gateway"]
        answers = [get_json(f"{gateway}/") for _ in range(10)]
        assert {each["NOCTULE_PUBLIC_URL"] for each in answers} == {gateway}
        assert {each["INSTANCE_ID"] for each in answers} == {"web-1", "web-2"}
        seen |= {each["secret_sha256"] for each in answers}
        files = (up.data_dir / "files").as_uri() + "?shared=true"
        assert {(each["NOCTULE_FILES_URL"], each["NOCTULE_INSTANCES"]) for each in answers} == {(files, "2")}
        assert up.stop() == 0
    secret = up.data_dir / "app-secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert seen == {hashlib.sha256(secret.read_bytes().strip()).hexdigest()}
    written = [path for path in up.directory.rglob("*") if path.is_file() and path != secret]
    assert len(written) > 10, "logs, and all that was said"
    assert [path for path in written if secret.read_bytes().strip() in path.read_bytes()] == []


def test_a_killed_supervisor_takes_everything_with_it(start_up: StartUp) -> None:
    up = start_up("toy:app", "--nodes", "1", "--instances", "1")
    up.wait_up()
    assert len(up.children()) == 2
    up.process.kill()
    up.process.wait()
    wait_until(lambda: up.children() == [], "the end of its children")


def test_a_second_signal_kills_at_once(start_up: StartUp, directory: Path) -> None:
    up = start_up("toy:app", "--nodes", "1", "--instances", "1")
    running = up.wait_up()
    host, _, port = running["gateway"].removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as visitor:
        visitor.sendall(b"GET /slow HTTP/1.1\r\nHost: toy\r\n\r\n")
        wait_until((directory / "slow-began").exists, "a request under way")
        up.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining the gateway" in up.stderr, "the stop")
        # The request never ends by itself, so the drain would take all of its time.
        assert up.stop(signal.SIGTERM) == 130
    assert up.children() == []


def test_a_signal_while_it_starts_stops_what_was_started(start_up: StartUp) -> None:
    up = start_up("toy:app")
    wait_until(lambda: len(up.children()) == 3, "three nodes")
    assert up.stop() == 130
    assert up.children() == []
    assert up.stdout == ""


def test_an_app_that_breaks_stays_down_and_comes_back_when_mended(start_up: StartUp, directory: Path) -> None:
    up = start_up("toy:app", "--nodes", "1", "--instances", "1")
    running = up.wait_up()
    (directory / "broken").touch()
    os.kill(running["instances"][0]["pid"], signal.SIGKILL)
    wait_until(lambda: "crashed 5 times in a row and stays down, tried again every 5 s" in up.stderr, "the verdict", 60)
    assert "RuntimeError: the toy is broken" in up.stderr
    registered = instances_of(running)["web-1"]
    assert registered["state"] == "unhealthy"
    assert get_json(f"{running['gateway']}/") is None
    (directory / "broken").unlink()
    wait_until(lambda: get_json(f"{running['gateway']}/") is not None, "the mended app", 30)


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("nosuch:app", "app 'nosuch:app': there is no module 'nosuch' in "),
        ("toy:ap", "module 'toy' has no attribute 'ap'; did you mean 'app'?"),
        ("crash:app", "app 'crash:app' crashed at import: ValueError: no database (" + "{directory}/crash.py:1)"),
    ],
)
def test_an_app_that_cannot_be_imported_leaves_nothing_running(
    app: str, words: str, start_up: StartUp, directory: Path
) -> None:
    (directory / "crash.py").write_text('raise ValueError("no database")\n')
    up = start_up(app, "--nodes", "1", "--instances", "1")
    assert up.process.wait(60) == 2
    assert up.children() == []
    assert up.stdout == ""
    last = up.stderr.splitlines()[-1]
    assert last.startswith("error: web-1: ")
    assert words.format(directory=directory) in last
    assert "Traceback" not in up.stderr


def test_a_folder_that_is_not_said_to_be_shared_is_refused_with_several_instances(
    start_up: StartUp, directory: Path
) -> None:
    lines = ("from noctule.kits.files import FileStore", "from toy import app", f"FileStore('file://{directory}/kept')")
    (directory / "folder.py").write_text("\n".join(lines))
    up = start_up("folder:app", "--nodes", "1", "--instances", "2")
    assert up.process.wait(60) == 2
    assert "is a folder of one machine, and there are 2 instances" in up.stderr
    start_up("folder:app", "--nodes", "1", "--instances", "1").wait_up()


def test_ports_in_use_are_named_with_their_flag(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        gateway, resp = first.getsockname()[1], second.getsockname()[1]
        flags = ["--port", str(gateway), "--resp-port-base", str(resp - 1), "--nodes", "1"]
        free = ["--http-port-base", "0", "--peer-port-base", "0", "--control-port-base", "0"]
        refused = run(directory, "up", "toy:app", *flags, *free)
    assert refused.returncode == 2
    assert f"port {gateway} on 127.0.0.1 for the gateway cannot be used: Address already in use" in refused.stderr
    assert "or choose another --port" in refused.stderr
    assert f"port {resp} on 127.0.0.1 for node 1 (RESP)" in refused.stderr
    assert "or choose another --resp-port-base" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_node_that_cannot_use_its_folder_ends_the_start(start_up: StartUp, directory: Path) -> None:
    (directory / "data").mkdir()
    (directory / "data" / "node-2").write_text("in the way")
    up = start_up()
    assert up.process.wait(60) == 2
    assert up.children() == []
    last = up.stderr.splitlines()[-1]
    assert last.startswith("error: node-2: cannot use the data folder")


def test_other_numbers_on_the_same_data_are_refused(start_up: StartUp, directory: Path) -> None:
    up = start_up("--nodes", "1", "--partitions", "2")
    up.wait_up()
    assert up.stop() == 0
    refused = run(directory, "up", "--nodes", "3", "--port", "0", "--data-dir", "data")
    assert refused.returncode == 2
    assert "with 1 nodes and 2 partitions, not 3 and 16: start it with --nodes 1 --partitions 2" in refused.stderr


def test_more_nodes_join_and_one_that_left_is_not_started_again(start_up: StartUp, directory: Path) -> None:
    bases = ("--peer-port-base", str(free_base()), "--control-port-base", str(free_base()), "--partitions", "4")
    up = start_up("--nodes", "1", *bases)
    url = node_url(up.wait_up(), 0)
    assert run(directory, "kv", "set", "kept", "yes", "--node", url).returncode == 0
    assert up.stop() == 0

    grown = start_up("--nodes", "3", *bases)
    running = grown.wait_up()
    assert [node["id"] for node in running["nodes"]] == [1, 2, 3]
    url = node_url(running, 0)
    members = get_json(f"{url}/api/nodes")["nodes"]
    assert [(member["id"], member["state"]) for member in members] == [(1, "active"), (2, "active"), (3, "active")]
    # A move that gets stuck goes back, and is tried again, well before the wait ends.
    settings = ("replication_factor=2", "migration_timeout_s=5")
    assert run(directory, "cluster", "set", *settings, "--node", url).returncode == 0
    left = run(directory, "cluster", "leave", "3", "--yes", "--node", url, "--timeout-s", "40")
    assert left.returncode == 0, left.stderr
    wait_until(lambda: "node-3 has left the cluster" in grown.stderr, "the supervisor to notice")
    stored = json.loads((directory / "data" / "cluster.json").read_text())
    assert (stored["nodes"], stored["founders"], stored["left"]) == (2, 1, [3])
    assert grown.stop() == 0

    again = start_up("--nodes", "2", *bases)
    running = again.wait_up()
    assert [node["id"] for node in running["nodes"]] == [1, 2]
    assert run(directory, "kv", "get", "kept", "--node", node_url(running, 1)).stdout == "yes"


def free_base() -> int:
    """A port after which some are free, now, and below those that the system gives to connections."""
    while True:
        base = random.randrange(11_000, 30_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(base + 1, base + 4):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return base


def test_on_a_pipe_it_shows_a_table_and_how_to_stop_it(directory: Path) -> None:
    words = [
        "up",
        "--nodes",
        "1",
        "--resp-port-base",
        "0",
        "--http-port-base",
        "0",
        "--peer-port-base",
        "0",
        "--control-port-base",
        "0",
    ]
    process = subprocess.Popen(
        command(*words), cwd=directory, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        shown = list(_until(lines, "data and logs: "))
        assert any(line.split()[:1] == ["node-1"] and "redis://127.0.0.1:" in line for line in shown)
        assert shown[-1] == f"data and logs: {directory / '.noctule'}\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "")
        assert "Ctrl-C stops it.\n" in err
    finally:
        process.kill()
        process.wait()


def _until(lines: Iterator[str], beginning: str) -> Iterator[str]:
    """The lines up to and with the first that begins so; all when none does."""
    for line in lines:
        yield line
        if line.startswith(beginning):
            return
