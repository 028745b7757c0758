"""How a balancer is to treat its instances, handed in with every change."""

from dataclasses import dataclass
from enum import StrEnum

FAILURES_IN_A_ROW_MAX = 3
"""So many failed requests, or failed probes, one after the other make an instance unhealthy, unless told otherwise."""

UNHEALTHY_S = 30.0
"""How long an unhealthy instance gets nothing, unless told otherwise; after that, one trial request at a time."""


class Algorithm(StrEnum):
    """How an instance is chosen for a request."""

    LEAST_CONNECTIONS = "least-connections"
    """The fewest requests in flight for its weight; of equals in turns."""
    ROUND_ROBIN = "round-robin"
    """In turns, as often as its weight says."""
    CONSISTENT_HASH = "consistent-hash"
    """By a key of the request; when an instance comes or goes, about 1/N of the keys move."""
    IP_HASH = "ip-hash"
    """By the client's address, as consistently."""

    @property
    def is_hash(self) -> bool:
        """Whether it needs a key."""
        return self in _HASHES


_HASHES = frozenset((Algorithm.CONSISTENT_HASH, Algorithm.IP_HASH))


@dataclass(frozen=True, slots=True)
class BalancerRules:
    """Times in seconds; 0 turns off what has a bound of 0."""

    algorithm: Algorithm = Algorithm.LEAST_CONNECTIONS
    failures_max: int = FAILURES_IN_A_ROW_MAX
    """0: only probes take an instance out."""
    unhealthy_s: float = UNHEALTHY_S
    slow_start_s: float = 0.0
    connections_max: int = 0
    """Requests in flight at one instance."""
