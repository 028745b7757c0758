"""Redis as it is run for high availability: a cluster of three masters with replicas, and a master under Sentinels.

Asked for with ``pytest_plugins = ("redis_modes",)``. Timeouts are short, for these tests wait for them.
PYTEST_DONT_REWRITE, as tests also import names from here, which pytest would warn about.
"""

import abc
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import engine_or_skip, free_port, wait_until
from redis import Redis
from redis.exceptions import RedisError

NODE_TIMEOUT_MS = 500
DOWN_AFTER_MS = 500
READY_S_MAX = 30.0


class RedisProcesses:
    """Processes of redis-server by port, each ended by its own handle; `close` in a ``finally``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._program = engine_or_skip("redis-server")
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *options: str, first: str = "") -> int:
        """One more, on a free port, with a folder of its own; `first` is its configuration file, if it has one."""
        port = free_port()
        folder = self._directory / str(port)
        folder.mkdir(parents=True)
        words = [self._program]
        if first:
            (folder / "sentinel.conf").write_text(first.format(port=port, folder=folder))
            words += [str(folder / "sentinel.conf"), "--sentinel"]
        else:
            words += ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *options]
        with (folder / "log").open("wb") as log:
            self._processes[port] = subprocess.Popen(words, stdout=log, stderr=log)
        wait_until(lambda: answers(port), f"redis-server on port {port}")
        return port

    def kill(self, port: int) -> None:
        """SIGKILL."""
        self._processes[port].kill()
        self._processes[port].wait()

    def close(self) -> None:
        """End all of them."""
        for process in self._processes.values():
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    """Whether it answers a PING."""
    try:
        with Redis(port=port, socket_timeout=1) as client:
            return bool(client.ping())
    except RedisError:
        return False


class RedisMode(abc.ABC):
    """A store of several processes, one of which can be killed while it serves."""

    def __init__(self, url: str, processes: RedisProcesses) -> None:
        self.url = url
        self.processes = processes

    @abc.abstractmethod
    def kill_master_of(self, key: str) -> None:
        """SIGKILL to the master that serves a key."""


class RedisClusterMode(RedisMode):
    """Three masters with a replica each."""

    def __init__(self, directory: Path) -> None:
        processes = RedisProcesses(directory)
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)]
        options += ["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"]
        options += ["--cluster-require-full-coverage", "no"]
        self.ports = []
        super().__init__("", processes)
        try:
            self.ports = [processes.start(*options, "--cluster-port", str(free_port())) for _ in range(6)]
            hosts = [f"127.0.0.1:{port}" for port in self.ports]
            words = ["redis-cli", "--cluster", "create", *hosts, "--cluster-replicas", "1", "--cluster-yes"]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=READY_S_MAX)
            wait_until(self._has_replicas, "the replicas of a Redis Cluster", READY_S_MAX)
        except BaseException:
            processes.close()
            raise
        self.url = "redis+cluster://" + ",".join(hosts)

    def kill_master_of(self, key: str) -> None:
        """As `RedisMode` says."""
        with Redis(port=self.ports[0]) as client:
            slot = client.execute_command("CLUSTER", "KEYSLOT", key)
            for first, last, master, *_ in client.execute_command("CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    self.processes.kill(master[1])
                    return
        raise AssertionError(f"nobody serves {key}")

    def _has_replicas(self) -> bool:
        for port in self.ports:
            with Redis(port=port) as client:
                info = client.info("replication")
                is_linked = info["role"] == "master" or info["master_link_status"] == "up"
                has_state = client.execute_command("CLUSTER", "INFO")
                text = has_state if isinstance(has_state, str) else str(has_state)
                if not is_linked or (info["role"] == "master" and not info["connected_slaves"]) or "fail" in text[:40]:
                    return False
        return True


class SentinelMode(RedisMode):
    """A master with two replicas, and three Sentinels."""

    def __init__(self, directory: Path) -> None:
        processes = RedisProcesses(directory)
        super().__init__("", processes)
        try:
            fast = ["--repl-diskless-sync-delay", "0"]
            self.master = processes.start(*fast)
            replicas = [processes.start(*fast, "--replicaof", "127.0.0.1", str(self.master)) for _ in range(2)]
            conf = (
                f"port {{port}}\nbind 127.0.0.1\ndir {{folder}}\nsentinel monitor bats 127.0.0.1 {self.master} 2\n"
                f"sentinel down-after-milliseconds bats {DOWN_AFTER_MS}\nsentinel failover-timeout bats 5000\n"
            )
            self.sentinels = [processes.start(first=conf) for _ in range(3)]
            wait_until(lambda: self._is_complete(len(replicas)), "Sentinels that know each other", READY_S_MAX)
        except BaseException:
            processes.close()
            raise
        self.url = "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in self.sentinels) + "/bats"

    def kill_master_of(self, key: str) -> None:
        """As `RedisMode` says."""
        del key
        self.processes.kill(self.master)

    def _is_complete(self, replicas: int) -> bool:
        for port in self.sentinels:
            with Redis(port=port) as client:
                facts = client.sentinel_master("bats")
                if facts["num-slaves"] < replicas or facts["num-other-sentinels"] < 2:
                    return False
        return True


@pytest.fixture
def redis_cluster_mode(tmp_path: Path) -> Iterator[RedisClusterMode]:
    """A Redis Cluster of this test."""
    mode = RedisClusterMode(tmp_path / "cluster")
    try:
        yield mode
    finally:
        mode.processes.close()


@pytest.fixture
def sentinel_mode(tmp_path: Path) -> Iterator[SentinelMode]:
    """A master under Sentinels of this test."""
    mode = SentinelMode(tmp_path / "sentinel")
    try:
        yield mode
    finally:
        mode.processes.close()


@pytest.fixture(params=["cluster", "sentinel"])
def redis_mode(request: pytest.FixtureRequest) -> RedisMode:
    """Either."""
    mode: RedisMode = request.getfixturevalue(
        f"redis_{request.param}_mode" if request.param == "cluster" else "sentinel_mode"
    )
    return mode
