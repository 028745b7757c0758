"""Real engines for the tests: each is started by a fixture, on a free port, and stopped by its own process handle.

A test module asks for them with ``pytest_plugins = ("engines",)``.
PYTEST_DONT_REWRITE, as tests also import names from here, which pytest would warn about.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from noctule.deploy.local.checks import free_ports

ENGINES = Path(__file__).parents[2] / ".engines"
"""What scripts/install-engines unpacks, as it is not of this Debian."""

GUIDES = Path(__file__).parents[2] / "docs" / "guides"

START_S_MAX = 10.0
"""How long an engine may take until it answers."""


_given: deque[int] = deque(maxlen=1_000)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, and that no outgoing connection takes while a node is down.

    It is none of the last thousand, as a test may ask for several before it uses the first.
    """
    (port,) = free_ports("127.0.0.1", 1, avoid=set(_given))
    _given.append(port)
    return port


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = START_S_MAX) -> None:
    """Poll the condition until it holds; fail with `what` after `deadline_s` seconds."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what} did not happen within {deadline_s:g} s")
        time.sleep(0.02)


def engine_or_skip(program: str) -> str:
    """The path of an engine's program; without it the test fails in CI and is skipped elsewhere."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if path is None:
        reason = f"{program} is not installed (scripts/install-engines installs what the tests meet)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def shown_in_guide(name: str, language: str) -> str:
    """The first block of this language in a guide: what it shows is what is run."""
    return (GUIDES / name).read_text().partition(f"```{language}\n")[2].partition("```")[0]


class RedisServer:
    """A redis-server without persistence that can be stopped, paused and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._program = engine_or_skip("redis-server")
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it, with these flags besides, and wait until it answers a PING."""
        directory = self._directory
        directory.mkdir(exist_ok=True)
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += options
        with (directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
        wait_until(self.answers, f"redis-server answering on port {self.port}")

    def answers(self) -> bool:
        """Whether it answers a PING at this moment."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16) == b"+PONG\r\n"
        except OSError:
            return False

    def kill(self) -> None:
        """End it at once, without goodbye; nothing happens when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop it from running; the kernel still takes connections for it. `kill` works on it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A running, empty Redis."""
    server = RedisServer(tmp_path / "redis")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def second_redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Another running, empty Redis."""
    server = RedisServer(tmp_path / "second-redis")
    try:
        server.start()
        yield server
    finally:
        server.kill()


def accepts(path: Path) -> bool:
    """Whether somebody listens at a unix socket, whose file is there a moment before."""
    with closing(socket.socket(socket.AF_UNIX)) as visitor:
        return visitor.connect_ex(str(path)) == 0


@pytest.fixture(scope="module")
def redis_socket() -> Iterator[Path]:
    """The unix socket of a Redis without persistence, which the tests of a module share."""
    program = engine_or_skip("redis-server")
    with tempfile.TemporaryDirectory(prefix="redis") as folder:  # Short: a socket's path has at most 107 bytes.
        path = Path(folder, "socket")
        options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: accepts(path), "redis-server listening at its socket")
            yield path
        finally:
            process.kill()
            process.wait()


class ConsulServer:
    """A real Consul 1.8.7, one server with its state in memory, to compare with. Its node is called ``consul``."""

    def __init__(self, directory: Path) -> None:
        program = ENGINES / "consul" / "consul"
        if not program.exists():  # In CI too: an older Debian may not be there for ever.
            pytest.skip("Consul is not unpacked (scripts/install-engines takes it from an older Debian)")
        self.http_port, self.dns_port, *others = free_ports("127.0.0.1", 5, avoid=set())
        self.url = f"http://127.0.0.1:{self.http_port}"
        ports = {"http": self.http_port, "dns": self.dns_port, "grpc": -1}
        ports |= dict(zip(("server", "serf_lan", "serf_wan"), others, strict=True))
        directory.mkdir(exist_ok=True)
        (directory / "consul.json").write_text(json.dumps({"ports": ports, "disable_update_check": True}))
        self._command = [str(program), "agent", "-dev", "-node=consul", "-bind=127.0.0.1", "-client=127.0.0.1"]
        self._command.append(f"-config-file={directory / 'consul.json'}")
        self._log = directory / "consul.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it has elected itself and knows its own node."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_until(self.answers, f"consul leading on port {self.http_port}")

    def answers(self) -> bool:
        """Whether it leads and has its own node in the catalog."""
        try:
            with urllib.request.urlopen(f"{self.url}/v1/health/node/consul", timeout=1) as answer:
                return b"serfHealth" in answer.read()
        except OSError:
            return False

    def kill(self) -> None:
        """End it at once, and with it all that it knew; nothing happens when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def consul_server(tmp_path: Path) -> Iterator[ConsulServer]:
    """A running Consul that knows only itself; the test is skipped, in CI too, where it is not unpacked."""
    server = ConsulServer(tmp_path / "consul")
    try:
        server.start()
        yield server
    finally:
        server.kill()
