"""Which keys were watched, and whether they have been changed since. No part of the data, and not replicated.

A WATCH draws a token and reads each key with it (``NOCTULE.FINGERPRINT key token``): the state that answers notes the
token at the key, and the first change of the key, whatever it is, breaks it. So the EXEC that brings a broken one is
known to come too late, though the value may be what it was. Of a token that is not known here (there is another leader
by now, or there were too many) nothing is said, and the fingerprint alone decides.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

WATCHES_BYTES_MAX: Final = 32 * 1024 * 1024
"""What a state remembers: over it, the oldest are forgotten. Bytes of keys, with WATCH_COST_BYTES for each token."""
WATCH_COST_BYTES: Final = 500
"""A token, a pair, two entries of dicts, and perhaps a set of its own."""


class Watches:
    """Tokens of keys, in the order in which they came."""

    __slots__ = ("_bytes_used", "_is_broken", "unbroken")

    def __init__(self) -> None:
        self.unbroken: dict[bytes, set[bytes]] = {}
        """By key, the tokens of those who may still hope that nobody changes it; for reading. Empty, as it is nearly
        always, it costs a change of a key one look."""
        self._is_broken: OrderedDict[tuple[bytes, bytes], bool] = OrderedDict()
        """By key and token, the oldest first."""
        self._bytes_used = 0

    def __len__(self) -> int:
        """How many tokens there are, broken ones included."""
        return len(self._is_broken)

    def add(self, key: bytes, token: bytes) -> bool:
        """Note that the key is watched as it is now; False, and nothing happens, when the token was noted before."""
        if (key, token) in self._is_broken:
            return False
        self.unbroken.setdefault(key, set()).add(token)
        self._is_broken[key, token] = False
        self._bytes_used += len(key) + WATCH_COST_BYTES
        while self._bytes_used > WATCHES_BYTES_MAX:
            self.end(*next(iter(self._is_broken)))
        return True

    def is_broken(self, key: bytes, token: bytes) -> bool:
        """Whether the key is known to have been changed since it was watched with the token."""
        return self._is_broken.get((key, token), False)

    def end(self, key: bytes, token: bytes) -> None:
        """Forget a token, if it is there."""
        is_broken = self._is_broken.pop((key, token), None)
        if is_broken is None:
            return
        self._bytes_used -= len(key) + WATCH_COST_BYTES
        if not is_broken:
            tokens = self.unbroken[key]
            tokens.remove(token)
            if not tokens:
                del self.unbroken[key]

    def break_(self, key: bytes) -> Iterable[bytes]:
        """The key is changed; the tokens that this breaks."""
        tokens = self.unbroken.pop(key, ())
        for token in tokens:
            self._is_broken[key, token] = True
        return tokens

    def mend(self, key: bytes, tokens: Iterable[bytes]) -> None:
        """The change that broke these is taken back."""
        for token in tokens:
            if self.is_broken(key, token):
                self._is_broken[key, token] = False
                self.unbroken.setdefault(key, set()).add(token)
