"""What bench/gateway.py measures: backends, and a gateway of each kind before them, each on one core's worth."""

import shutil
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from subjects import HOST, START_S_MAX, server_process, wait_until

from noctule.adapters.process_stats import read_process_stats
from noctule.base.errors import ConfigError
from noctule.deploy.local.checks import free_ports

BACKENDS = 3
KEEPALIVE = 128
"""Idle connections to each backend, the same for all."""

_SBIN = "/usr/sbin:/usr/local/sbin"

_HAPROXY = """global
    nbthread 1
    maxconn 4000
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    http-reuse safe
frontend front
    bind 127.0.0.1:{port} backlog 4096
    default_backend back
backend back
    balance leastconn
{servers}
"""

_NGINX = """worker_processes 1;
daemon off;
error_log {folder}/nginx-error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 8000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    upstream back {{
        least_conn;
{servers}
        keepalive {keepalive};
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://back;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


class Subject(msgspec.Struct, frozen=True):
    """Something that answers HTTP, and the processes whose time counts as its own."""

    name: str
    port: int
    pids: tuple[int, ...]

    def cpu_s(self) -> float:
        """Processor time of its processes so far."""
        stats = [read_process_stats(Path(f"/proc/{pid}")) for pid in self.pids]
        return sum(each.cpu_s for each in stats if each is not None)

    def resident_bytes(self) -> int:
        """Memory of its processes."""
        stats = [read_process_stats(Path(f"/proc/{pid}")) for pid in self.pids]
        return sum(each.resident_bytes for each in stats if each is not None)


@contextmanager
def backends(
    folder: Path, count: int = BACKENDS, *, service_ms: float = 0.0, concurrency: int = 0
) -> Iterator[list[Subject]]:
    """So many of gateway_backend.py; with the last two of a simulated capacity."""
    limits = [str(service_ms), str(concurrency)] if concurrency else []
    with ExitStack() as stack:
        found = []
        for port in free_ports(HOST, count, avoid=set()):
            command = [
                sys.executable,
                str(Path(__file__).with_name("gateway_backend.py")),
                str(port),
                f"b{port}",
                *limits,
            ]
            process = stack.enter_context(server_process(command, folder / f"backend-{port}.log"))
            found.append(Subject(f"backend {port}", port, (process.pid,)))
        for each in found:
            wait_until(lambda each=each: why_not_answering(each.port), each.name, START_S_MAX)  # type: ignore[misc]
        yield found


@contextmanager
def embedded(folder: Path, behind: Sequence[Subject]) -> Iterator[Subject]:
    """Noctule's own gateway, one worker."""
    (port,) = free_ports(HOST, 1, avoid=set())
    script = str(Path(__file__).with_name("gateway_process.py"))
    command = [sys.executable, script, str(port), *(str(each.port) for each in behind)]
    with server_process(command, folder / "embedded.log") as process:
        wait_until(lambda: why_not_answering(port), "the embedded gateway", START_S_MAX)
        yield Subject("Noctule, embedded", port, (process.pid,))


@contextmanager
def haproxy(folder: Path, behind: Sequence[Subject]) -> Iterator[Subject]:
    """HAProxy, one thread."""
    (port,) = free_ports(HOST, 1, avoid=set())
    servers = "\n".join(f"    server s{each.port} {HOST}:{each.port} pool-max-conn {KEEPALIVE}" for each in behind)
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, servers=servers))
    with server_process([program("haproxy"), "-db", "-f", str(config)], folder / "haproxy.log") as process:
        wait_until(lambda: why_not_answering(port), "HAProxy", START_S_MAX)
        yield Subject("HAProxy", port, (process.pid,))


@contextmanager
def nginx(folder: Path, behind: Sequence[Subject]) -> Iterator[Subject]:
    """nginx, one worker, whose time counts together with its master's."""
    (port,) = free_ports(HOST, 1, avoid=set())
    servers = "\n".join(f"        server {HOST}:{each.port};" for each in behind)
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(port=port, servers=servers, folder=folder, keepalive=KEEPALIVE))
    command = [program("nginx"), "-c", str(config), "-p", str(folder)]
    with server_process(command, folder / "nginx.log") as process:
        wait_until(lambda: why_not_answering(port), "nginx", START_S_MAX)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield Subject("nginx", port, (process.pid, *map(int, children)))


def program(name: str) -> str:
    """The path of an engine; Debian keeps them where a user's PATH does not look."""
    found = shutil.which(name) or shutil.which(name, path=_SBIN)
    if found is None:
        raise ConfigError(f"{name} is not installed; run make engines")
    return found


def why_not_answering(port: int) -> str:
    """Empty once it answers 200."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/", timeout=1) as answer:
            answer.read()
    except OSError as error:
        return str(error)
    return ""
