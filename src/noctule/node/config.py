"""The settings of a node: `ClusterConfig`, equal on all nodes, and `NodeConfig`, of one process.

Plain values and what must hold between them. Where they come from is told in config_sources.py; nothing else reads
the environment or a settings file.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from noctule.base.addresses import bracketed
from noctule.base.bounds import PARTITIONS_MAX
from noctule.base.errors import ConfigError
from noctule.core.wire.frames import PROTOCOL_VERSION
from noctule.node.settings import Labels, Setting, Voters, about, settings_of

NODE_ID_MAX = 65_535
PORT_MAX = 65_535
CLUSTER_PORT_ABOVE = 400
"""What resp_cluster_port is above resp_port unless it is named."""
DNS_PORT_ABOVE = 52
"""What dns_port is above http_port unless it is named: 7553 on the first node of `noctule up`."""
DOMAIN_CHARS_MAX = 100
"""Of dns_domain: a name has at most 255, and services need some of them."""
_DOMAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?")
WILDCARD_HOSTS = ("0.0.0.0", "::", "[::]")
"""Addresses to listen on that nobody can connect to."""


class Problem(NamedTuple):
    """One thing that is wrong."""

    field: str
    sentence: str
    """Begins with the name of the setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """What all nodes of a cluster must agree on; `fingerprint` is compared when two of them meet."""

    name: str = field(
        default="noctule",
        metadata=about(
            "The name of the cluster; nodes of another name are refused, and so is another cluster's data.",
            reason="One cluster needs no other name.",
            danger="Two clusters of one name may be wired together by a wrong address.",
            flag="cluster",
        ),
    )
    voters: Voters = field(
        default_factory=dict,
        metadata=about(
            "Every node and where its peers find it: `1@host:port,2@host:port`, `1:port` for this host, or a plain "
            "`host:port` list that gives the ids from 1 in its order.",
            reason="Without it the node is a cluster of its own.",
            danger="An even number bears no more losses than the odd number below it.",
        ),
    )
    partition_count: int = field(
        default=16,
        metadata=about(
            "Into how many Raft groups the 16,384 slots are divided.",
            reason="Enough to spread leaders over a few nodes; each costs memory and a part of every batch.",
            danger="Heeded when the cluster is first started; afterwards partitions split and merge.",
            low=1,
            high=PARTITIONS_MAX,
            flag="partitions",
        ),
    )
    replication_factor: int = field(
        default=3,
        metadata=about(
            "How many nodes hold a copy of each partition, as far as there are nodes.",
            reason="Three copies bear the loss of one.",
            danger="Heeded when the cluster is first started; later `noctule cluster set` changes it.",
            low=1,
            high=7,
        ),
    )
    migrations_concurrent_max: int = field(
        default=3,
        metadata=about(
            "How many partitions may be on their way to another node at a time.",
            reason="Each takes a part of the disks and the network.",
            danger="Heeded when the cluster is first started; later `noctule cluster set` changes it and the next two.",
            low=1,
            high=1_000,
            flag="max_concurrent_migrations",
        ),
    )
    migration_chunk_bytes: int = field(
        default=1 << 20,
        metadata=about(
            "How much of a snapshot travels in one message.",
            reason="Some milliseconds of a network.",
            unit="bytes",
            low=64 << 10,
            high=8 << 20,
            flag="migration_chunk_size",
        ),
    )
    migration_timeout_s: float = field(
        default=30.0,
        metadata=about(
            "A migration that gets no further for so long goes back.",
            reason="Longer than any pause of a healthy node.",
            unit="s",
            low=1,
            high=3_600,
            flag="migration_timeout",
        ),
    )
    lease_ms: int = field(
        default=0,
        metadata=about(
            "How long a node that heard a leader promises to elect no other, so that the leader may answer `strong` "
            "reads alone; 0: no promises, and `strong` reads ask a majority as all others do.",
            reason="With a lease a leader that was killed is replaced so much later.",
            danger="A node whose clock runs more than 5% slower than the others' while it leads may answer `strong` "
            "reads from the past. At least two heartbeats and at most the shortest election timeout.",
            unit="ms",
            low=0,
            high=60_000,
        ),
    )
    durability: str = field(
        default="quorum",
        metadata=about(
            "When a write is acknowledged: `quorum`, once a quorum of nodes has synced it to disk; `leader`, once the "
            "leader of its partition has, if the answer does not depend on what was there (SET, SETEX, PSETEX, MSET).",
            reason="It then survives the loss of any minority.",
            danger="With `leader` a write that was acknowledged is gone if its leader dies, or is cut off, before "
            "another node has it.",
            choices=("quorum", "leader"),
        ),
    )
    protocol: int = PROTOCOL_VERSION
    """Of the frames between nodes; belongs to the program and is no setting."""

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ when anything that must be equal differs; empty on a node that joined.

        The addresses are left out: a node may reach a peer by another name than its neighbour does.
        """
        if not self.voters:
            return ""
        facts = [self.name, sorted(self.voters), self.partition_count, self.lease_ms, self.protocol]
        if self.durability != "quorum":  # An earlier release knows no other, and does not say so.
            facts.append(self.durability)
        return hashlib.blake2b(msgspec.json.encode(facts), digest_size=8).hexdigest()

    def agreed(self) -> dict[str, str]:
        """What a node that joins must be told, since it is equal on all nodes for as long as the cluster lives."""
        return {"partitions": str(self.partition_count), "lease_ms": str(self.lease_ms), "durability": self.durability}

    @classmethod
    def joined(cls, name: str, agreed: Mapping[str, str]) -> "ClusterConfig":
        """The settings of a node that joined a cluster with these."""
        return cls(
            name=name,
            voters={},
            partition_count=int(agreed["partitions"]),
            lease_ms=int(agreed["lease_ms"]),
            durability=agreed["durability"],
        )

    def problems(self) -> list[Problem]:
        """Everything that is wrong; empty when it can be used."""
        found = _range_problems(self, CLUSTER_SETTINGS)
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.name):
            found.append(Problem("name", f"name {self.name!r} must be 1 to 64 letters, digits, dots, dashes, _"))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """The settings of one node. A directory or host that is left empty is filled in from its neighbour."""

    cluster: ClusterConfig
    node_id: int = field(
        default=1,
        metadata=about(
            "Which of the peers this node is.",
            reason="A node without peers is the first.",
            danger="Two running nodes with one id: the second is refused, and so is a data folder of another id.",
            low=1,
            high=NODE_ID_MAX,
        ),
    )
    host: str = field(
        default="127.0.0.1",
        metadata=about(
            "The address that all ports listen on.",
            reason="Nobody but this machine reaches a node that was started to be tried out.",
            danger="On 0.0.0.0 whoever reaches the machine reads and writes everything.",
        ),
    )
    resp_port: int = field(
        default=7401,
        metadata=about(
            "Where Redis clients connect; 0: the system chooses.",
            reason="The first node of `noctule up`.",
            unit="port",
            low=0,
            high=65_535,
        ),
    )
    resp_cluster_port: int = field(
        default=-1,
        metadata=about(
            "Where clients of Redis Cluster connect: answers for the slots this node leads, and MOVED for the others; "
            "0: the system chooses. When left out, resp_port and 400 more; 0 if that is 0.",
            reason="7801 on the first node of `noctule up`.",
            unit="port",
            low=-1,
            high=65_535,
        ),
    )
    resp_announce_host: str = field(
        default="",
        metadata=about(
            "The host that CLUSTER, MOVED and SENTINEL tell clients for this node's Redis ports; when left out, the "
            "advertised host.",
            reason="Clients and nodes are in one network.",
            danger="Clients follow what they are told: behind NAT or a published port of a container they need the "
            "outer address here, and none other works.",
        ),
    )
    resp_announce_port: int = field(
        default=0,
        metadata=about(
            "The port told for resp_port; 0: that itself.",
            reason="As for resp_announce_host.",
            unit="port",
            low=0,
            high=65_535,
        ),
    )
    resp_cluster_announce_port: int = field(
        default=0,
        metadata=about(
            "The port told for resp_cluster_port; 0: that itself.",
            reason="As for resp_announce_host.",
            unit="port",
            low=0,
            high=65_535,
        ),
    )
    resp_strict_slots: bool = field(
        default=False,
        metadata=about(
            "Answer CROSSSLOT on resp_port, too, to a command on keys of several slots, as a Redis Cluster does.",
            reason="MGET, MSET, DEL, EXISTS, UNLINK and TOUCH work on any keys; they are atomic in each partition and "
            "not across.",
            danger="Programs that were written for one Redis may need keys of several slots.",
        ),
    )
    sentinel_service: str = field(
        default="noctule",
        metadata=about(
            "The name of the master that clients of Redis Sentinel ask resp_port for; the cluster's name does as well.",
            reason="The name of a cluster that was given none.",
        ),
    )
    http_port: int = field(
        default=7501,
        metadata=about(
            "Where the HTTP API answers; 0: the system chooses.",
            reason="The first node of `noctule up`.",
            unit="port",
            low=0,
            high=65_535,
        ),
    )
    peer_port: int = field(
        default=7601,
        metadata=about(
            "Where the other nodes connect; when left out, the port of this node in the list of peers.",
            reason="The first node of `noctule up`.",
            danger="The other nodes dial what their list of peers says, whatever stands here; "
            "0 suits a node without peers only.",
            unit="port",
            low=0,
            high=65_535,
        ),
    )
    control_port: int = field(
        default=7701,
        metadata=about(
            "Where nodes that join, and other nodes' calls, connect (gRPC); 0: the system chooses.",
            reason="The first node of `noctule up`.",
            unit="port",
            low=0,
            high=65_535,
        ),
    )
    dns_enabled: bool = field(
        default=True,
        metadata=about(
            "Answer DNS for the services and nodes of the registry.",
            reason="It is how HAProxy, and whatever cannot be taught HTTP, finds them.",
            danger="Whoever reaches the port learns which services there are and where.",
        ),
    )
    dns_port: int = field(
        default=-1,
        metadata=about(
            "Where DNS answers, by UDP and TCP; 0: the system chooses. When left out, http_port and 52 more; 0 if that "
            "is 0.",
            reason="7553 on the first node of `noctule up`.",
            unit="port",
            low=-1,
            high=65_535,
        ),
    )
    dns_domain: str = field(
        default="consul",
        metadata=about(
            "The domain whose names DNS answers, as `web.service.consul`.",
            reason="Consul's, so that what was set up for it goes on.",
            danger="A name that others use too: their names are no longer found where this node is asked first.",
        ),
    )
    dns_ttl_s: int = field(
        default=0,
        metadata=about(
            "How long resolvers may keep an answer of DNS, also that there is none.",
            reason="An answer is made from memory, and an older one may name an instance that is gone.",
            danger="For so long clients are sent to instances that are not healthy any more.",
            unit="s",
            low=0,
            high=86_400,
        ),
    )
    dns_only_passing: bool = field(
        default=False,
        metadata=about(
            "Leave instances with a check in warning out of the answers of DNS.",
            reason="They still serve; SRV gives them the weight that they have for this case.",
            danger="A warning on all instances at once takes the whole service away.",
        ),
    )
    dns_prefer_local: bool = field(
        default=False,
        metadata=about(
            "Name instances on this node first, then those of nodes with the same `zone`; otherwise the order is drawn "
            "for each answer.",
            reason="Where one node is asked for many machines, all of them would be sent to its own instances.",
            danger="Clients that take the first answer never use the others while the near ones are healthy.",
        ),
    )
    labels: Labels = field(
        default_factory=dict,
        metadata=about(
            "Where the node is, as `zone=a,rack=r1,host=h7`: no two replicas of a partition are put into one host, "
            "rack or zone while another has room. `host` is the advertised host when it is left out.",
            reason="One machine needs none.",
            danger="Two nodes on one machine with different hosts: its loss takes two replicas at once.",
        ),
    )
    weight: float = field(
        default=1.0,
        metadata=about(
            "The node's share of replicas beside the others'; 0 takes none.",
            reason="Equal machines.",
            low=0,
            high=1_000,
        ),
    )
    join: str = field(
        default="",
        metadata=about(
            "Join the cluster of the node whose control port is at this `host:port`, with an id of its choice; "
            "with a data folder that has joined it changes nothing.",
            reason="Nodes that are named as peers from the first start need not join.",
        ),
    )
    token: str = field(
        default="",
        repr=False,
        metadata=about(
            "What `noctule cluster token` of that cluster printed.",
            reason="Nobody joins by accident.",
            danger="Whoever has it can add a node that sees everything.",
        ),
    )
    advertise_host: str = field(
        default="",
        metadata=about(
            "The address that is told to others as this node's; when left out, the host.",
            reason="On one machine both are the same.",
            danger="Clients that ask where nodes are get an address that does not lead there.",
        ),
    )
    data_dir: Path = field(
        default=Path("noctule-data"),
        metadata=about(
            "The folder that holds everything of this node; made if it is missing.",
            reason="Beside noctule.toml, so that it is found.",
            danger="A folder lost together with a majority of the others is data lost. Never put back an old copy.",
        ),
    )
    wal_dir: Path = field(
        default=Path(),
        metadata=about(
            "The folder of the write-ahead log; when left out, `wal` in the data folder.",
            reason="One folder is easier to keep than two.",
            danger="Belongs to the data folder: naming another one without its files stops the node from starting, "
            "and a disk that is not mounted there is taken for a lost log.",
        ),
    )
    rejoin: bool = field(
        default=False,
        metadata=about(
            "This node was here before and has lost its data folder: in an empty one it has no vote until the others "
            "have taken it back and given it what it lacks. With a data folder that it has written it changes nothing.",
            reason="A node cannot tell an emptied folder from a first start; whoever emptied it can.",
            danger="On most nodes of a new cluster, or of one that lost most of its disks: none of them ever votes.",
        ),
    )
    tls_ca: Path = field(
        default=Path(),
        metadata=about(
            "The certificate of the CA that signs those of all nodes, in PEM; with it peers and control speak TLS 1.3, "
            "and both sides show a certificate. Needs tls_cert and tls_key.",
            reason="Nodes of one machine or of a private network speak plainly.",
            danger="Some nodes with and some without it do not hear each other.",
        ),
    )
    tls_cert: Path = field(
        default=Path(),
        metadata=about(
            "This node's certificate, in PEM, which names the cluster: `noctule cluster certs` makes one. Read anew "
            "for the next connection after it was renewed.",
            reason="As for tls_ca.",
            danger="Once it has expired nobody connects any more, while connections that stand go on.",
        ),
    )
    tls_key: Path = field(
        default=Path(),
        metadata=about(
            "The private key of that certificate, in PEM and without a password.",
            reason="As for tls_ca.",
            danger="Whoever reads it can speak as a node of the cluster.",
        ),
    )
    compress_snapshots: bool = field(
        default=False,
        metadata=about(
            "Compress the pieces of snapshots that this node sends to others, if they are of 4 KiB or more.",
            reason="On a fast network it takes longer than what it spares; under 20 MiB/s it pays for data that "
            "compress well (ADR 0019).",
            danger="Takes a millisecond or more of the event loop for each piece.",
        ),
    )
    heartbeat_ms: int = field(
        default=50,
        metadata=about(
            "Between two heartbeats of a leader.",
            reason="Several fit into the shortest election timeout.",
            danger="More than a third of the shortest election timeout is refused.",
            unit="ms",
            low=1,
            high=10_000,
        ),
    )
    election_timeout_ms_min: int = field(
        default=400,
        metadata=about(
            "How long a leader may be silent before another node may want to lead; the shortest wait drawn.",
            reason="A garbage collection or a busy disk must not look like a death. A closed connection is noticed "
            "at once and does not wait for it.",
            danger="Too small for the network: elections without a cause.",
            unit="ms",
            low=3,
            high=60_000,
        ),
    )
    election_timeout_ms_max: int = field(
        default=800,
        metadata=about(
            "The longest such wait.",
            reason="Twice the shortest, so that two nodes rarely want to lead at once.",
            danger="A narrow range splits votes.",
            unit="ms",
            low=4,
            high=120_000,
        ),
    )
    snapshot_entries: int = field(
        default=20_000,
        metadata=about(
            "Entries of one partition after which its state is written out and the log before it dropped.",
            reason="A few seconds of a busy partition.",
            danger="Large: a long log and a slow start. Small: the disk is busy with snapshots.",
            unit="entries",
            low=10,
            high=10_000_000,
        ),
    )
    segment_bytes_max: int = field(
        default=64 << 20,
        metadata=about(
            "Size of one file of the write-ahead log; made full of zeroes beforehand.",
            reason="Seconds of writing at full speed; whole files are dropped once snapshots cover them.",
            danger="Two are always there, so it is also twice the least disk space.",
            unit="bytes",
            low=64 << 10,
            high=1 << 30,
        ),
    )
    request_deadline_s: float = field(
        default=10.0,
        metadata=about(
            "How long a command may wait for a leader and a quorum before it is answered with an error.",
            reason="Longer than any election, shorter than most clients' patience.",
            danger="Shorter than an election: every change of leader becomes an error.",
            unit="s",
            low=0.1,
            high=600,
        ),
    )
    check_update_interval_s: float = field(
        default=300.0,
        metadata=about(
            "How long a health check may say something else, with the same status, before the registry is told; "
            "up to half of it sooner, by chance. 0: at once. A status is told at once always.",
            reason="As Consul's: what a check prints often differs each time, and wakes all who watch.",
            unit="s",
            low=0,
            high=86_400,
        ),
    )
    log_level: str = field(
        default="info",
        metadata=about(
            "The level from which on events are logged.",
            reason="What changes is told, and what every request brings is not.",
            choices=("debug", "info", "warning", "error"),
        ),
    )
    die_with_parent: bool = field(
        default=False,
        metadata=about(
            "Have the kernel end this node when the process that started it ends.",
            reason="Only a supervisor wants that.",
            danger="Started from a terminal or a script, the node ends with it.",
        ),
    )

    def __post_init__(self) -> None:
        # A frozen dataclass is filled in this way; nobody has seen it yet.
        if self.resp_cluster_port == -1:
            port = self.resp_port + CLUSTER_PORT_ABOVE if self.resp_port else 0
            object.__setattr__(self, "resp_cluster_port", port if port <= PORT_MAX else 0)
        if self.dns_port == -1:
            port = self.http_port + DNS_PORT_ABOVE if self.http_port else 0
            object.__setattr__(self, "dns_port", port if port <= PORT_MAX else 0)
        if self.wal_dir == Path():
            object.__setattr__(self, "wal_dir", self.data_dir / "wal")
        if not self.advertise_host:
            object.__setattr__(self, "advertise_host", bracketed(self.host))
        object.__setattr__(self, "resp_announce_host", bracketed(self.resp_announce_host) or self.advertise_host)

    @classmethod
    def tiny(cls, data_dir: Path, cluster: ClusterConfig, *, node_id: int = 1) -> "NodeConfig":
        """Settings for tests: ports of the system's choice, and bounds that little work reaches."""
        return cls(
            cluster=cluster,
            node_id=node_id,
            data_dir=data_dir,
            resp_port=0,
            resp_cluster_port=0,
            http_port=0,
            peer_port=0,
            control_port=0,
            dns_port=0,
            snapshot_entries=20,
            segment_bytes_max=64 << 10,
            request_deadline_s=2.0,
        )

    def problems(self) -> list[Problem]:
        """Everything that is wrong, the cluster's settings included; empty when a node can be started."""
        found = self.cluster.problems() + _range_problems(self, NODE_SETTINGS)
        voters = self.cluster.voters
        if not voters and not self.join:
            found.append(Problem("voters", "peers must name at least one node"))
        if bool(self.join) != bool(self.token):
            found.append(Problem("token", "join and token belong together: both are needed to join a cluster"))
        if self.join and not self.peer_port:
            found.append(
                Problem("peer_port", "peer_port 0 cannot be told to the others before this node joins: name one")
            )
        if voters and self.node_id not in voters:
            known = ", ".join(map(str, sorted(voters)))
            found.append(Problem("node_id", f"node_id {self.node_id} is none of the peers, which are {known}"))
        ports = (
            self.resp_port,
            self.resp_cluster_port,
            self.http_port,
            self.peer_port,
            self.control_port,
            self.dns_port if self.dns_enabled else 0,
        )
        chosen = [port for port in ports if port]
        if len(set(chosen)) < len(chosen):
            names = (
                "resp_port {}, resp_cluster_port {}, http_port {}, peer_port {}, control_port {} and dns_port {} must "
                "differ"
            )
            sentence = names.format(*ports)
            found.append(Problem("http_port", sentence))
        for name in ("advertise_host", "resp_announce_host"):
            told = getattr(self, name)
            if told in WILDCARD_HOSTS and (name == "advertise_host" or told != self.advertise_host):
                found.append(Problem(name, f"{name} {told} is no address to connect to: name one"))
        if len(self.dns_domain) > DOMAIN_CHARS_MAX or not _DOMAIN.fullmatch(self.dns_domain):
            sentence = f"dns_domain {self.dns_domain!r} must be labels of letters, digits and dashes with dots between"
            found.append(Problem("dns_domain", f"{sentence}, at most {DOMAIN_CHARS_MAX} characters"))
        if not re.fullmatch(r"[!-~]{1,64}", self.sentinel_service):
            sentence = f"sentinel_service {self.sentinel_service!r} must be 1 to 64 characters without spaces"
            found.append(Problem("sentinel_service", sentence))
        given = [name for name in ("tls_ca", "tls_cert", "tls_key") if getattr(self, name) != Path()]
        if 0 < len(given) < 3:
            sentence = f"tls_ca, tls_cert and tls_key belong together, and there is only {' and '.join(given)}"
            found.append(Problem(given[0], sentence))
        shortest, longest = self.election_timeout_ms_min, self.election_timeout_ms_max
        lease = self.cluster.lease_ms
        if lease and not 2 * self.heartbeat_ms <= lease <= shortest:
            sentence = f"lease_ms {lease} must be 0, or at least two heartbeat_ms and at most election_timeout_ms_min"
            found.append(Problem("lease_ms", sentence))
        if self.heartbeat_ms * 3 > shortest:
            sentence = f"election_timeout_ms_min {shortest} must be at least three times heartbeat_ms"
            found.append(Problem("election_timeout_ms_min", sentence))
        if longest < shortest * 1.2:
            sentence = f"election_timeout_ms_max {longest} must be at least 1.2 times election_timeout_ms_min"
            found.append(Problem("election_timeout_ms_max", sentence))
        return found

    def validate(self) -> None:
        """Raise `ConfigError` with every problem in one line."""
        found = self.problems()
        if found:
            raise ConfigError("config: " + "; ".join(problem.sentence for problem in found))


def _range_problems(config: ClusterConfig | NodeConfig, settings: list[Setting]) -> list[Problem]:
    found = []
    for setting in settings:
        value = getattr(config, setting.field)
        if problem := setting.range_problem(value):
            found.append(Problem(setting.field, f"{setting.key} {value!r} {problem}"))
    return found


CLUSTER_SETTINGS = settings_of("cluster", ClusterConfig, {"voters": "peers", "partition_count": "partitions"})
"""Those of the table ``[cluster]``, in the order of the fields."""

NODE_SETTINGS = settings_of("node", NodeConfig)
"""Those of the table ``[node]``."""
