"""A snapshot on its way to a follower, chunk by chunk (Raft paper, figure 13)."""

from noctule.base.ids import Instant
from noctule.core.raft.membership import Membership


class IncomingSnapshot:
    """How far it has come. The chunks themselves are on their way to the disk and into the state that waits there."""

    __slots__ = ("count", "heard_at", "index", "membership", "saved", "taken", "term")

    def __init__(self, index: int, term: int, count: int, membership: Membership, now: Instant) -> None:
        self.index = index
        self.term = term
        self.count = count
        self.membership = membership
        """As of `index`: what the first chunk holds."""
        self.taken = 0
        """Chunks that came, in order."""
        self.saved = 0
        """Those of them that are in the file; only so many are acknowledged, which bounds what waits for the disk."""
        self.heard_at = now
        """When anything of it last came."""

    @property
    def is_complete(self) -> bool:
        """Whether the last one has come: until it is durable no other snapshot is taken."""
        return self.taken == self.count
