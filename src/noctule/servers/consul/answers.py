"""Large answers, kept for as long as what they show has not changed.

A service with thousands of instances takes this thread a fifth of a second to write down, and a hundred clients that
wait for it are woken by one change: it is written once, and the others are given the same bytes.
"""

from typing import TypeAlias

from noctule.core.registry.registry import Registry

ANSWERS_MAX = 64
BODY_BYTES_MIN = 16 * 1024
"""A smaller answer is made faster than it is found worth keeping."""
BYTES_MAX = 64 * 1024 * 1024
"""All together; a single one over half of it is not kept."""

Key: TypeAlias = tuple[str, ...]
"""What was asked for: the path, and all of the query that has a part in what is shown."""


class Answers:
    """Of one node, the one used longest ago first."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._view: Registry | None = None
        self._kept: dict[Key, tuple[int, bytes]] = {}
        """With the index of the topic at which it was made."""
        self.bytes_used = 0

    def get(self, view: Registry, key: Key, index: int) -> bytes | None:
        """The body that was made of this registry at this index of its topic, if it is here."""
        if view is not self._view:
            # Another registry was loaded, whose indexes may mean something else.
            self._view = view
            self._kept.clear()
            self.bytes_used = 0
        kept = self._kept.get(key)
        if kept is None or kept[0] != index:
            return None
        self._kept[key] = self._kept.pop(key)
        return kept[1]

    def put(self, key: Key, index: int, body: bytes) -> None:
        """Keep a body, after `get` has not found it; whatever must make room for it goes."""
        if not BODY_BYTES_MIN <= len(body) <= self._bytes_max // 2:
            return
        self._drop(key)
        while self._kept and (len(self._kept) >= ANSWERS_MAX or self.bytes_used + len(body) > self._bytes_max):
            self._drop(next(iter(self._kept)))
        self._kept[key] = index, body
        self.bytes_used += len(body)

    def _drop(self, key: Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes_used -= len(kept[1])
