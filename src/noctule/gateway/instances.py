"""One instance of a service, wherever it was named: in the model, in the registry, or by the supervisor."""

import re
from enum import StrEnum

from msgspec import Struct

from noctule.base.addresses import join_address
from noctule.core.balance.balancer import WEIGHT_MAX

_STATIC = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]*/]+):(?P<port>\d{1,5})(\*(?P<weight>\d{1,4}))?")


class Standing(StrEnum):
    """What is said of an instance by whoever lists it; its health as seen from here is another thing."""

    SERVING = "serving"
    """It may get requests."""
    DRAINING = "draining"
    """Nothing new, as in maintenance."""
    CRITICAL = "critical"
    """It leaves at once, though no other be there."""


class Instance(Struct, frozen=True):
    """Where it is, and how much it takes."""

    id: str
    """Unique within its service."""
    host: str
    port: int
    weight: int = 1
    standing: Standing = Standing.SERVING

    @property
    def address(self) -> str:
        """host:port, an IPv6 host in brackets."""
        return join_address(self.host, self.port)


def parse_instance(text: str) -> Instance:
    """``host:port`` or ``host:port*weight``, an IPv6 address in brackets; the id is host:port. `ValueError` if not."""
    found = _STATIC.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} must be host:port or host:port*weight, an IPv6 address in brackets")
    port, weight = int(found["port"]), int(found["weight"] or 1)
    if not 1 <= port <= 65_535:
        raise ValueError(f"{text!r} has port {port}; it must be 1 to 65535")
    if not 1 <= weight <= WEIGHT_MAX:
        raise ValueError(f"{text!r} has weight {weight}; it must be 1 to {WEIGHT_MAX}")
    return Instance(f"{found['host']}:{port}", found["host"].strip("[]"), port, weight)
