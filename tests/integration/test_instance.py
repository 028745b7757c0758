"""The instance runner as a real process: how it starts, how it stops, and how it says what is wrong."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from app_processes import InstanceProcess, StartInstance, instance_command, instance_environment
from engines import wait_until

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines", "app_processes")
pytestmark = pytest.mark.integration

SLOW_APP = """
import asyncio, os, pathlib

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = os.environ["INSTANCE_ID"] + " " + os.environ["PORT"]
    if scope["path"] == "/slow":
        pathlib.Path("begun").touch()
        while not pathlib.Path("go-on").exists():
            await asyncio.sleep(0.01)
        body = "slow"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body.encode()})
"""


@pytest.fixture
def app_directory(tmp_path: Path) -> Path:
    """A directory with the app ``slow:app``."""
    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "slow.py").write_text(SLOW_APP)
    return directory


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


async def ready(web: aiohttp.ClientSession, instance: InstanceProcess) -> tuple[int, str]:
    async with web.get(instance.url + "/health/ready") as response:
        return response.status, (await response.json())["reason"]


def accepts(instance: InstanceProcess) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", instance.serving["port"])) == 0


async def test_it_says_where_it_serves_and_names_itself(
    start_instance: StartInstance, app_directory: Path, web: aiohttp.ClientSession
) -> None:
    instance = start_instance(app="slow:app", id="web-3", cwd=app_directory)
    port = instance.serving["port"]
    assert instance.serving == {
        "event": "instance_serving",
        "id": "web-3",
        "host": "127.0.0.1",
        "port": port,
        "pid": instance.process.pid,
    }
    async with web.get(instance.url + "/") as response:
        assert response.headers["x-noctule-instance"] == "web-3"
        assert await response.text() == f"web-3 {port}"
    assert await ready(web, instance) == (200, "")
    assert instance.stop() == 0
    assert [line["event"] for line in instance.log() if line["logger"] == "noctule.instance"] == [
        "instance_serving",
        "instance_draining",
        "instance_stopping",
        "instance_stopped",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_stops_in_order_and_loses_no_request(
    number: signal.Signals, start_instance: StartInstance, app_directory: Path, web: aiohttp.ClientSession
) -> None:
    instance = start_instance(app="slow:app", cwd=app_directory, drain_delay_ms=600)
    async with web.get(instance.url + "/") as response:
        assert "connection" not in response.headers
    slow = await _begin_slow(instance, app_directory)
    instance.process.send_signal(number)
    instance.process.send_signal(number)  # A second one changes nothing.
    wait_until(lambda: any(line["event"] == "instance_draining" for line in instance.log()), "draining")
    assert await ready(web, instance) == (503, "draining")
    async with web.get(instance.url + "/") as response:
        assert response.status == 200, "it still serves while the balancer takes notice"
        assert response.headers["connection"] == "close"
    wait_until(lambda: not accepts(instance), "the door is shut")
    assert instance.process.poll() is None, "a request is still under way"
    (app_directory / "go-on").touch()
    with slow:
        answer = b"".join(iter(lambda: slow.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"slow" in answer
    assert instance.process.wait(10) == 0


async def test_a_request_that_never_ends_does_not_keep_it(start_instance: StartInstance, app_directory: Path) -> None:
    instance = start_instance(app="slow:app", cwd=app_directory, drain_delay_ms=0, drain_timeout_s=1)
    with await _begin_slow(instance, app_directory):
        assert instance.stop() == 0


async def _begin_slow(instance: InstanceProcess, directory: Path) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", instance.serving["port"]), timeout=10)
    connection.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until((directory / "begun").exists, "the slow request has begun")
    return connection


@pytest.mark.engine("redis-server")
async def test_readiness_follows_the_store(
    redis_server: "RedisServer", start_instance: StartInstance, app_directory: Path, web: aiohttp.ClientSession
) -> None:
    environment = {"NOCTULE_STORE_URL": redis_server.url}
    instance = start_instance(app="slow:app", cwd=app_directory, environment=environment)
    async with web.get(instance.url + "/health/backend") as response:
        body = await response.json()
        assert (response.status, body["checks"]["store"]["status"]) == (200, "ok")
        assert body["instanceId"] == "web-1"
    redis_server.kill()
    async with web.get(instance.url + "/health/live") as response:
        assert response.status == 200
    await _ready_becomes(503, web, instance)
    async with web.get(instance.url + "/health/backend") as response:
        body = await response.json()
        assert (response.status, body["checks"]["store"]["status"]) == (503, "failed")
        assert str(redis_server.port) in body["checks"]["store"]["reason"]
    redis_server.start()
    await _ready_becomes(200, web, instance)


async def _ready_becomes(status: int, web: aiohttp.ClientSession, instance: InstanceProcess) -> None:
    # The result of a check is kept for a second, so this takes up to a second.
    async with asyncio.timeout(5):
        while (await ready(web, instance))[0] != status:
            await asyncio.sleep(0.05)


async def test_it_ends_with_the_process_that_started_it(app_directory: Path, tmp_path: Path) -> None:
    starter = """
import json, subprocess, sys, time
child = subprocess.Popen(json.loads(sys.argv[1]), stdout=subprocess.PIPE)
print(child.stdout.readline().decode(), end="", flush=True)
time.sleep(60)
"""
    command = instance_command(app="slow:app", die_with_parent=True, drain_delay_ms=0)
    with (tmp_path / "stderr").open("wb") as stderr:
        parent = subprocess.Popen(
            [sys.executable, "-c", starter, json.dumps(command)],
            cwd=app_directory,
            env=instance_environment(),
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert parent.stdout is not None
    pid = 0
    try:
        pid = json.loads(parent.stdout.readline())["pid"]
        parent.kill()
        parent.wait()
        wait_until(lambda: not _runs(pid), "the instance ends")
    finally:
        parent.stdout.close()
        parent.kill()
        parent.wait()
        if pid and _runs(pid):
            os.kill(pid, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def error_line(directory: Path, **config: object) -> str:
    """Run an instance that cannot start; give the one line it ends with."""
    result = subprocess.run(
        instance_command(**config), cwd=directory, env=instance_environment(), capture_output=True, timeout=20
    )
    *logged, last = result.stderr.decode().splitlines()
    assert all(json.loads(line)["event"] for line in logged)
    assert (result.returncode, result.stdout) == (2, b"")
    assert last.startswith("error: ")
    return last.removeprefix("error: ")


@pytest.mark.parametrize(
    ("app", "source", "expected"),
    [
        ("main", "", "app 'main' is not of the form module:attribute, as in main:app"),
        ("main.py:app", "", "app 'main.py:app': there is no module 'main.py' in {directory} or among the installed"),
        ("./main:app", "", "app './main:app' is not of the form module:attribute"),
        ("mian:app", "", "app 'mian:app': there is no module 'mian' in {directory} or among the installed packages"),
        ("main:ap", "app = print", "app 'main:ap': module 'main' has no attribute 'ap'; did you mean 'app'?"),
        ("main:app", "app = 7", "app 'main:app' is a int, which cannot be called as an ASGI app"),
        (
            "main:app",
            "def load():\n    raise ValueError('no\\nkey')\nload()",
            "app 'main:app' crashed at import: ValueError: no key ({directory}/main.py:2)",
        ),
        (
            "main:app",
            "import json\njson.loads('{')",
            "app 'main:app' crashed at import: JSONDecodeError: Expecting property name enclosed",
        ),
        (
            "main:app",
            "import no_such",
            "app 'main:app' crashed at import: ModuleNotFoundError: No module named 'no_such' ({directory}/main.py:1)",
        ),
        (
            "main:app",
            "x = 1\nx = = 2",
            "app 'main:app' crashed at import: SyntaxError: invalid syntax (main.py, line 2) ({directory}/main.py:2)",
        ),
        (
            "main:app",
            "import sys\nsys.exit('no settings')",
            "app 'main:app' crashed at import: SystemExit: no settings ({directory}/main.py:2)",
        ),
    ],
)
def test_an_app_that_cannot_be_loaded_is_told_in_one_line(app: str, source: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(source)
    assert error_line(tmp_path, app=app).startswith(expected.format(directory=tmp_path))


def test_a_startup_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    source = """
from contextlib import asynccontextmanager
from starlette.applications import Starlette

@asynccontextmanager
async def lifespan(app):
    raise RuntimeError("no database")
    yield

app = Starlette(lifespan=lifespan)
"""
    (tmp_path / "main.py").write_text(source)
    assert error_line(tmp_path, app="main:app") == "app 'main:app' failed at startup: RuntimeError: no database"


def test_a_port_in_use_is_told_in_one_line(app_directory: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        expected = f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port or --host"
        assert error_line(app_directory, app="slow:app", port=port) == expected


def test_settings_that_cannot_work_are_told_at_once(app_directory: Path) -> None:
    line = error_line(app_directory, app="slow:app", id="a b", port=70_000, drain_delay_ms=-1)
    assert line.startswith("instance: --id 'a b' must be printable ASCII without spaces; --port 70000 must")
    assert "--drain-delay-ms -1 must" in line
    assert "cannot listen on no.such.host.invalid:0" in error_line(
        app_directory, app="slow:app", host="no.such.host.invalid"
    )
