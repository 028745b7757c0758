"""A snapshot on its way to a follower, chunk by chunk (Raft paper, figure 13)."""


class IncomingSnapshot:
    """The bytes so far, in order. `saving` from when the last one has come: until it is durable no other is taken."""

    __slots__ = ("data", "index", "saving", "term", "total")

    def __init__(self, index: int, term: int, total: int) -> None:
        self.index = index
        self.term = term
        self.total = total
        self.data = bytearray()
        self.saving = False

    def take(self, offset: int, data: bytes) -> bool:
        """Add a chunk if it is the next one; True once, when the last one came."""
        if self.saving or offset != len(self.data) or offset + len(data) > self.total:
            return False
        self.data += data
        self.saving = len(self.data) == self.total
        return self.saving
