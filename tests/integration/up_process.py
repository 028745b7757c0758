"""``noctule up`` as a real process, and a toy app for it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import noctule
from noctule.deploy.local.checks import FREE_PORTS_VARIABLE

CHECKOUT = Path(__file__).parents[2]

START_S_MAX = 60.0
STOP_S_MAX = 30.0

TOY_APP = """
import asyncio, hashlib, json, os
from pathlib import Path

if Path("broken").exists():
    raise RuntimeError("the toy is broken")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/slow":
        Path("slow-began").touch()
        await asyncio.sleep(600)
    names = ("INSTANCE_ID", "PORT", "NOCTULE_STORE_URL", "NOCTULE_NODE", "NOCTULE_FILES_URL", "NOCTULE_INSTANCES",
             "NOCTULE_PUBLIC_URL")
    secret = hashlib.sha256(os.environ["NOCTULE_APP_SECRET"].encode()).hexdigest()
    facts = {name: os.environ.get(name) for name in names} | {"pid": os.getpid(), "secret_sha256": secret}
    body = json.dumps(facts).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
"""

FREE_PORTS = (
    "--resp-port-base",
    "0",
    "--http-port-base",
    "0",
    "--peer-port-base",
    "0",
    "--control-port-base",
    "0",
    "--resp-cluster-port-base",
    "0",
    "--port",
    "0",
)


THIS_RELEASE = ("-m", "noctule")


def command(*arguments: str, release: Sequence[str] = THIS_RELEASE) -> list[str]:
    """The command line as the tests run it: with warnings as errors."""
    return [sys.executable, "-W", "error", *release, *arguments]


PACKAGE = Path(noctule.__file__).parents[1]
"""Where the form of the package is that these tests run on: as it is written, or compiled (ADR 0040)."""


def environment(release: Sequence[str] = THIS_RELEASE) -> dict[str, str]:
    """This process' environment, without what tells a command of a cluster; free ports it takes where we do.

    Other releases and faults are put into the code from outside, which only takes it as it is written.
    """
    kept = {n: v for n, v in os.environ.items() if n == FREE_PORTS_VARIABLE or not n.startswith("NOCTULE_")}
    return {**kept, "PYTHONPATH": str(PACKAGE if release == THIS_RELEASE else CHECKOUT / "src")}


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=START_S_MAX,
        check=False,
    )


def wait_until(is_so: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    """Return once the condition holds; fails with `what` was waited for."""
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.02)


def get_json(url: str) -> Any:
    """A page; None when nobody answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return json.load(response)
    except (urllib.error.URLError, OSError):
        return None


def is_running(pid: int) -> bool:
    """Whether there is such a process and it has not ended; an ended one that nobody waited for counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Up:
    """One ``noctule up`` with ports of the system's choice; `close` in a ``finally``."""

    def __init__(self, directory: Path, *arguments: str, data_dir: str = "data") -> None:
        self.directory = directory
        self.data_dir = directory / data_dir
        self._stdout = directory / f"up-{time.monotonic_ns()}.stdout"
        self._stderr = self._stdout.with_suffix(".stderr")
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                command("up", *FREE_PORTS, *arguments, "--json", "--data-dir", data_dir),
                cwd=directory,
                env=environment(),
                stdout=stdout,
                stderr=stderr,
            )

    @property
    def stdout(self) -> str:
        """All of it so far."""
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        """All of it so far."""
        return self._stderr.read_text()

    def wait_up(self) -> dict[str, Any]:
        """What it prints once it takes requests."""
        wait_until(lambda: self.stdout.endswith("\n") or self.process.poll() is not None, "the line", START_S_MAX)
        assert self.process.poll() is None, self.stderr
        shown: dict[str, Any] = json.loads(self.stdout)
        return shown

    def children(self) -> list[int]:
        """The processes that it started and that have not ended, also those that outlived it."""
        mark = f"NOCTULE_SUPERVISOR_PID={self.process.pid}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and give the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_S_MAX)

    def close(self) -> None:
        """End it and what it left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_S_MAX)
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
