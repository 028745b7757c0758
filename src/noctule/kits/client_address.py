"""Whose request it is, by address: forwarding headers are believed only from proxies that were named."""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from noctule.base.errors import ConfigError
from noctule.kits.asgi import Headers, header_values

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

IPV6_PREFIX = 64
"""What one customer is given at least (RFC 6177): who has one address of it has them all."""


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses or networks such as 10.0.0.0/8. Raises `ConfigError` naming what is neither."""
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise ConfigError(f"trusted_proxies: {error}; give addresses or networks such as 10.0.0.0/8") from None


def client_address(peer: str | None, headers: Headers, trusted: Sequence[Network]) -> Address | None:
    """The client's address: the peer's, or what trusted proxies say, read from the right while each hop is trusted.

    None where there is none, as behind a Unix socket. What an untrusted hop claims to have come from is not looked at.
    """
    address = _parse(peer or "")
    hops = [hop for value in header_values(headers, b"x-forwarded-for") for hop in value.decode("latin-1").split(",")]
    while hops and address is not None and any(address in network for network in trusted):
        claimed = _parse(hops.pop().strip())
        if claimed is None:
            break  # The proxy itself is the last hop that is known.
        address = claimed
    return address


def subject_of(address: Address) -> str:
    """What is counted together: an IPv4 address, or an IPv6 network of one customer."""
    if isinstance(address, ipaddress.IPv6Address):
        network = ipaddress.ip_network((address, IPV6_PREFIX), strict=False)
        return f"ip:{network.network_address}/{IPV6_PREFIX}"
    return f"ip:{address}"


def _parse(text: str) -> Address | None:
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]  # An IPv4 address with its port, as some proxies write it.
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
