"""The records of the domain, as the registry is now: a question in, records out.

Pure: the registry, chance and who serves are handed in. Answers come from this node's own replica, so they may be as
old as that is; a node without a quorum goes on answering.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
from dns.rdataclass import IN
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.HINFO import HINFO
from dns.rdtypes.ANY.NS import NS
from dns.rdtypes.ANY.SOA import SOA
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from dns.rdtypes.IN.SRV import SRV

from noctule.core.registry.objects import RegistryNode
from noctule.core.registry.registry import Registry
from noctule.servers.dns.healthy import FoldedNames, Healthy, HealthyInstances
from noctule.servers.dns.names import (
    Apex,
    AskedAddress,
    AskedNode,
    AskedService,
    Between,
    address_name,
    host_name,
    node_name,
    parse_ip,
    parse_labels,
)

SERVERS_MAX = 8
"""Name servers told of."""

PRIORITY = 1
"""Of each SRV record, as Consul's: whom to take is said by the weights."""

_REFRESH_S, _RETRY_S, _EXPIRE_S = 3_600, 600, 86_400  # For secondaries, which there are none of; Consul's values.
_TXT_STRING_BYTES_MAX = 255
_PLAIN_PREFIX = "rfc1035-"


class Record(NamedTuple):
    """One record."""

    name: dns.name.Name
    data: dns.rdataset.Rdataset
    """With itself alone, so that a message can be cut between any two records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneSettings:
    """How the domain answers."""

    domain: dns.name.Name
    """Absolute."""
    datacenter: str
    node: str
    """The name in the registry of the node that answers."""
    zone: str = ""
    """Its label; empty for none."""
    ttl_s: int = 0
    """Of every record, also of the answer that there is none."""
    only_passing: bool = False
    """Leave out instances with a check in warning."""
    prefer_local: bool = False
    """Instances on the answering node come first, then those of its zone; without it all are shuffled."""


@dataclass(slots=True)
class Found:
    """What there is."""

    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    answer: list[Record] = field(default_factory=list)
    authority: list[Record] = field(default_factory=list)
    additional: list[Record] = field(default_factory=list)
    is_partial: bool = False
    """Whether there were more answers than were asked for."""


class Zone:
    """Answers questions about names in the domain."""

    def __init__(
        self,
        settings: ZoneSettings,
        registry: Callable[[], Registry],
        servers: Callable[[], Sequence[str]],
        chance: random.Random,
    ) -> None:
        """`servers` gives the names of the nodes that answer for the domain, that of this node among them."""
        self._settings = settings
        self._registry = registry
        self._servers = servers
        self._chance = chance
        self._service_names = FoldedNames("services", lambda registry: registry.by_name)
        self._node_names = FoldedNames("nodes", lambda registry: registry.nodes)
        self._healthy = HealthyInstances(registry, only_passing=settings.only_passing)

    def contains(self, name: dns.name.Name) -> bool:
        """Whether the name is in the domain."""
        return name.is_subdomain(self._settings.domain)

    def find(self, name: dns.name.Name, kind: RdataType, answers_max: int) -> Found:
        """The records of that type, in the order in which they are to be tried; at most so many answers.

        Where there are none, the authority section holds the SOA: with NXDOMAIN when the name is not there, or is a
        service of which no instance is healthy. ANY is answered with as little as RFC 8482 allows. The name must be in
        the domain.
        """
        labels = name.relativize(self._settings.domain).labels
        asked = parse_labels(labels, self._settings.datacenter)
        match asked:
            case AskedService():
                found = self._find_service(name, kind, asked, answers_max)
            case AskedNode():
                found = self._find_node(name, kind, asked.name)
            case AskedAddress():
                address = self._address(name, asked.address)
                found = Found(answer=[address] if address.data.rdtype == kind else [])
            case Apex():
                found = self._find_apex(name, kind)
            case Between():
                found = Found()
            case _:
                found = Found(dns.rcode.NXDOMAIN)
        if kind == dns.rdatatype.ANY and found.rcode == dns.rcode.NOERROR and not found.answer:
            found.answer = [self._record(name, HINFO(IN, dns.rdatatype.HINFO, b"RFC8482", b""))]
        if not found.answer:
            found.authority = [self._soa()]
        return found

    # Services --------------------------------------------------------------------------------------------------------

    def _find_service(self, name: dns.name.Name, kind: RdataType, asked: AskedService, answers_max: int) -> Found:
        service = self._service_names.find(self._registry(), asked.name)
        healthy = self._healthy.of(service) if service is not None else []
        if asked.tag:
            below = f".{asked.tag}"
            is_between = any(tag.endswith(below) for each in healthy for tag in each.tags)
            healthy = [each for each in healthy if asked.tag in each.tags]
            if not healthy and is_between:
                return Found()
        if not healthy:
            return Found(dns.rcode.NXDOMAIN)
        if kind == dns.rdatatype.SRV:
            return self._services(name, healthy, answers_max)
        if all(each.ip is None for each in healthy):
            # A name that has a CNAME can have nothing else, and only one of them.
            alias = host_name(self._chance.choice(healthy).host)
            return Found(answer=[self._alias(name, alias)] if alias is not None else [])
        version = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}.get(kind)
        hosts = {each.host: each for each in healthy if each.ip is not None and each.ip.version == version}
        chosen = self._choose(list(hosts.values()), answers_max)
        answer = [self._address(name, each.ip) for each in chosen if each.ip is not None]
        return Found(answer=answer, is_partial=len(hosts) > answers_max)

    def _services(self, name: dns.name.Name, healthy: list[Healthy], answers_max: int) -> Found:
        places = {(each.instance.address or each.node.name, each.instance.port): each for each in healthy}
        found = Found(is_partial=len(places) > answers_max)
        addresses: dict[dns.name.Name, IPv4Address | IPv6Address] = {}
        for each in self._choose(list(places.values()), answers_max):
            target = self._target(each)
            if target is not None:
                record = SRV(IN, dns.rdatatype.SRV, PRIORITY, each.weight, each.instance.port, target)
                found.answer.append(self._record(name, record))
                if each.ip is not None:
                    addresses[target] = each.ip
        found.additional = [self._address(target, ip) for target, ip in addresses.items()]
        return found

    def _target(self, healthy: Healthy) -> dns.name.Name | None:
        """The name of its node, of its own address, or its host name."""
        settings = self._settings
        if healthy.ip is None:
            return host_name(healthy.host)
        own = None
        if not healthy.instance.address:
            own = node_name(healthy.node.name, settings.datacenter, settings.domain)
        return own or address_name(healthy.ip, settings.datacenter, settings.domain)

    def _choose(self, healthy: list[Healthy], count: int) -> list[Healthy]:
        """At most so many: the nearer ones first where that is wanted, and those equally near by chance."""
        groups = [healthy]
        if self._settings.prefer_local:
            groups = [[], [], []]
            for each in healthy:
                groups[self._distance(each.node)].append(each)
        chosen: list[Healthy] = []
        for group in groups:
            chosen += self._chance.sample(group, min(len(group), count - len(chosen)))
        return chosen

    def _distance(self, node: RegistryNode) -> int:
        """0 for this node, 1 for one of its zone, 2 for any other."""
        settings = self._settings
        is_near = settings.zone != "" and node.meta.get("zone") == settings.zone
        return 0 if node.name == settings.node else 1 if is_near else 2

    # Nodes and the domain itself -------------------------------------------------------------------------------------

    def _find_node(self, name: dns.name.Name, kind: RdataType, folded: str) -> Found:
        registry = self._registry()
        node = registry.nodes.get(self._node_names.find(registry, folded) or "")
        if node is None:
            return Found() if self._node_names.is_between(folded) else Found(dns.rcode.NXDOMAIN)
        ip = parse_ip(node.address)
        if ip is None:
            target = host_name(node.address)
            return Found(answer=[self._alias(name, target)] if target else [])
        if kind == dns.rdatatype.TXT:
            texts = [_text(key, value) for key, value in sorted(node.meta.items())]
            return Found(answer=[self._record(name, TXT(IN, dns.rdatatype.TXT, text)) for text in texts])
        address = self._address(name, ip)
        return Found(answer=[address] if address.data.rdtype == kind else [])

    def _find_apex(self, name: dns.name.Name, kind: RdataType) -> Found:
        if kind == dns.rdatatype.SOA:
            return Found(answer=[self._soa()])
        if kind != dns.rdatatype.NS:
            return Found()
        found = Found()
        for server in self._servers()[:SERVERS_MAX]:
            target = node_name(server, self._settings.datacenter, self._settings.domain)
            node = self._registry().nodes.get(server)
            ip = parse_ip(node.address) if node is not None else None
            if target is not None:
                found.answer.append(self._record(name, NS(IN, dns.rdatatype.NS, target)))
                if ip is not None:
                    found.additional.append(self._address(target, ip))
        return found

    def _soa(self) -> Record:
        settings = self._settings
        primary = node_name(settings.node, settings.datacenter, settings.domain) or settings.domain
        hostmaster = dns.name.Name([b"hostmaster", *settings.domain.labels])
        serial = self._registry().index & 0xFFFFFFFF
        times = (_REFRESH_S, _RETRY_S, _EXPIRE_S, settings.ttl_s)
        return self._record(settings.domain, SOA(IN, dns.rdatatype.SOA, primary, hostmaster, serial, *times))

    def _alias(self, name: dns.name.Name, target: dns.name.Name) -> Record:
        return self._record(name, CNAME(IN, dns.rdatatype.CNAME, target))

    def _address(self, name: dns.name.Name, address: IPv4Address | IPv6Address) -> Record:
        return self._record(name, _address_record(address))

    def _record(self, name: dns.name.Name, record: dns.rdata.Rdata) -> Record:
        return Record(name, self._data(record))

    def _data(self, record: dns.rdata.Rdata) -> dns.rdataset.Rdataset:
        return dns.rdataset.from_rdata(self._settings.ttl_s, record)


def _address_record(address: IPv4Address | IPv6Address) -> A | AAAA:
    if isinstance(address, IPv4Address):
        return A(IN, dns.rdatatype.A, str(address))
    return AAAA(IN, dns.rdatatype.AAAA, str(address))


def _text(key: str, value: str) -> list[bytes]:
    """A pair of a node's meta as strings of a TXT record (RFC 1464); keys with ``rfc1035-`` show their value alone."""
    text = value if key.lower().startswith(_PLAIN_PREFIX) else f"{_escaped(key)}={value}"
    data = text.encode("utf-8", "replace")
    return [data[start : start + _TXT_STRING_BYTES_MAX] for start in range(0, max(len(data), 1), _TXT_STRING_BYTES_MAX)]


def _escaped(key: str) -> str:
    return key.replace("`", "``").replace("=", "`=")
