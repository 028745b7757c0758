"""Join tokens: what an operator hands to a node so that it is let in. The cluster keeps their hashes only."""

import random
from hashlib import sha256

from msgspec import Struct

TOKEN_PREFIX = "noctule-"
"""So that people, and tools that look for leaked secrets, know one when they see it."""
TOKEN_BITS = 160
TOKENS_MAX = 1_000
"""Tokens that are valid at one time."""


class Token(Struct, frozen=True):
    """A token as the cluster knows it."""

    token: str
    """Its hash."""
    reusable: bool = False
    expires_ms: int = 0
    """Void from then on, by the stamps of *meta*; 0: never."""
    note: str = ""
    created_ms: int = 0

    def is_void(self, now_ms: int) -> bool:
        """Whether its time is over."""
        return 0 < self.expires_ms <= now_ms


def new_token(chance: random.Random) -> str:
    """A token that nobody can guess, if `chance` cannot be guessed: hand in `random.SystemRandom()` where it counts."""
    return f"{TOKEN_PREFIX}{chance.getrandbits(TOKEN_BITS):0{TOKEN_BITS // 4}x}"


def hash_token(text: str) -> str:
    """What the cluster knows a token by. A plain hash is enough, since there is nothing to guess in a token."""
    return sha256(text.strip().encode()).hexdigest()


def is_token_hash(text: str) -> bool:
    """Whether this looks like the result of `hash_token`, and not like a token that somebody forgot to hash."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
