"""What one instance knows of revocations, and how old that may be; pure.

Entries are forgotten when no access token that they concern can be alive. A check looks at four tables in memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from noctule.kits.jwt.claims import LOG_START, AccessToken, position_number
from noctule.kits.oauth2.opaque import digest_of

Position = tuple[int, int]

Entry = tuple[str, str, str]
"""Position, kind and id, as `Grants.follow` gives them."""


@dataclass(slots=True)
class ShardRevocations:
    """The revocations of one shard, in the order of its log."""

    cursor: str = LOG_START
    fresh_at: float = float("-inf")
    """The log had nothing behind the cursor at this time of the instance's clock, or later."""
    _families: dict[str, float] = field(default_factory=dict)
    _tokens: dict[str, float] = field(default_factory=dict)
    _subjects: dict[str, tuple[Position, float]] = field(default_factory=dict)
    _all: Position = (0, 0)

    def apply(self, entries: Iterable[Entry], now: float, keep_s: float, *, is_reset: bool) -> None:
        """Take in what was read; a second time changes nothing. After a reset the cursor begins anew, and what is known
        stays known: forgetting would let somebody in."""
        if is_reset:
            self.cursor = LOG_START
        for position, kind, what in entries:
            self.cursor = position
            at = position_number(position)
            if kind == "family":
                self._families.setdefault(what, now + keep_s)
            elif kind == "jti":
                self._tokens.setdefault(what, now + keep_s)
            elif kind == "subject":
                known = self._subjects.pop(what, None)
                self._subjects[what] = (max(at, known[0]) if known else at, now + keep_s)
            elif kind == "all":
                # Whatever was revoked before it is older than it, so it stands for all of that.
                self._all = max(self._all, at)
                self._families.clear()
                self._tokens.clear()
                self._subjects.clear()
        self._forget(now)

    def refuses(self, token: AccessToken) -> bool:
        """Whether a token of this shard is revoked, as far as is known here."""
        if token.family in self._families or token.id in self._tokens:
            return True
        known = self._subjects.get(digest_of("subject", token.subject)) if self._subjects else None
        if known is None and self._all == (0, 0):
            return False
        issued = position_number(token.position)
        return self._all > issued or (known is not None and known[0] > issued)

    def __len__(self) -> int:
        return len(self._families) + len(self._tokens) + len(self._subjects)

    def _forget(self, now: float) -> None:
        # Each table is in the order in which its entries expire.
        for table in (self._families, self._tokens):
            while table and (first := next(iter(table))) and table[first] <= now:
                del table[first]
        while self._subjects and (first := next(iter(self._subjects))) and self._subjects[first][1] <= now:
            del self._subjects[first]
