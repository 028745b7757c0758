"""Where in a partition the requests go: a small sample that forgets, from which the point for a split is read.

A `LoadSampler` is told of each batch, once, with a few of its keys. How many requests per second there are is a
decaying average; which keys they have is a ring of samples, each standing for as many requests as passed since the
one before, as many as make the ring last for about one memory. So the cost is one multiplication and one draw a
batch, and a key is hashed only when it is kept. Chance comes from the caller. Keys are not kept: their slots are, and
eight characters of a hash, which tell an operator whether it is the same key, and no more.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from math import exp
from random import Random

from msgspec import Struct

from noctule.base.ids import Instant
from noctule.core.placement.slots import key_slot

SAMPLES = 256
"""In the ring: a share read from it strays by about 3%. 256 samples take about 40 KiB, in busy partitions only."""

SAMPLES_MIN = 64
"""With fewer there is no advice: half the load may be anywhere."""

MEMORY_S = 10.0
"""After so long an observation counts 1/e of what it did."""

FORGOTTEN_AFTER_S = 6 * MEMORY_S
"""After so long in silence all samples are dropped, and their memory with them."""

LARGER_HALF_MAX = 0.75
"""A split that leaves more of the load than this on one side is not worth a split."""

HOT_SHARE = 0.25
"""A key with so much of all requests is reported, whether or not a split helps."""


class HotKey(Struct, frozen=True):
    """One key that has much of a partition's requests."""

    slot: int
    key_hash: str
    """Eight characters; the same key has the same everywhere."""
    share: float
    """Of the partition's requests, 0…1."""


class SplitAdvice(Struct, frozen=True):
    """Where to divide a partition, or why not."""

    at_slot: int
    """The first slot of the upper half; 0: no split helps."""
    lower_share: float
    """Of the load, below `at_slot`; 0…1."""
    sentence: str
    hot_key: HotKey | None = None


class LoadSampler:
    """The recent requests of one partition. Without requests it holds a few numbers and nothing else."""

    __slots__ = ("_next", "_rate", "_samples", "_updated")

    def __init__(self) -> None:
        self._rate = 0.0
        self._updated = Instant(0.0)
        self._samples: list[tuple[int, str, float, Instant]] | None = None
        """Slot, hash of the key, the requests it stands for, when."""
        self._next = 0

    def observe(self, keys: Sequence[bytes], requests: int, now: Instant, chance: Random) -> None:
        """A batch of so many requests had these keys: all of them, or some that were picked without regard to them."""
        self._rate = self._decayed_rate(now) + requests / MEMORY_S
        self._updated = now
        stands_for = self._rate * MEMORY_S / SAMPLES
        if not keys or (requests < stands_for and chance.random() * stands_for >= requests):
            return
        key = keys[int(chance.random() * len(keys))] if len(keys) > 1 else keys[0]
        sample = (key_slot(key), shortened_hash(key), max(stands_for, requests), now)
        if self._samples is None:
            self._samples = []
        if len(self._samples) < SAMPLES:
            self._samples.append(sample)
        else:
            self._samples[self._next] = sample
        self._next = (self._next + 1) % SAMPLES

    def requests_per_s(self, now: Instant) -> float:
        """The decaying average."""
        return self._decayed_rate(now)

    def tidy(self, now: Instant) -> bool:
        """Drop what is forgotten; whether nothing is left, so that the sampler itself may be dropped."""
        if now - self._updated >= FORGOTTEN_AFTER_S:
            self._samples, self._next, self._rate = None, 0, 0.0
        return self._samples is None

    def split_point(self, first_slot: int, last_slot: int, now: Instant) -> SplitAdvice:
        """Where the load of the slots from `first_slot` to `last_slot` (inclusive) is halved, if that helps."""
        by_slot: dict[int, float] = {}
        by_key: dict[tuple[int, str], float] = {}
        count = 0
        for slot, key_hash, weight, at in self._samples or ():
            if first_slot <= slot <= last_slot and now - at < FORGOTTEN_AFTER_S:  # Older ones weigh nothing any more.
                count += 1
                weight *= exp((at - now) / MEMORY_S)
                by_slot[slot] = by_slot.get(slot, 0.0) + weight
                by_key[slot, key_hash] = by_key.get((slot, key_hash), 0.0) + weight
        if count < SAMPLES_MIN:
            return SplitAdvice(at_slot=0, lower_share=0.0, sentence=f"too few samples: {count} of {SAMPLES_MIN}")
        total = sum(by_slot.values())
        (slot, key_hash), weight = max(by_key.items(), key=lambda item: (item[1], item[0]))
        hot = HotKey(slot=slot, key_hash=key_hash, share=weight / total) if weight >= HOT_SHARE * total else None
        at_slot, lower_share = _halve(by_slot, first_slot, last_slot)
        larger = max(lower_share, 1 - lower_share)
        if at_slot and larger <= LARGER_HALF_MAX:
            sentence = f"slots from {at_slot} on have {1 - lower_share:.0%} of the requests"
            return SplitAdvice(at_slot=at_slot, lower_share=lower_share, sentence=sentence, hot_key=hot)
        if hot:
            sentence = f"one key of slot {hot.slot} has {hot.share:.0%} of all requests: no split helps"
        else:
            slot, weight = max(by_slot.items(), key=lambda item: (item[1], item[0]))
            sentence = f"slot {slot} has {weight / total:.0%} of all requests, and a slot cannot be divided"
        return SplitAdvice(at_slot=0, lower_share=0.0, sentence=sentence, hot_key=hot)

    def _decayed_rate(self, now: Instant) -> float:
        return self._rate * exp((self._updated - now) / MEMORY_S) if self._rate else 0.0


def split_by_size(bytes_by_slot: Mapping[int, int], first_slot: int, last_slot: int) -> SplitAdvice:
    """Where the bytes of the slots from `first_slot` to `last_slot` (inclusive) are halved, if that helps."""
    sizes = {slot: float(size) for slot, size in bytes_by_slot.items() if first_slot <= slot <= last_slot and size}
    at_slot, lower_share = _halve(sizes, first_slot, last_slot)
    if at_slot and max(lower_share, 1 - lower_share) <= LARGER_HALF_MAX:
        sentence = f"slots from {at_slot} on have {1 - lower_share:.0%} of the bytes"
        return SplitAdvice(at_slot=at_slot, lower_share=lower_share, sentence=sentence)
    if not sizes:
        return SplitAdvice(at_slot=0, lower_share=0.0, sentence="it is empty")
    slot, size = max(sizes.items(), key=lambda item: (item[1], item[0]))
    sentence = f"slot {slot} has {size / sum(sizes.values()):.0%} of the bytes, and a slot cannot be divided"
    return SplitAdvice(at_slot=0, lower_share=0.0, sentence=sentence)


def shortened_hash(key: bytes) -> str:
    """Eight characters that stand for a key where the key itself must not be told."""
    return blake2b(key, digest_size=4).hexdigest()


def _halve(weights: Mapping[int, float], first_slot: int, last_slot: int) -> tuple[int, float]:
    """The slot from which on the weights are nearest to half, and the share below it; 0 when there is no such slot."""
    total = sum(weights.values())
    best, best_share, below = 0, 0.0, 0.0
    slots = sorted(weights)
    if not slots:
        return 0, 0.0
    for slot, following in zip(slots, [*slots[1:], last_slot + 1], strict=True):
        if slot > first_slot and (not best or abs(below / total - 0.5) < abs(best_share - 0.5)):
            best, best_share = slot, below / total
        below += weights[slot]
        if following <= last_slot and (not best or abs(below / total - 0.5) < abs(best_share - 0.5)):
            best, best_share = following, below / total
    return best, best_share
