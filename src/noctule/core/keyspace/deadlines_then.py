"""The deadlines of one moment, beside those of now."""


class DeadlinesThen:
    """The deadlines of one moment, for as long as somebody holds this; may be read by another thread."""

    __slots__ = ("__weakref__", "_before", "_now")

    def __init__(self, now: dict[bytes, int]) -> None:
        self._now = now
        self._before: dict[bytes, int | None] = {}
        """What those were that have changed since."""

    def get(self, key: bytes) -> int | None:
        """The deadline that the key had."""
        # In this order: `note` comes before the change, so whoever sees the change here finds the note after it.
        now = self._now.get(key)
        return self._before.get(key, now)

    def note(self, key: bytes, deadline: int | None) -> None:
        """The key's deadline is about to change; this is what it is."""
        self._before.setdefault(key, deadline)
