"""Real engines for the tests: each is started by a fixture, on a free port, and stopped by its own process handle.

A test module asks for them with ``pytest_plugins = ("engines",)``.
PYTEST_DONT_REWRITE, as tests also import names from here, which pytest would warn about.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noctule.deploy.local.checks import free_ports

START_S_MAX = 10.0
"""How long an engine may take until it answers."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, and that no outgoing connection takes while a node is down."""
    (port,) = free_ports("127.0.0.1", 1, avoid=set())
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
    path = shutil.which(program)
    if path is None:
        reason = f"{program} is not installed (Debian: apt install {program})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


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
