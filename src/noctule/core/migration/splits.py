"""A partition that is being divided: the record of it. The child stands in the map without slots until that is done."""

from msgspec import Struct


class Split(Struct, frozen=True):
    """One split on its way; there is no record of it once it is finished or given up."""

    child: int
    """The partition that will be, by whose id the split is known."""
    parent: int
    at_slot: int
    """The child's first slot; the parent keeps what is below."""
    reason: str = ""
    begun_ms: int = 0
