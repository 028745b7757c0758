"""From the wish for a local cluster to everything that is to run, before anything does.

Pure: ports that the system chooses, the name's suffix and what cluster.json holds are handed in. Read checks.py next,
which looks at this machine, and then cluster.py, which carries the plan out.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from noctule.base.addresses import bracketed, join_address
from noctule.base.bounds import PARTITIONS_MAX
from noctule.base.errors import ConfigError

FORMAT = 1
"""Of the data folder."""

NODES_MAX = 99
INSTANCES_MAX = 99

CLUSTER_PORT_ABOVE = 400
"""What the bases of RESP's two ports differ by unless both are named."""

DNS_PORT_ABOVE = 52
"""What the bases of DNS and HTTP differ by unless both are named, for as many nodes as that leaves room for."""
DNS_NODES_MAX = 48

CLUSTER_FILE = "cluster.json"
TOKEN_VARIABLE = "NOCTULE_TOKEN"

_WILDCARD_HOSTS = ("0.0.0.0", "::")
_APP = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpConfig:
    """What ``noctule up`` is asked for."""

    app: str | None = None
    """``module:attribute`` of an ASGI app; without it only the nodes run."""
    nodes: int = 3
    """Danger: with one or two the loss of any is the loss of the store's service."""
    instances: int = 3
    port: int = 8080
    """Of the gateway; 0: the system chooses. The same for the bases."""
    host: str = "127.0.0.1"
    """Where the gateway listens. Nodes and instances are on it too, unless it is every address of the machine: then
    they stay on 127.0.0.1, for they let in whoever comes."""
    data_dir: Path = Path(".noctule")
    partitions: int = 16
    resp_port_base: int = 7400
    """Node i has this port plus i."""
    http_port_base: int = 7500
    peer_port_base: int = 7600
    control_port_base: int = 7700
    resp_cluster_port_base: int = -1
    """When left out, 400 above that of RESP; 0 where that is 0."""
    sticky: bool = False
    """The gateway gives clients a cookie that brings them back to their instance."""
    dns_port_base: int = -1
    """When left out, 52 above that of HTTP; 0 where that is 0, or more than 48 nodes would meet each other's ports."""

    def __post_init__(self) -> None:
        if self.resp_cluster_port_base == -1:
            # A frozen dataclass is filled in this way; nobody has seen it yet.
            base = self.resp_port_base + CLUSTER_PORT_ABOVE if self.resp_port_base else 0
            object.__setattr__(self, "resp_cluster_port_base", base if base <= 65_535 - self.nodes else 0)

        if self.dns_port_base == -1:
            base = self.http_port_base + DNS_PORT_ABOVE if self.http_port_base and self.nodes <= DNS_NODES_MAX else 0
            object.__setattr__(self, "dns_port_base", base if base <= 65_535 - self.nodes else 0)

    @property
    def inner_host(self) -> str:
        """Where nodes and instances listen."""
        return "127.0.0.1" if self.host in _WILDCARD_HOSTS else self.host

    def validate(self) -> None:
        """Raise `ConfigError` naming every problem at once."""
        problems = []
        for flag, value, low, high in (
            ("--nodes", self.nodes, 1, NODES_MAX),
            ("--instances", self.instances, 1, INSTANCES_MAX),
            ("--partitions", self.partitions, 1, PARTITIONS_MAX),
            ("--port", self.port, 0, 65_535),
            ("--resp-port-base", self.resp_port_base, 0, 65_535 - self.nodes),
            ("--http-port-base", self.http_port_base, 0, 65_535 - self.nodes),
            ("--peer-port-base", self.peer_port_base, 0, 65_535 - self.nodes),
            ("--control-port-base", self.control_port_base, 0, 65_535 - self.nodes),
            ("--resp-cluster-port-base", self.resp_cluster_port_base, 0, 65_535 - self.nodes),
            ("--dns-port-base", self.dns_port_base, 0, 65_535 - self.nodes),
        ):
            if not low <= value <= high:
                problems.append(f"{flag} {value} must be from {low} to {high}")
        if self.app is not None and not _APP.fullmatch(self.app):
            problems.append(f"app {self.app!r} is not of the form module:attribute, as in main:app")
        if not re.fullmatch(r"[A-Za-z0-9._:-]+", self.host):
            problems.append(f"--host {self.host!r} must be an IP address or a host name")
        taken: dict[int, str] = {}
        for wanted in wanted_ports(self) if not problems else []:
            if wanted.port in taken:
                problems.append(f"port {wanted.port} is wanted by both {taken[wanted.port]} and {wanted.flag}")
            taken[wanted.port] = wanted.flag
        if problems:
            raise ConfigError("; ".join(problems))


class ClusterFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """What cluster.json says of the cluster whose data the folder holds."""

    cluster: str
    nodes: int
    """How many belong to it."""
    partitions: int
    """With which it was formed."""
    format: int
    founders: int = 0
    """Numbers 1 to this were there at the first start, the others joined; 0: all of them were."""
    left: tuple[int, ...] = ()
    """The numbers of nodes that have left for good; they are not used again."""

    @property
    def founding(self) -> int:
        """How many nodes were there at the first start."""
        return self.founders or self.nodes

    @property
    def numbers(self) -> list[int]:
        """Of the nodes that belong to it, ascending."""
        return [number for number in range(1, self.nodes + len(self.left) + 1) if number not in self.left]

    def without(self, number: int) -> "ClusterFile":
        """The same once that node has left for good."""
        left = tuple(sorted({*self.left, number}))
        return msgspec.structs.replace(self, founders=self.founding, nodes=self.nodes - 1, left=left)


@dataclass(frozen=True, slots=True)
class WantedPort:
    """A port that was asked for by number."""

    host: str
    port: int
    flag: str
    """What to change when it cannot be had."""
    whose: str


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """One process to start."""

    name: str
    """Also of its log."""
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    """Added to that of the supervisor; may hold the app's secret."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node."""

    id: int
    host: str
    resp_port: int
    http_port: int
    peer_port: int
    control_port: int
    resp_cluster_port: int
    dns_port: int
    data_dir: Path
    process: ProcessPlan
    joins: bool = False
    """It was not there at the first start: it is let in by a token, once, and starts after those that were."""

    @property
    def url(self) -> str:
        """Of its HTTP API."""
        return f"http://{join_address(self.host, self.http_port)}"


@dataclass(frozen=True, slots=True)
class InstancePlan:
    """One instance of the app."""

    id: str
    host: str
    port: int
    process: ProcessPlan


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole local cluster."""

    cluster: str
    service: str
    """The app's name in the registry; empty without an app."""
    data_dir: Path
    gateway_host: str
    gateway_port: int
    nodes: tuple[NodePlan, ...]
    instances: tuple[InstancePlan, ...]
    is_sticky: bool = False

    @property
    def log_dir(self) -> Path:
        """Where every process has its log."""
        return self.data_dir / "logs"


def cluster_file_for(config: UpConfig, stored: object, suffix: str) -> ClusterFile:
    """The cluster of this data folder: what is stored there, or a new one whose name ends in `suffix`.

    `stored` is the content of cluster.json, None at the first start. Raises `ConfigError` when it is not that of a
    cluster, or of one with another number of partitions or with more nodes; with fewer, those that lack will join it.
    """
    if stored is None:
        return ClusterFile(f"local-{suffix}", config.nodes, config.partitions, FORMAT)
    path = config.data_dir / CLUSTER_FILE
    try:
        found = msgspec.convert(stored, ClusterFile)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path} cannot be used ({error}); restore it, or choose another --data-dir") from None
    if found.format != FORMAT:
        raise ConfigError(
            f"the data folder {config.data_dir} has format {found.format}, and this version reads {FORMAT}: "
            "use the version that wrote it, or choose another --data-dir"
        )
    if config.partitions != found.partitions or config.nodes < found.nodes:
        fewer = "; noctule cluster leave takes nodes out while it runs" if config.nodes < found.nodes else ""
        raise ConfigError(
            f"the data folder {config.data_dir} holds cluster {found.cluster} with {found.nodes} nodes and "
            f"{found.partitions} partitions, not {config.nodes} and {config.partitions}: "
            f"start it with --nodes {found.nodes} --partitions {found.partitions}, or choose another --data-dir{fewer}"
        )
    grown = msgspec.structs.replace(found, nodes=config.nodes, founders=found.founding)
    if grown.numbers[-1] > grown.founding and not (config.peer_port_base and config.control_port_base):
        raise ConfigError(
            "nodes that join need ports that stay: give --peer-port-base and --control-port-base other values than 0"
        )
    return found if grown.nodes == found.nodes else grown


def wanted_ports(config: UpConfig, numbers: Sequence[int] = ()) -> list[WantedPort]:
    """Every port that must be free before anything starts; those that the system chooses are not among them.

    `numbers` are those of the nodes, from 1 on unless given.
    """
    numbers = numbers or range(1, config.nodes + 1)
    wanted = []
    if config.app is not None and config.port:
        wanted.append(WantedPort(config.host, config.port, "--port", "the gateway"))
    for flag, base, door in (
        ("--resp-port-base", config.resp_port_base, "RESP"),
        ("--http-port-base", config.http_port_base, "HTTP"),
        ("--peer-port-base", config.peer_port_base, "peers"),
        ("--control-port-base", config.control_port_base, "control"),
        ("--resp-cluster-port-base", config.resp_cluster_port_base, "RESP, cluster"),
        ("--dns-port-base", config.dns_port_base, "DNS"),
    ):
        if base:
            wanted += [WantedPort(config.inner_host, base + i, flag, f"node {i} ({door})") for i in numbers]
    return wanted


def gateway_url(host: str, port: int) -> str:
    """Where the app is served; by the machine's own address where the gateway listens on all of them."""
    return f"http://{join_address({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host), port)}"


def with_gateway_port(config: UpConfig, free_ports: Iterator[int]) -> UpConfig:
    """The same with a port for the gateway, if the system is to choose one: instances are told where it will listen
    before it does. Takes one of `free_ports` for it, which are free on the gateway's host."""
    return config if config.app is None or config.port else replace(config, port=next(free_ports))


def free_ports_count(config: UpConfig, cluster: ClusterFile) -> int:
    """How many ports the system has to choose for `make_plan`."""
    instances = config.instances if config.app is not None else 0
    return len(_numbered(cluster)) * _bases(config).count(0) + instances


def node_data_dir(config: UpConfig, node_id: int) -> Path:
    """The data folder of one node."""
    return config.data_dir / f"node-{node_id}"


def make_plan(
    config: UpConfig,
    cluster: ClusterFile,
    free_ports: Iterator[int],
    python: str,
    lost: Collection[int] = (),
    app_environment: Mapping[str, str] | None = None,
) -> Plan:
    """Lay out the cluster. `python` is the interpreter that has this package; `free_ports` gives `free_ports_count`.

    `lost` are the nodes whose data folder was there and is gone; `app_environment` is for each instance.
    """
    host = config.inner_host
    bases = _bases(config)
    ports = {number: [base + number if base else next(free_ports) for base in bases] for number in _numbered(cluster)}
    founders = range(1, cluster.founding + 1)
    peers = ",".join(f"{number}@{join_address(host, ports[number][2])}" for number in founders)
    # Through the first one that is there whoever joins is let in.
    door = join_address(host, ports[cluster.numbers[0]][3])
    nodes = tuple(
        _node_plan(
            config,
            python,
            number=number,
            ports=ports[number],
            cluster={"--cluster": cluster.cluster, "--peers": peers} if number in founders else {"--join": door},
            is_lost=number in lost,
        )
        for number in cluster.numbers
    )
    count = config.instances if config.app is not None else 0
    instances = tuple(
        _instance_plan(config, nodes, next(free_ports), python, number=i, shared=app_environment or {})
        for i in range(1, count + 1)
    )
    return Plan(
        cluster=cluster.cluster,
        service=_service_name(config.app) if config.app is not None else "",
        data_dir=config.data_dir,
        gateway_host=config.host,
        gateway_port=config.port,
        nodes=nodes,
        instances=instances,
        is_sticky=config.sticky,
    )


def _bases(config: UpConfig) -> tuple[int, ...]:
    return (
        config.resp_port_base,
        config.http_port_base,
        config.peer_port_base,
        config.control_port_base,
        config.resp_cluster_port_base,
        config.dns_port_base,
    )


def _numbered(cluster: ClusterFile) -> list[int]:
    """The nodes that have ports: those that are there, and the founders, by whom the others know the cluster."""
    return sorted({*cluster.numbers, *range(1, cluster.founding + 1)})


def _service_name(app: str) -> str:
    """The innermost module whose name says something: ``board`` of ``shop.board.app:app``."""
    modules = app.partition(":")[0].split(".")
    return next((name for name in reversed(modules) if name not in ("app", "main", "asgi")), modules[-1])


def _node_plan(
    config: UpConfig, python: str, *, number: int, ports: list[int], cluster: dict[str, str], is_lost: bool
) -> NodePlan:
    resp_port, http_port, peer_port, control_port, resp_cluster_port, dns_port = ports
    data_dir = node_data_dir(config, number)
    joins = "--join" in cluster
    # Whatever must differ between nodes is a flag, so that noctule.toml and the environment can set only the rest.
    flags: dict[str, Any] = {
        **({} if joins else {"--node-id": number}),
        **cluster,
        "--partitions": config.partitions,
        "--host": config.inner_host,
        "--advertise-host": bracketed(config.inner_host),
        "--resp-port": resp_port,
        "--http-port": http_port,
        "--peer-port": peer_port,
        "--control-port": control_port,
        "--resp-cluster-port": resp_cluster_port,
        "--dns-port": dns_port,
        "--data-dir": data_dir,
        "--wal-dir": data_dir / "wal",
    }
    switches = ("--rejoin",) if is_lost else ()
    # Only one that is not in yet shows its token; that there is one at all is wanted of each that joins.
    environment = {TOKEN_VARIABLE: "used"} if joins else {}
    process = ProcessPlan(f"node-{number}", (*_command(python, "node", flags), *switches), environment)
    return NodePlan(
        number,
        config.inner_host,
        resp_port,
        http_port,
        peer_port,
        control_port,
        resp_cluster_port,
        dns_port,
        data_dir,
        process,
        joins=joins,
    )


def _instance_plan(
    config: UpConfig,
    nodes: tuple[NodePlan, ...],
    port: int,
    python: str,
    *,
    number: int,
    shared: Mapping[str, str],
) -> InstancePlan:
    name = f"web-{number}"
    # The gateway has turned away before an instance is told to stop, so nobody is left to be given notice.
    flags: dict[str, Any] = {"--id": name, "--host": config.inner_host, "--port": port, "--drain-delay-ms": 0}
    first = (number - 1) % len(nodes)
    preferred = [*nodes[first:], *nodes[:first]]
    environment = {
        **shared,
        "INSTANCE_ID": name,
        "PORT": str(port),
        "NOCTULE_STORE_URL": f"redis://{','.join(join_address(node.host, node.resp_port) for node in preferred)}/0",
        "NOCTULE_NODE": preferred[0].url,
        "NOCTULE_PLAIN_HTTP": "1",  # The gateway of a local cluster has no certificate; cookies must not demand one.
        "NOCTULE_REGISTRY_URL": ",".join(node.url for node in preferred),
    }
    process = ProcessPlan(name, _command(python, "instance", flags, str(config.app)), environment)
    return InstancePlan(name, config.inner_host, port, process)


def _command(python: str, verb: str, flags: dict[str, Any], *arguments: str) -> tuple[str, ...]:
    words = [str(word) for flag_and_value in flags.items() for word in flag_and_value]
    return (python, "-m", "noctule", verb, *arguments, *words, "--die-with-parent")
