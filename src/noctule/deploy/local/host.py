"""``noctule host``: the node processes of one machine of a cluster, one for each core, kept running in the foreground.

A node is one thread of Python, so a machine with several cores is used by several nodes. They share the machine's
label ``host``, which is the advertised host unless it is named, so no two of them are given replicas of one partition
while another machine has room. Settings come to each process as to any `noctule node`, from noctule.toml and the
environment; here is added what must differ between them.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from noctule.adapters.files import lock_directory
from noctule.base.errors import ConfigError
from noctule.deploy.local.child import Child
from noctule.deploy.local.cluster import NODE_STOP_S, ROTATE_S
from noctule.deploy.local.foreground import run_supervised
from noctule.deploy.local.plan import TOKEN_VARIABLE, ProcessPlan
from noctule.deploy.local.processes import Notice

PROCESSES_MAX = 256
PORT_MAX = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """What ``noctule host`` is asked for."""

    processes: int
    first_node_id: int = 0
    """The id of the first process, the next ones follow: they are named in `peers`. 0: they join, or have joined."""
    join: str = ""
    """The control address of a member; empty: as noctule.toml or the environment says."""
    token: str = ""
    data_dir: Path = Path("noctule-data")
    """Process i has its data in the folder ``process-<i>`` in it."""
    settings_file: Path | None = None
    resp_port_base: int = 7400
    """Process i has this port plus i."""
    resp_cluster_port_base: int = 7800
    http_port_base: int = 7500
    peer_port_base: int = 7600
    """Of processes that join; where those that are named in `peers` listen stands there."""
    control_port_base: int = 7700
    is_pinned: bool = False
    """Whether process i may run on the i-th core only."""

    def validate(self) -> None:
        """Raise `ConfigError` naming every problem at once."""
        problems = []
        for flag, value, low, high in (
            ("--processes", self.processes, 1, PROCESSES_MAX),
            ("--first-node-id", self.first_node_id, 0, PORT_MAX),
            *((flag, base, 1, PORT_MAX - self.processes) for flag, base in self.port_bases.items()),
        ):
            if not low <= value <= high:
                problems.append(f"{flag} {value} must be from {low} to {high}")
        if self.first_node_id and self.join:
            problems.append("--first-node-id is for nodes that are named as peers, --join for others")
        bases = sorted(self.port_bases.items(), key=lambda item: item[1])
        for (flag, base), (next_flag, next_base) in pairwise(bases):
            if next_base - base < self.processes:
                problems.append(f"{flag}-base {base} and {next_flag}-base {next_base} must be {self.processes} apart")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def port_bases(self) -> dict[str, int]:
        """By the flag of `noctule node`."""
        bases = {
            "--resp-port": self.resp_port_base,
            "--resp-cluster-port": self.resp_cluster_port_base,
            "--http-port": self.http_port_base,
            "--control-port": self.control_port_base,
        }
        return bases if self.first_node_id else {**bases, "--peer-port": self.peer_port_base}


class RunningProcess(msgspec.Struct, frozen=True):
    """One node that serves, as it said itself."""

    id: int
    pid: int
    resp: str
    """host:port, as for the others."""
    resp_cluster: str
    http: str
    peer: str
    control: str
    dns: str = ""


class RunningHost(msgspec.Struct, frozen=True):
    """What ``noctule host --json`` prints once all of its nodes serve."""

    processes: list[RunningProcess]
    data_dir: str
    pid: int
    """Of the supervisor: SIGTERM to it stops everything."""


class HostProcesses:
    """The node processes of this machine; a `Supervised`."""

    def __init__(self, plans: Sequence[ProcessPlan], log_dir: Path, notice: Notice) -> None:
        self.children = [Child(plan, log_dir, notice) for plan in plans]
        self._notice = notice

    async def start(self) -> None:
        """Start them side by side."""
        self._notice(f"starting {len(self.children)} node processes")
        for child in self.children:
            child.start()
        await asyncio.gather(*(child.wait_serving() for child in self.children))

    async def keep_running(self) -> None:
        """Until all of them have left the cluster for good."""
        rotating = asyncio.create_task(self._rotate_logs(), name="logs")
        try:
            async with asyncio.TaskGroup() as group:
                for child in self.children:
                    group.create_task(child.keep_running(on_end=_nothing, on_serving=_nothing), name=child.plan.name)
        finally:
            rotating.cancel()

    async def stop(self) -> None:
        """All at once: what they hand over goes to other machines."""
        self._notice("stopping the node processes")
        try:
            await asyncio.gather(*(child.stop(NODE_STOP_S) for child in self.children))
        finally:
            # Also when this task is cancelled because somebody is in a hurry.
            await asyncio.shield(asyncio.gather(*(child.kill() for child in self.children)))

    async def _rotate_logs(self) -> None:
        while True:
            for child in self.children:
                child.rotate_log()
            await asyncio.sleep(ROTATE_S)


def run_host(config: HostConfig, *, notice: Notice, on_ready: Callable[[RunningHost], None]) -> int:
    """Run the node processes until SIGINT, SIGTERM or SIGHUP, and give the exit code; as `run_supervised`.

    Raises `ConfigError` for what is wrong here, and what the process said that could not be started.
    """
    config.validate()
    data_dir = config.data_dir.absolute()
    try:
        (data_dir / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the data folder {data_dir} cannot be used: {error.strerror}") from None
    lock = lock_directory(data_dir)
    try:
        plans = host_plans(config, data_dir, sys.executable, sorted(os.sched_getaffinity(0)))

        def on_up(host: HostProcesses) -> None:
            on_ready(
                RunningHost(
                    [msgspec.convert(child.facts, RunningProcess) for child in host.children],
                    str(data_dir),
                    os.getpid(),
                )
            )

        return run_supervised(
            lambda: HostProcesses(plans, data_dir / "logs", notice), on_up, data_dir / "logs" / "host.log"
        )
    finally:
        lock.release()


def host_plans(config: HostConfig, data_dir: Path, python: str, cores: Sequence[int]) -> list[ProcessPlan]:
    """What is to run: the i-th process for i from 1, on the i-th of the cores if it is pinned, in turn."""
    plans = []
    for number in range(1, config.processes + 1):
        flags: dict[str, Any] = {flag: base + number for flag, base in config.port_bases.items()}
        flags["--data-dir"] = data_dir / f"process-{number}"
        flags["--wal-dir"] = data_dir / f"process-{number}" / "wal"
        if config.first_node_id:
            flags["--node-id"] = config.first_node_id + number - 1
        if config.join:
            flags["--join"] = config.join
        if config.settings_file is not None:
            flags["--config"] = config.settings_file
        words = [str(word) for flag_and_value in flags.items() for word in flag_and_value]
        # taskset replaces itself by the node, so the process is ours to watch all the same.
        pin = ("taskset", "--cpu-list", str(cores[(number - 1) % len(cores)])) if config.is_pinned else ()
        command = (*pin, python, "-m", "noctule", "node", *words, "--die-with-parent")
        # By the environment: a command line is shown to every user of the machine.
        environment = {TOKEN_VARIABLE: config.token} if config.token else {}
        plans.append(ProcessPlan(f"process-{number}", command, environment))
    return plans


def _nothing() -> None:
    """Nothing has to be done when a node comes or goes: the cluster sees to it."""
