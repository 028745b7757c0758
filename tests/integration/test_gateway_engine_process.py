"""`noctule gateway --engine` as a person runs it: commands work as with the embedded one, and it outlives a kill."""

import asyncio
import contextlib
import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from engines import engine_or_skip, free_port, wait_until
from gateway_backends import Backend, backends
from gateway_process import Client, GatewayProcess, serving, toys
from own_node import own_node

from noctule.adapters.certificates import write_certificates
from noctule.core.registry.objects import CheckStatus

pytestmark = pytest.mark.integration

CONFIG = """
port = {port}
[[services]]
name = "blue"
instances = ["127.0.0.1:{a}", "127.0.0.1:{b}"]
[[services]]
name = "green"
instances = ["127.0.0.1:{c}"]
[[routes]]
name = "all"
shares = [{{ service = "blue" }}, {{ service = "green", percent = 0 }}]
"""


@pytest.fixture(scope="module")
def apps() -> Iterator[dict[str, Backend]]:
    with backends("a", "b", "c") as found:
        yield found


@pytest.fixture(params=["haproxy", "nginx"])
def engine(request: pytest.FixtureRequest) -> str:
    engine_or_skip(request.param)
    return str(request.param)


class Process:
    """A gateway process in a folder of its own."""

    def __init__(self, engine: str, folder: Path, apps: dict[str, Backend]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._engine = engine
        ports = {name: each.port for name, each in apps.items()}
        (folder / "gateway.toml").write_text(CONFIG.format(port=self.port, **ports))
        self._popen: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "noctule", "gateway", "--engine", self._engine, "--drain-s", "1"]
        with (self._folder / "log").open("ab") as log:
            self._popen = subprocess.Popen(
                command, cwd=self._folder, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ}
            )
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        assert "gateway_serving" in line, (self._folder / "log").read_text()

    def end(self, number: signal.Signals) -> int:
        assert self._popen is not None
        self._popen.send_signal(number)
        code = self._popen.wait(20)
        assert self._popen.stdout is not None
        self._popen.stdout.close()
        return code

    def run(self, *words: str) -> str:
        """A command on it; what it printed."""
        command = [sys.executable, "-m", "noctule", "gateway", *words, "--url", self.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self) -> str:
        with urllib.request.urlopen(self.url, timeout=5) as response:
            return str(json.load(response)["instance"])


def test_commands_work_and_a_kill_costs_nothing(engine: str, apps: dict[str, Backend]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="gw"))
    folder.chmod(0o755)
    process = Process(engine, folder, apps)
    process.start()
    try:
        assert {process.ask() for _ in range(8)} == {"a", "b"}
        status = json.loads(process.run("status", "--json"))
        states = {each["id"]: each["state"] for one in status["traffic"]["services"] for each in one["instances"]}
        b = f"127.0.0.1:{apps['b'].port}"
        # A page in a browser on this machine, or a proxy, asks for somebody else.
        for lie in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"X-Forwarded-For": "9.9.9.9"}):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(
                    urllib.request.Request(f"{process.url}/__noctule/status", headers=lie), timeout=5
                )
        assert states[b] in ("healthy", "given")
        assert "done" in process.run("drain", "blue", b, "--wait-s", "10")
        assert {process.ask() for _ in range(6)} == {"a"}
        process.run("undrain", "blue", b)
        assert {process.ask() for _ in range(8)} == {"a", "b"}
        assert "done" in process.run("switch", "all", "green", "--wait-s", "10")
        assert {process.ask() for _ in range(6)} == {"c"}
        # The driver dies, the engine does not; the next driver begins with what the file says.
        process.end(signal.SIGKILL)
        assert process.ask() == "c"
        process.start()
        assert {process.ask() for _ in range(8)} == {"a", "b"}
        config = folder / "gateway.toml"
        config.write_text(
            config.read_text().replace('"green", percent = 0', '"green"').replace('"blue" }', '"blue", percent = 0 }')
        )
        process.run("reload")
        assert {process.ask() for _ in range(6)} == {"c"}
    finally:
        assert process.end(signal.SIGTERM) == 0
    assert not _listens(process.port)
    shutil.rmtree(folder)


def test_commands_reach_a_gateway_that_sends_all_else_to_tls(engine: str, apps: dict[str, Backend]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="gw"))
    folder.chmod(0o755)
    process = Process(engine, folder, apps)
    write_certificates(folder, "test", ["localhost"], datetime.datetime.now(datetime.UTC), is_node=False)
    pair = f'certificate = "{folder}/localhost.pem"\nkey = "{folder}/localhost.key"'
    config = folder / "gateway.toml"
    top = f"tls_port = {free_port()}\nredirect_to_tls = true\n"
    config.write_text(f"{top}{config.read_text()}\n[[certificates]]\n{pair}\n")
    process.start()
    try:
        assert json.loads(process.run("status", "--json"))["workers"] == 1
    finally:
        assert process.end(signal.SIGTERM) == 0
    shutil.rmtree(folder)


def test_a_bad_config_is_refused_with_the_reason(engine: str, apps: dict[str, Backend]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="gw"))
    process = Process(engine, folder, apps)
    config = folder / "gateway.toml"
    config.write_text(config.read_text().replace(f"port = {process.port}", f"port = {apps['a'].port}"))
    command = [sys.executable, "-m", "noctule", "gateway", "--engine", engine]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "did not start" in done.stderr
    assert "Traceback" not in done.stderr
    shutil.rmtree(folder)


def test_files_can_be_rendered_for_an_engine_that_nobody_drives(engine: str, apps: dict[str, Backend]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="gw"))
    folder.chmod(0o755)
    port = Process(engine, folder, apps).port
    config = folder / "gateway.toml"
    # A driver fits this to the machine; files alone are for another one.
    config.write_text(config.read_text() + "[limits]\nconnections_max = 1000\n")
    place = folder / "out"
    command = [sys.executable, "-m", "noctule", "gateway", "render", "--engine", engine, "--out", str(place)]
    done = subprocess.run(
        [*command, "--config", str(config), "--installed-in", str(place)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    (place / "temporary").mkdir()
    run = {
        "haproxy": [engine_or_skip("haproxy"), "-db", "-f", str(place / "haproxy.cfg")],
        "nginx": [engine_or_skip("nginx"), "-p", str(place), "-c", str(place / "nginx.conf"), "-g", "daemon off;"],
    }[engine]
    with (folder / "engine.log").open("wb") as log:
        alone = subprocess.Popen(run, stdout=log, stderr=log)
    try:
        wait_until(lambda: _listens(port), f"{engine} listening")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
            assert json.load(response)["instance"] in "ab"
    finally:
        alone.terminate()
        alone.wait(10)
    shutil.rmtree(folder)


REGISTRY_CONFIG = """
port = 0
[[services]]
name = "shop"
registry = "shop"
[[routes]]
name = "shop"
shares = [{ service = "shop" }]
"""


async def test_an_engine_follows_the_registry(engine: str, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="gw"))
    folder.chmod(0o755)
    arguments = ("--config", str(tmp_path / "gateway.toml"), "--engine", engine, "--data-dir", str(folder))
    async with toys("a", "b", "c") as (a, b, c), own_node(tmp_path / "node") as node:
        await node.register("shop", a.port)
        gateway = GatewayProcess(tmp_path, *arguments, "--node", node.url)
        gateway.config.write_text(REGISTRY_CONFIG)
        async with serving(gateway) as client:
            assert await answered_by(client) == {"a"}
            await node.register("shop", b.port)
            await wait_answered_by(client, "a", "b")
            await node.tell(a.port, CheckStatus.CRITICAL)
            await wait_answered_by(client, "b")
            await node.tell(a.port, CheckStatus.PASSING)
            await node.register("shop", c.port)
            for gone in (a, b):
                await node.deregister(gone.port)
            await wait_answered_by(client, "c")
            assert '"service":"shop"' in gateway.access_log.read_text()
            # In order, or the engine would outlive it.
            gateway.signal(signal.SIGTERM)
            assert await gateway.wait_end() == 0
    shutil.rmtree(folder)


async def answered_by(client: Client) -> set[str]:
    """The instances that answer ten requests; nginx may close a connection under one."""
    found = set()
    while len(found) < 10:
        with contextlib.suppress(aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            status, text = await client.get()
            assert status == 200, text
            found.add((len(found), text))
    return {text for _, text in found}


async def wait_answered_by(client: Client, *names: str) -> None:
    async with asyncio.timeout(20):
        while await answered_by(client) != set(names):
            await asyncio.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
