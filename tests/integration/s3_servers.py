"""Real S3 servers: rclone's, which is one process; OpenStack Swift, which knows ranges; SeaweedFS, which takes forms.

Asked for with ``pytest_plugins = ("s3_servers",)``. PYTEST_DONT_REWRITE, as tests also import names from here.
"""

import abc
import getpass
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

import pytest
from engines import ENGINES, free_port, wait_until

from noctule.deploy.local.checks import free_ports

SECRET = "secretsecret"
SWIFT = ENGINES / "swift"
START_S_MAX = 30.0


class S3Server(abc.ABC):
    """One store with one bucket, ``files``; its data outlive `kill` and `start`."""

    key_id = "keyidkeyid"
    region = "us-east-1"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        """For a FileStore."""
        keys = f"access_key_id={quote(self.key_id)}&secret_access_key={SECRET}"
        return f"s3://files?endpoint={self.endpoint}&region={self.region}&{keys}"

    @abc.abstractmethod
    def start(self) -> None:
        """Start it, on the same port and folder each time, and wait until it answers."""

    def kill(self) -> None:
        """SIGKILL to all of it; nothing happens when it does not run."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def _run(self, *command: str, environment: dict[str, str] | None = None) -> None:
        with (self.directory / "log").open("ab") as log:
            self._processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))


def missing(reason: str) -> NoReturn:
    """Of an engine: its tests fail in CI, and are skipped elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _from_pip(program: str) -> str:
    """A program that a wheel brought, so it is beside Python."""
    path = shutil.which(program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if path is None:
        missing(f"{program} is not installed: pip install -e '.[dev]'")
    return path


class RcloneServer(S3Server):
    """rclone serve s3: no ranges, no forms, and what it knows of a file beside its bytes is gone when it is killed."""

    def start(self) -> None:
        program = _from_pip("rclone")
        (self.directory / "data" / "files").mkdir(parents=True, exist_ok=True)
        options = ["--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{self.key_id},{SECRET}", "--config", os.devnull]
        self._run(program, "serve", "s3", *options, str(self.directory / "data"))
        wait_until(lambda: _answers(self.port), f"rclone on port {self.port}", START_S_MAX)


class SeaweedServer(S3Server):
    """SeaweedFS: its master, one volume server, filer and S3 gateway in one process."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._ports = list(free_ports("127.0.0.1", 7, avoid={self.port}))

    def start(self) -> None:
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        keys = {"accessKey": self.key_id, "secretKey": SECRET}
        identities = {"identities": [{"name": "app", "credentials": [keys], "actions": ["Admin"]}]}
        (self.directory / "s3.json").write_text(json.dumps(identities))
        master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3_grpc = self._ports
        self._run(
            _from_pip("weed"),
            "-logtostderr",
            *("server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}"),
            # It reports its use to its makers unless told not to.
            *("-master.telemetry=false", f"-master.port={master}", f"-master.port.grpc={master_grpc}"),
            *(f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", "-volume.max=8"),
            *("-master.electionTimeout=1s", "-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=0"),
            *("-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}"),
            *("-s3", f"-s3.port={self.port}", f"-s3.port.grpc={s3_grpc}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-s3.iam=false", f"-s3.config={self.directory / 's3.json'}"),
        )
        wait_until(lambda: _answers(self.port), f"SeaweedFS on port {self.port}", START_S_MAX)
        # Its gateway answers before anything can be written.
        wait_until(lambda: _answers(master, "/dir/assign", 200), "SeaweedFS having room for a file", START_S_MAX)

    def kill(self) -> None:
        super().kill()
        for port in (self.port, *self._ports):
            for socket_file in Path("/tmp").glob(
                f"seaweedfs-*-{port}.sock"
            ):  # Where it puts them, whatever it is told.
                socket_file.unlink()


_SERVER = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {directory}
devices = {directory}/devices
mount_check = false
fallocate_reserve = 0
disable_fallocate = true
"""

_STORAGE = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

_PROXY = """
[pipeline:main]
pipeline = catch_errors cache listing_formats bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


_RINGS = """
import json, sys
from swift.common.ring import RingBuilder
for path, port in json.loads(sys.argv[1]).items():
    builder = RingBuilder(4, 1, 1)
    place = dict(ip="127.0.0.1", port=port, replication_ip="127.0.0.1", replication_port=port)
    builder.add_dev(dict(id=0, region=1, zone=1, device="d1", weight=1, meta="", **place))
    builder.rebalance()
    builder.get_ring().save(path)
"""


class SwiftServer(S3Server):
    """OpenStack Swift with s3api: proxy, account, container and object server on one device, and memcached."""

    key_id = "test:tester"

    def __init__(self, directory: Path) -> None:
        if not (SWIFT / "usr" / "bin" / "swift-proxy-server").exists():
            missing("Swift is not unpacked (scripts/install-engines takes it from Debian)")
        super().__init__(directory)
        self._environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(SWIFT / "usr" / "lib" / "python3" / "dist-packages"),
            "LD_LIBRARY_PATH": str(SWIFT / "usr" / "lib" / "x86_64-linux-gnu"),
        }
        self._memcached, *storage = free_ports("127.0.0.1", 4, avoid={self.port})
        self._storage = dict(zip(("account", "container", "object"), storage, strict=True))

    def start(self) -> None:
        if not (self.directory / "proxy.conf").exists():
            self._configure()
        user = ("-u", getpass.getuser())
        self._run(str(SWIFT / "usr/bin/memcached"), "-p", str(self._memcached), "-l", "127.0.0.1", "-m", "16", *user)
        for kind in (*self._storage, "proxy"):
            self._swift(f"swift-{kind}-server", str(self.directory / f"{kind}.conf"))
        for port in (self._memcached, *self._storage.values(), self.port):
            wait_until(lambda port=port: _listens(port), f"Swift on port {port}", START_S_MAX)  # type: ignore[misc]
        wait_until(lambda: _answers(self.port), f"Swift on port {self.port}", START_S_MAX)

    def _configure(self) -> None:
        devices = self.directory / "devices" / "d1"
        devices.mkdir(parents=True)
        words = {"user": getpass.getuser(), "directory": self.directory, "memcached": self._memcached, "secret": SECRET}
        (self.directory / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_suffix = noctule\n[storage-policy:0]\nname = gold\ndefault = yes\n"
        )
        (self.directory / "proxy.conf").write_text((_SERVER + _PROXY).format(port=self.port, **words))
        for kind, port in self._storage.items():
            (self.directory / f"{kind}.conf").write_text((_SERVER + _STORAGE).format(port=port, kind=kind, **words))
        rings = {str(self.directory / f"{kind}.ring.gz"): port for kind, port in self._storage.items()}
        subprocess.run(
            ["/usr/bin/python3", "-c", _RINGS, json.dumps(rings)],
            env=self._environment,
            check=True,
            capture_output=True,
        )

    def _swift(self, program: str, config: str) -> None:
        # Whoever starts it looks for swift.conf in /etc, unless it was told before.
        script = str(SWIFT / "usr" / "bin" / program)
        told = f"from swift.common.utils import set_swift_dir; set_swift_dir({str(self.directory)!r})"
        run = f"import runpy, sys; sys.argv = [{script!r}, {config!r}]; runpy.run_path({script!r}, run_name='__main__')"
        command = ["/usr/bin/python3", "-c", f"{told}; {run}"]
        self._run(*command, environment=self._environment)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(port: int, path: str = "/", status_max: int = 499) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status <= status_max
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    """A running Swift with its bucket."""
    server = SwiftServer(tmp_path_factory.mktemp("swift"))
    try:
        server.start()
        make_bucket(server)
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A running SeaweedFS with its bucket."""
    server = SeaweedServer(tmp_path_factory.mktemp("seaweed"))
    try:
        server.start()
        make_bucket(server)
        yield server
    finally:
        server.kill()


@pytest.fixture
def rclones(tmp_path: Path) -> Iterator[list[RcloneServer]]:
    """Two running stores with a bucket each."""
    servers = []
    try:
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            servers.append(RcloneServer(tmp_path / name))
            servers[-1].start()
        yield servers
    finally:
        for server in servers:
            server.kill()


def make_bucket(server: S3Server) -> None:
    """By a client of others."""
    client(server).create_bucket(Bucket="files")


def client(server: S3Server):  # type: ignore[no-untyped-def]
    """boto3's, as a witness that nobody here wrote."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=server.key_id,
        aws_secret_access_key=SECRET,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )
