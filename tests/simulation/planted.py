"""The search for a planted bug."""

from collections.abc import Iterator


def known_first(known: int, seeds_max: int) -> Iterator[int]:
    """The seed that found it last time, and then all from 1 to `seeds_max`."""
    yield known
    yield from (seed for seed in range(1, seeds_max + 1) if seed != known)
