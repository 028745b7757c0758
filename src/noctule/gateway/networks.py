"""Networks of addresses: who is believed, who is of this machine."""

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks as they are written in settings; `ValueError` for what is neither."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def is_in(address: str | None, networks: Iterable[Network]) -> bool:
    """Whether an address is in one of the networks; what is no address is in none.

    An IPv4 address that came in IPv6's clothes counts as what it is.
    """
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return any((mapped or found) in network for network in networks)
