"""Chance that replicas have in common: drawn from what they all know, so that each makes the same choice.

Not `random.Random`, whose methods may choose otherwise in another version of Python, while the nodes of a cluster may
run different ones. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014 (SplitMix64).
"""

from binascii import crc32

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15


class Chance:
    """Numbers that follow from a time, a key, and how many items it holds; nothing to keep a secret with."""

    __slots__ = ("_state",)

    def __init__(self, now_ms: int, key: bytes, count: int) -> None:
        self._state = (now_ms * _GAMMA ^ crc32(key) << 32 ^ count) & _MASK

    def below(self, limit: int) -> int:
        """A number from 0 up to `limit`, exclusive and below 2**32; all are as likely to one part in 2**32."""
        self._state = mixed = (self._state + _GAMMA) & _MASK
        mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _MASK
        return ((mixed ^ mixed >> 31) * limit) >> 64

    def some_of(self, total: int, count: int) -> list[int]:
        """`count` different numbers below `total`, which is not less, in no particular order; costs their count.

        Source: Floyd's sampling, in Bentley, "Programming pearls: a sample of brilliance", 1987.
        """
        chosen: dict[int, None] = {}
        for last in range(total - count, total):
            number = self.below(last + 1)
            chosen[last if number in chosen else number] = None
        return list(chosen)
