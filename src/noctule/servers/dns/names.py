"""What a name below the domain asks for, and the names that answers are made of. Consul's scheme, as of 1.8.

``[tag.]<service>.service``, ``_<service>._<tag, or tcp>.service``, ``<node>.node``, ``<hexadecimal>.addr``; each also
with the datacenter behind it. What lies between such a name and the domain exists without records: who walks down
label by label (RFC 9156), or takes NXDOMAIN for everything below (RFC 8020), must be able to pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

import dns.name

LABEL_BYTES_MAX = 63
_KINDS = ("service", "node", "addr")


@dataclass(frozen=True, slots=True)
class AskedService:
    """The healthy instances of a service."""

    name: str
    tag: str = ""
    """Only those with it; empty for all."""


@dataclass(frozen=True, slots=True)
class AskedNode:
    """One node."""

    name: str


@dataclass(frozen=True, slots=True)
class AskedAddress:
    """The address that the name itself says."""

    address: IPv4Address | IPv6Address


class Apex:
    """The domain itself."""


class Between:
    """A name without records that has others below it."""


class Nothing:
    """A name that cannot be there."""


Asked: TypeAlias = AskedService | AskedNode | AskedAddress | Apex | Between | Nothing


def parse_labels(labels: Sequence[bytes], datacenter: str) -> Asked:
    """What is asked for by the labels before the domain, the leftmost first. Names come in lower case."""
    words = [label.lower().decode("utf-8", "replace") for label in labels]
    if not words:
        return Apex()
    if words[-1] == datacenter.lower():
        words.pop()
        if not words:
            return Between()
    kind, rest = words[-1], words[:-1]
    if kind not in _KINDS:
        return Nothing()
    if not rest:
        return Between()
    if kind == "node":
        return AskedNode(".".join(rest))
    if kind == "addr":
        return _parse_address(rest)
    return _parse_service(rest)


def _parse_service(words: list[str]) -> Asked:
    *before, name = words
    if len(before) == 1 and before[0].startswith("_") and name.startswith("_"):
        tag = name[1:]
        return AskedService(before[0][1:], "" if tag == "tcp" else tag)
    if not before and name.startswith("_"):
        return Between()
    return AskedService(name, ".".join(before))


def _parse_address(words: list[str]) -> Asked:
    if len(words) == 1 and len(words[0]) in (8, 32):
        try:
            return AskedAddress(ip_address(bytes.fromhex(words[0])))
        except ValueError:
            pass
    return Nothing()


def node_name(node: str, datacenter: str, domain: dns.name.Name) -> dns.name.Name | None:
    """The name under which a node is found; None for one that no name can be made of."""
    return _name([*node.split("."), "node", datacenter], domain)


def address_name(address: IPv4Address | IPv6Address, datacenter: str, domain: dns.name.Name) -> dns.name.Name | None:
    """The name that says an address, for an instance that does not serve at its node's."""
    return _name([address.packed.hex(), "addr", datacenter], domain)


def host_name(text: str) -> dns.name.Name | None:
    """A host name from the registry as an absolute name; None for what is none."""
    return _name(text.removesuffix(".").split("."), dns.name.root)


def parse_ip(text: str) -> IPv4Address | IPv6Address | None:
    """The address that the text is; None for anything else, such as a host name."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A zone such as %eth0 means something to one machine only.
    return None if isinstance(address, IPv6Address) and address.scope_id else address


def _name(words: list[str], domain: dns.name.Name) -> dns.name.Name | None:
    labels = [word.encode("utf-8", "replace") for word in words]
    if not all(0 < len(label) <= LABEL_BYTES_MAX for label in labels):
        return None
    try:
        return dns.name.Name([*labels, *domain.labels])
    except dns.name.NameTooLong:
        return None
