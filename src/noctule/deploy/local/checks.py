"""What can be known of this machine before anything is started: the data folder and the ports."""

import os
import random
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from noctule.adapters.files import LOCK_NAME, DirectoryLock, load_json, lock_directory, write_json_atomically
from noctule.adapters.ports import check_port_free
from noctule.base.errors import ConfigError, StorageError
from noctule.deploy.local.plan import CLUSTER_FILE, ClusterFile, UpConfig, WantedPort, cluster_file_for, node_data_dir
from noctule.node.data_folder import OWNER_FILE
from noctule.node.peer_folders import load_peer_folders

FREE_PORTS_VARIABLE = "NOCTULE_FREE_PORTS"
"""In the environment: ``first-last``, the ports to choose from, for those who start clusters on one machine at once."""

_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_PORT_MIN = 10_000
_ATTEMPTS_MAX = 1_000


def claim_data_dir(config: UpConfig) -> tuple[DirectoryLock, ClusterFile]:
    """Make the data folder if it is missing, keep others out of it, and give the cluster whose data it holds.

    The lock is the caller's to release. Raises `ConfigError` when the folder cannot be made or written, is in use by
    another ``noctule up``, or holds another cluster than `config` asks for; then nothing is locked.
    """
    directory = config.data_dir
    try:
        (directory / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from None
    try:
        lock = lock_directory(directory)
    except StorageError as error:
        raise _unusable(directory, error.__cause__ or error) from None
    except ConfigError:
        raise ConfigError(
            f"another noctule up (pid {_holder(directory)}) is running on the data folder {directory}: "
            "stop it, or choose another --data-dir"
        ) from None
    try:
        stored = load_json(directory / CLUSTER_FILE)
        cluster = cluster_file_for(config, stored, secrets.token_hex(4))
        if stored is None or cluster != msgspec.convert(stored, ClusterFile):
            write_json_atomically(directory / CLUSTER_FILE, cluster)
    except StorageError as error:
        lock.release()
        raise ConfigError(f"{error}; or choose another --data-dir") from None
    except BaseException:
        lock.release()
        raise
    return lock, cluster


def record_left(config: UpConfig, number: int) -> None:
    """Write down that this node has left for good. Raises `StorageError`."""
    path = config.data_dir / CLUSTER_FILE
    write_json_atomically(path, msgspec.convert(load_json(path), ClusterFile).without(number))


def new_nodes(config: UpConfig, cluster: ClusterFile) -> set[int]:
    """The nodes that have not been let in yet."""
    numbers = [number for number in cluster.numbers if number > cluster.founding]
    return {number for number in numbers if not (node_data_dir(config, number) / OWNER_FILE).exists()}


def lost_nodes(config: UpConfig, cluster: ClusterFile) -> set[int]:
    """The founders whose data folder is gone: others have met them. None when all are, for that is a new cluster.

    Raises `ConfigError` when what a node remembers of the others cannot be read.
    """
    folders = {node: node_data_dir(config, node) for node in cluster.numbers if node <= cluster.founding}
    gone = {node for node, folder in folders.items() if not (folder / OWNER_FILE).exists()}
    try:
        known = {peer for node in folders.keys() - gone for peer in load_peer_folders(folders[node])}
    except StorageError as error:
        raise ConfigError(str(error)) from None
    return gone & known


def check_ports_free(wanted: list[WantedPort]) -> None:
    """Raise `ConfigError` naming each port that cannot be listened on, why, and the flag that changes it."""
    problems = [
        f"port {port.port} on {port.host} for {port.whose} cannot be used: {reason}; "
        f"stop what uses it, or choose another {port.flag}"
        for port in wanted
        if (reason := _listen_problem(port.host, port.port))
    ]
    if problems:
        raise ConfigError("; ".join(problems))


def free_ports(host: str, count: int, *, avoid: set[int]) -> Iterator[int]:
    """Give `count` different ports that are free on `host` now.

    They lie below the range from which the system takes ports for outgoing connections. From within it, a stopped
    node's port could be taken by anybody's connection, and a node that dials a stopped peer of its own machine could
    even be connected to itself. Nobody else is kept from them until they are used: see `FREE_PORTS_VARIABLE`.
    """
    choices = _port_choices()
    given = set(avoid)
    chance = random.SystemRandom()
    for _ in range(count):
        for _ in range(_ATTEMPTS_MAX):
            port = chance.choice(choices)
            if port not in given and not _listen_problem(host, port):
                break
        else:
            raise ConfigError(f"found no free port on {host} in {_ATTEMPTS_MAX} tries; name ports, or another --host")
        given.add(port)
        yield port


def _port_choices() -> range:
    told = os.environ.get(FREE_PORTS_VARIABLE)
    if told is None:
        return range(_PORT_MIN, _ephemeral_port_min())
    first, _, last = told.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 1 << 16):
        raise ConfigError(f"{FREE_PORTS_VARIABLE} is {told!r}: give the first and the last port, as in 20000-20999")
    return range(int(first), int(last) + 1)


def _ephemeral_port_min() -> int:
    try:
        first = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768  # Linux' default, ip(7).
    return first if first > _PORT_MIN + _ATTEMPTS_MAX else 32_768


def _listen_problem(host: str, port: int) -> str:
    """Why nothing can listen there; empty when it can."""
    try:
        check_port_free(host, port)
    except OSError as error:
        return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return ""


def _unusable(directory: Path, error: BaseException) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ConfigError(f"the data folder {directory} cannot be used: {reason}; choose another --data-dir")


def _holder(directory: Path) -> str:
    try:
        return (directory / LOCK_NAME).read_text().strip() or "unknown"
    except OSError:
        return "unknown"
