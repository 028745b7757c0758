"""App instances as real processes, for the tests; asked for with ``pytest_plugins = ("app_processes",)``.

PYTEST_DONT_REWRITE, as tests also import names from here, which pytest would warn about.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from up_process import PACKAGE

CHECKOUT = Path(__file__).parents[2]

# What the command line does with `run_instance`: one line for an error, and its exit code.
RUNNER = """
import json, sys
from noctule.base.errors import NoctuleError
from noctule.deploy.local.instance import InstanceConfig, run_instance
try:
    code = run_instance(InstanceConfig(**json.loads(sys.argv[1])))
except NoctuleError as error:
    print(f"error: {error}", file=sys.stderr)
    code = error.exit_code
sys.exit(code)
"""

APP_SECRET = "the-secret-of-an-app-of-the-tests"

START_S_MAX = 20.0
STOP_S_MAX = 20.0


def instance_command(**config: Any) -> list[str]:
    """The command that runs an instance with this `InstanceConfig`."""
    return [sys.executable, "-W", "error", "-c", RUNNER, json.dumps({"port": 0, **config})]


def instance_environment(**environment: str) -> dict[str, str]:
    """This process' environment without what tells an instance of its cluster, and with `environment`."""
    inherited = {n: v for n, v in os.environ.items() if n not in ("INSTANCE_ID", "PORT", "NOCTULE_STORE_URL")}
    return {**inherited, "PYTHONPATH": str(PACKAGE), **environment}


def board_environment(store_url: str, directory: Path) -> dict[str, str]:
    """What an instance of examples/board finds in its environment; those of one directory are of one board."""
    return {
        "NOCTULE_STORE_URL": store_url,
        "NOCTULE_PLAIN_HTTP": "1",
        "NOCTULE_FILES_URL": f"{(directory / 'files').as_uri()}?shared=true",
        "NOCTULE_APP_SECRET": APP_SECRET,
    }


@dataclass
class InstanceProcess:
    """One running instance."""

    process: subprocess.Popen[bytes]
    directory: Path
    """Holds its stdout and stderr as files."""
    serving: dict[str, Any]
    """The line it said on stdout."""

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.serving['port']}"

    def log(self) -> list[dict[str, Any]]:
        """Its stderr, of which every line is JSON."""
        return [json.loads(line) for line in (self.directory / "stderr").read_text().splitlines()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and give the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_S_MAX)


StartInstance: TypeAlias = Callable[..., InstanceProcess]


@pytest.fixture
def start_instance(tmp_path: Path) -> Iterator[StartInstance]:
    """Starts instances and waits until they serve: ``start_instance(config…, environment={…}, cwd=…)``; several at once
    from several threads."""
    running: list[subprocess.Popen[bytes]] = []
    numbers = itertools.count()

    def start(environment: dict[str, str] | None = None, cwd: Path = CHECKOUT, **config: Any) -> InstanceProcess:
        directory = tmp_path / f"instance-{next(numbers)}"
        directory.mkdir()
        with (directory / "stdout").open("wb") as stdout, (directory / "stderr").open("wb") as stderr:
            command = instance_command(**config)
            variables = instance_environment(**(environment or {}))
            process = subprocess.Popen(command, cwd=cwd, env=variables, stdout=stdout, stderr=stderr)
        running.append(process)
        end = time.monotonic() + START_S_MAX
        while not (line := (directory / "stdout").read_text()).endswith("\n"):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail("the instance does not serve: " + (directory / "stderr").read_text())
            time.sleep(0.02)
        return InstanceProcess(process, directory, json.loads(line))

    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.wait()
