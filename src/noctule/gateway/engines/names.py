"""Names of instances become addresses here: nginx refuses a whole config for one name that it cannot resolve, and
HAProxy resolves none of the servers that come while it runs.

A name is looked up whenever something changes, and not between.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Iterable

from msgspec import structs

from noctule.gateway.engines.engine import Instances

LOOKUP_S_MAX = 5.0
"""A name that has no answer by then is left out."""

log = logging.getLogger("noctule.gateway")


async def resolved(instances: Instances) -> Instances:
    """The same with addresses for names; an instance whose name nobody knows is left out, and told."""
    names = {each.host for found in instances.values() for each in found if not _is_address(each.host)}
    if not names:
        return instances
    addresses = await _look_up(names)
    for service, found in instances.items():
        for each in found:
            if each.host in names and each.host not in addresses:
                log.warning("instance_unresolvable", extra={"service": service, "instance": each.id})
    return {
        service: [
            structs.replace(each, host=addresses.get(each.host, each.host))
            for each in found
            if each.host not in names or each.host in addresses
        ]
        for service, found in instances.items()
    }


async def _look_up(names: Iterable[str]) -> dict[str, str]:
    asked = {name: asyncio.ensure_future(_address(name)) for name in names}
    _, late = await asyncio.wait(asked.values(), timeout=LOOKUP_S_MAX)
    for each in late:
        each.cancel()
    return {name: each.result() for name, each in asked.items() if each not in late and each.result()}


async def _address(name: str) -> str:
    """Empty when nobody knows it."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ""
    # Of a name with addresses of both kinds: what listens on one kind only listens on IPv4.
    found.sort(key=lambda each: each[0] != socket.AF_INET)
    return str(found[0][4][0])


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
