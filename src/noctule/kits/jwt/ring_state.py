"""The ring of signing keys and when it turns; pure.

A key is published before it signs, so that whoever caches the key set knows it in time, and stays published until no
token that it signed can be alive. The private half is sealed; the public half is there for all who verify.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from noctule.base.errors import ConfigError

Algorithm = Literal["EdDSA", "RS256"]

ALGORITHMS: tuple[Algorithm, ...] = ("EdDSA", "RS256")
RING_KEYS_MAX = 16
JWKS_MAX_AGE_S = 300
"""For how long others may keep the key set."""


class RingKey(msgspec.Struct, frozen=True):
    """One key of the ring; times are the store's, in milliseconds since 1970."""

    kid: str
    alg: Algorithm
    public: dict[str, Any]
    """As a JWK."""
    sealed: bytes
    """The private half, readable with an app key."""
    sealed_with: str
    """Which app key that is."""
    signs_from_ms: int
    ends_ms: int | None = None
    """When it leaves the ring; None while no successor is known."""


class Ring(msgspec.Struct, frozen=True):
    """All keys, in the order in which they sign."""

    keys: tuple[RingKey, ...] = ()

    def signing(self, now_ms: int) -> RingKey | None:
        """The newest key that may sign at this time."""
        due = [key for key in self.keys if key.signs_from_ms <= now_ms]
        return due[-1] if due else None

    def public(self, now_ms: int) -> list[RingKey]:
        """What may be verified with, those that are yet to sign included."""
        return [key for key in self.keys if key.ends_ms is None or key.ends_ms > now_ms]


@dataclass(frozen=True, slots=True)
class RingPolicy:
    """When the ring turns. Raises `ConfigError`."""

    alg: Algorithm = "EdDSA"
    """RS256 where verification dominates or a client knows nothing else; its tokens are some 250 bytes longer."""
    rotate_every_s: int = 30 * 24 * 3600
    publish_ahead_s: int = 2 * JWKS_MAX_AGE_S
    """A key is published for so long before it signs."""
    keep_s: int = 660
    """And for so long after it last signed: the life of an access token and a margin."""
    refresh_s: float = 30.0
    """How old an instance's copy of the ring may get."""

    def __post_init__(self) -> None:
        problems = []
        if self.alg not in ALGORITHMS:
            problems.append(f"alg must be one of {', '.join(ALGORITHMS)}")
        if self.refresh_s <= 0 or self.publish_ahead_s < 2 * self.refresh_s:
            problems.append("publish_ahead_s must be at least twice refresh_s")
        if self.rotate_every_s <= self.publish_ahead_s:
            problems.append("rotate_every_s must be over publish_ahead_s")
        if self.rotate_every_s * (RING_KEYS_MAX - 2) < self.keep_s:
            problems.append(f"keep_s would make the ring larger than {RING_KEYS_MAX} keys")
        if problems:
            raise ConfigError("key ring: " + "; ".join(problems))


def turned(
    ring: Ring, now_ms: int, policy: RingPolicy, new_key: Callable[[int], RingKey], *, at_once: bool = False
) -> Ring:
    """The ring as it should be now; the same one when nothing is due. `new_key` makes one that signs from a time.

    `at_once`: a new key signs from now on, without having been published before.
    """
    keys = [key for key in ring.keys if key.ends_ms is None or key.ends_ms > now_ms]
    if not keys or at_once:
        keys = _followed_by(keys, new_key(now_ms), policy)
    newest = keys[-1]
    ahead_ms = policy.publish_ahead_s * 1000
    due_ms = newest.signs_from_ms + policy.rotate_every_s * 1000
    if newest.alg != policy.alg:
        keys = _followed_by(keys, new_key(max(newest.signs_from_ms, now_ms + ahead_ms)), policy)
    elif now_ms >= due_ms - ahead_ms:
        keys = _followed_by(keys, new_key(max(due_ms, now_ms + ahead_ms)), policy)
    return ring if tuple(keys) == ring.keys else Ring(tuple(keys[-RING_KEYS_MAX:]))


def _followed_by(keys: list[RingKey], new: RingKey, policy: RingPolicy) -> list[RingKey]:
    ends_ms = new.signs_from_ms + policy.keep_s * 1000
    ended = [msgspec.structs.replace(key, ends_ms=ends_ms) if key.ends_ms is None else key for key in keys]
    return [*ended, new]
