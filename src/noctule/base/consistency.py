"""How fresh a read must be: the one name for it in the store, at its doors, in the client and on the command line."""

from enum import StrEnum


class ConsistencyLevel(StrEnum):
    """What a read must see; writes do not heed it."""

    LINEARIZABLE = "linearizable"
    """Every write acknowledged before the read began: the leader confirms itself by a ReadIndex round."""
    STRONG = "strong"
    """As linearizable while clocks keep the pace that leases rest on; without a lease, exactly so."""
    EVENTUAL = "eventual"
    """What the asked node's own replica has applied; never older than what it had before."""
