"""Runs one instance of an app: the process behind ``noctule instance APP``.

Order of starting: the port is taken, the app imported, its lifespan started, connections accepted, one line of JSON on
stdout. Order of stopping, on SIGTERM or SIGINT: not ready; a pause in which the balancer notices; no new connections;
requests under way end; the app's lifespan ends; exit 0.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import uvicorn
import uvloop
from redis.asyncio import Redis

from noctule.base.errors import ConfigError
from noctule.deploy.local.json_log import log_json_lines
from noctule.deploy.local.load_app import load_app
from noctule.kits.health import CHECK_TIMEOUT_S, Check, Health
from noctule.kits.store import connect

KEEP_ALIVE_S = 75
"""An idle connection is kept this long: longer than a balancer keeps it, so that the balancer closes first."""

CONNECTIONS_MAX = 1024
"""Open connections of one instance; a request beyond them is answered 503."""

_PR_SET_PDEATHSIG = 1  # prctl(2)

log = logging.getLogger("noctule.instance")


@dataclass(frozen=True, slots=True)
class InstanceConfig:
    """How one instance is to run."""

    app: str
    """``module:attribute`` of an ASGI app, importable from the working directory."""
    id: str = "web-1"
    """Its name among the instances: the X-Noctule-Instance header, and INSTANCE_ID for the app."""
    host: str = "127.0.0.1"
    """The address to listen on. Danger: 0.0.0.0 lets clients pass the gateway by."""
    port: int = 8000
    """0: the system chooses, and the line on stdout tells."""
    drain_delay_ms: int = 1000
    """How long it is not ready but still accepts, so that whoever balances notices before the door is shut."""
    drain_timeout_s: int = 30
    """How long requests under way may take to end; those that take longer are cancelled."""
    die_with_parent: bool = False
    """Stop as by SIGTERM when the process that started this one ends in any way (Linux only)."""

    def validate(self) -> None:
        """Raise `ConfigError` naming every problem at once."""
        problems = []
        if not self.id or not self.id.isascii() or not self.id.isprintable() or " " in self.id:
            problems.append(f"--id {self.id!r} must be printable ASCII without spaces")
        if not 0 <= self.port <= 65_535:
            problems.append(f"--port {self.port} must be between 0 and 65535")
        if not 0 <= self.drain_delay_ms <= 600_000:
            problems.append(f"--drain-delay-ms {self.drain_delay_ms} must be between 0 and 600000")
        if not 0 <= self.drain_timeout_s <= 3600:
            problems.append(f"the drain timeout {self.drain_timeout_s} must be between 0 and 3600 seconds")
        if problems:
            raise ConfigError("instance: " + "; ".join(problems))


def run_instance(config: InstanceConfig) -> int:
    """Serve the app until SIGTERM or SIGINT, and give the exit code: 0 after an orderly stop.

    Blocks; for the main thread of a process of its own. The app finds INSTANCE_ID and PORT in its environment. When
    NOCTULE_STORE_URL is there, readiness includes a PING of that store. Once it serves, one line goes to stdout:
    ``{"event":"instance_serving","id":…,"host":…,"port":…,"pid":…}``; logs go to stderr as JSON lines.

    Raises `ConfigError`, in one line, for everything that keeps it from serving; nothing is left running then.
    """
    config.validate()
    log_json_lines()
    # uvicorn's sentences about starting and stopping say what our events say.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    if config.die_with_parent:
        _die_with_parent()
    with _bind(config.host, config.port) as listener:
        os.environ["INSTANCE_ID"] = config.id
        os.environ["PORT"] = str(listener.getsockname()[1])
        app = load_app(config.app)
        store_url = os.environ.get("NOCTULE_STORE_URL")
        store = connect(store_url, answer_timeout_s=CHECK_TIMEOUT_S, connections_max=1) if store_url else None
        checks: dict[str, Check] = {"store": store.ping} if store else {}
        health = Health(app, checks, instance_id=config.id)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, health, store, listener))
    log.info("instance_stopped", extra={"id": config.id})
    return 0


async def _serve(config: InstanceConfig, health: Health, store: Redis | None, listener: socket.socket) -> None:
    server = _Server(
        uvicorn.Config(
            health,
            loop="uvloop",
            http="httptools",
            ws="websockets-sansio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=config.drain_timeout_s,
        ),
        on_serving=lambda: _announce(config, listener),
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # A second signal changes nothing: Ctrl-C reaches a whole process group, whose leader then sends SIGTERM too.
        loop.add_signal_handler(number, stop.set)
    drainer = asyncio.create_task(_stop_in_order(config, stop, health, server), name="instance-drain")
    try:
        await server.serve(sockets=[listener])
    except SystemExit:
        # uvicorn's way to say that the lifespan did not start; the app's words were logged and kept.
        reason = health.startup_failure or "see the log"
        raise ConfigError(f"app {config.app!r} failed at startup: {reason}") from None
    except OSError as error:
        raise _cannot_listen(config.host, config.port, error) from None
    finally:
        drainer.cancel()
        await asyncio.wait([drainer])
        if store:
            await store.aclose()


async def _stop_in_order(config: InstanceConfig, stop: asyncio.Event, health: Health, server: uvicorn.Server) -> None:
    await stop.wait()
    health.begin_draining()
    log.info("instance_draining", extra={"id": config.id, "delay_ms": config.drain_delay_ms})
    # Not a wait for a condition: the delay is the promise made to the balancer.
    await asyncio.sleep(config.drain_delay_ms / 1000)
    log.info("instance_stopping", extra={"id": config.id, "requests": len(server.server_state.tasks)})
    server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves the signals to us and says when it serves."""

    def __init__(self, config: uvicorn.Config, on_serving: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_serving = on_serving

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: uvicorn's handlers would shut the door at once."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell; uvicorn leaves by SystemExit when the lifespan does not start."""
        await super().startup(sockets)
        self._on_serving()


def _announce(config: InstanceConfig, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    serving = {"id": config.id, "host": config.host, "port": port, "pid": os.getpid()}
    log.info("instance_serving", extra=serving)
    sys.stdout.write(msgspec.json.encode({"event": "instance_serving", **serving}).decode() + "\n")
    sys.stdout.flush()


def _bind(host: str, port: int) -> socket.socket:
    """Take the port, so that a clash is told before the app is imported; nobody can connect yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(host, port, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from None
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigError:
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another --port or --host")


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent ends (prctl(2), PR_SET_PDEATHSIG)."""
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise ConfigError(f"this system cannot end with its parent: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        raise ConfigError("the process that started this instance has already ended")
