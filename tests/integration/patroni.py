"""Three PostgreSQL nodes under Patroni, which keeps who leads in Consul, or in what speaks as Consul does.

PYTEST_DONT_REWRITE, as tests import names from here, which pytest would warn about.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from engines import ENGINES, free_port, shown_in_guide, wait_until

POSTGRES = Path("/usr/lib/postgresql/15/bin")
TTL_S = 20
"""Of the leader's key, in the guide; Patroni takes no less. So long after its loss a leader is followed by another."""
BEGIN_S_MAX = 60.0
"""A first leader, and two replicas that stream from it, on a busy machine."""
SCOPE = "witness"
"""Of the settings in the guide."""
_WRITER = Path(__file__).with_name("patroni_writer.py")


@dataclass(frozen=True, slots=True)
class Member:
    """What Patroni says of one of its nodes."""

    name: str
    role: str
    state: str


class PatroniNode:
    """One Patroni and its PostgreSQL."""

    def __init__(self, name: str, folder: Path, dcs: str, python: "PatroniPython") -> None:
        self.name = name
        self.port, self.rest_port = free_port(), free_port()
        self._folder = folder / name
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self._folder.mkdir()
        python.own(self._folder)
        (self._folder / "patroni.yml").write_text(self._settings(dcs))

    def _settings(self, dcs: str) -> str:
        """Those of the guide, with its own name, ports and folders."""
        text = shown_in_guide("patroni.md", "yaml")
        for shown, own in (
            ("name: pg0", f"name: {self.name}"),
            ("127.0.0.1:8400", f"127.0.0.1:{self.rest_port}"),
            ("127.0.0.1:7501", dcs),
            ("127.0.0.1:5400", f"127.0.0.1:{self.port}"),
            ("/var/lib/postgresql/pg0.pgpass", str(self._folder / "pgpass")),
            ("/var/lib/postgresql/pg0", str(self._folder / "data")),
            ("/usr/lib/postgresql/15/bin", str(POSTGRES)),
        ):
            assert shown in text, shown
            text = text.replace(shown, own)
        return f"{text}  parameters: {{unix_socket_directories: {self._folder}}}\n"

    def start(self) -> None:
        """Begin, with an empty folder."""
        with (self._folder / "log").open("ab") as log:
            self._process = self._python.start(["-m", "patroni", str(self._folder / "patroni.yml")], log)

    def kill(self) -> None:
        """Patroni and PostgreSQL at once, as when their machine is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if (pid := self._postmaster()) is not None:
            os.kill(pid, signal.SIGKILL)  # Its children see that it is gone, and end.
            wait_until(lambda: self._postmaster() is None, f"the end of PostgreSQL {self.name}")

    def _postmaster(self) -> int | None:
        """The process of PostgreSQL, if it is really one of this folder."""
        try:
            pid = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            return None
        return pid if os.fsencode(self._folder) in command else None

    def ask(self, path: str, body: object = None) -> Any:
        """What Patroni's own API answers; raises `OSError` while it does not."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.rest_port}{path}", data)
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.startswith(("{", "[")) else text

    def log(self) -> str:
        """Its last words, for a test that fails."""
        return "\n".join((self._folder / "log").read_text(errors="replace").splitlines()[-30:])


class PatroniPython:
    """The Python that Patroni is installed in, run as a user that PostgreSQL runs as: never root."""

    def __init__(self, folder: Path) -> None:
        packages = next((ENGINES / "patroni").glob("lib/python*/site-packages"), None)
        if packages is None or not (POSTGRES / "postgres").exists():
            reason = "PostgreSQL 15 or Patroni is not installed (scripts/install-engines installs them)"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        self._user: dict[str, Any] = (
            {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        )
        self.own(folder)
        self._environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), "LC_ALL": "C.UTF-8"}
        if self.run(["-c", "import patroni"]).returncode:
            # The checkout is where that user may not go.
            shutil.copytree(packages, folder / "packages")
            self._environment["PYTHONPATH"] = str(folder / "packages")

    def own(self, folder: Path) -> None:
        """Give a folder to that user."""
        if self._user:
            shutil.chown(folder, "postgres", "postgres")

    def start(self, arguments: Sequence[str], log: Any) -> subprocess.Popen[bytes]:
        """Start a program of it."""
        command = ["/usr/bin/python3", *arguments]
        return subprocess.Popen(
            command, cwd="/", env=self._environment, stdout=log, stderr=log, start_new_session=True, **self._user
        )

    def run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        """Run one to its end."""
        command = ["/usr/bin/python3", *arguments]
        return subprocess.run(
            command, cwd="/", env=self._environment, capture_output=True, timeout=30, check=False, **self._user
        )


class PatroniCluster:
    """Three of them, and somebody who writes all the time; `close` it in a ``finally``."""

    def __init__(self, dcs: Sequence[str]) -> None:
        """`dcs` has the host:port of Consul for each node."""
        self._folder = Path(tempfile.mkdtemp(prefix="patroni"))  # Short: PostgreSQL puts a unix socket there.
        self._folder.chmod(0o755)
        self._python = PatroniPython(self._folder)
        self.nodes = [PatroniNode(f"pg{number}", self._folder, each, self._python) for number, each in enumerate(dcs)]
        self._writer: subprocess.Popen[bytes] | None = None
        self._acked = self._folder / "acked"

    def start(self) -> None:
        """Form the cluster: a leader, a synchronous standby and a replica that stream from it."""
        for node in self.nodes:
            node.start()
        wait_until(self.is_whole, "three PostgreSQL nodes streaming", BEGIN_S_MAX)

    def members(self) -> list[Member]:
        """As any Patroni that answers sees them; empty while none does."""
        for node in self.nodes:
            with suppress(OSError, ValueError):
                return [Member(each["name"], each["role"], each["state"]) for each in node.ask("/cluster")["members"]]
        return []

    def is_whole(self) -> bool:
        """Whether one leads, one is its synchronous standby, and both of the others stream."""
        members = self.members()
        roles = sorted(each.role for each in members)
        streaming = [each for each in members if each.state == "streaming"]
        return roles == ["leader", "replica", "sync_standby"] and len(streaming) == 2

    def has_standby(self) -> bool:
        """Whether somebody has everything that is acknowledged, and may lead next."""
        return any(each.role == "sync_standby" and each.state == "streaming" for each in self.members())

    def leader(self) -> str:
        """The name of who really takes writes now; empty when nobody does."""
        for node in self.nodes:
            with suppress(OSError):
                node.ask("/primary")
                return node.name
        return ""

    def node(self, name: str) -> PatroniNode:
        """By its name."""
        return next(each for each in self.nodes if each.name == name)

    def role(self, role: str) -> str:
        """Who has it."""
        return next(each.name for each in self.members() if each.role == role)

    def begin_writing(self) -> None:
        """Have rows written, one after the other, to whoever leads."""
        ports = ",".join(str(node.port) for node in self.nodes)
        with (self._folder / "writer.log").open("ab") as log:
            self._acked.touch()
            self._python.own(self._acked)
            self._writer = self._python.start([str(self._copy_of_writer()), ports, str(self._acked)], log)

    def _copy_of_writer(self) -> Path:
        return Path(shutil.copy(_WRITER, self._folder))

    def acked(self) -> list[tuple[int, float]]:
        """Number and monotonic time of each row that was acknowledged."""
        rows = [line.split() for line in self._acked.read_text().splitlines() if line.endswith(".")]
        return [(int(number), float(at)) for number, at, _ in rows]

    def wait_written(self, count: int, deadline_s: float) -> None:
        """Until so many more rows are acknowledged than now."""
        wanted = len(self.acked()) + count
        wait_until(lambda: len(self.acked()) >= wanted, f"{count} more rows", deadline_s)

    def end_writing(self) -> list[int]:
        """Stop it, and give the rows that were acknowledged and are not there; none may be missing."""
        assert self._writer is not None
        self._writer.kill()
        self._writer.wait()
        self._writer = None
        port = self.node(self.leader()).port
        command = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-Atc", "select id from rows"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        there = set(map(int, listed.stdout.split()))
        return [number for number, _ in self.acked() if number not in there]

    def close(self) -> None:
        """End everything."""
        if self._writer is not None:
            self._writer.kill()
            self._writer.wait()
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def logs(self) -> str:
        """Of all nodes, for a test that fails."""
        return "\n\n".join(f"{node.name}:\n{node.log()}" for node in self.nodes)


def longest_gap_s(acked: Sequence[tuple[int, float]]) -> float:
    """Between two acknowledged rows."""
    times = [at for _, at in acked]
    return max((after - before for before, after in pairwise(times)), default=0.0)
