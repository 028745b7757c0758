"""At which index what was last changed, for whoever waits for it to change.

Only what was touched lately is remembered: of a topic that is forgotten, or was never touched, the index is the
highest one that any forgotten topic had (`floor`). So the index of a topic may be told too high, never too low, and it
never falls; who waits is woken once too often at worst. A replica that loaded a snapshot remembers none.
"""

from collections.abc import Iterator

from noctule.core.registry.bounds import TOPICS_MAX


class Topics:
    """Of one replica; nothing that replicas must agree on."""

    def __init__(self, floor: int = 1) -> None:
        self.floor = floor
        self._at: dict[str, int] = {}
        """In the order of the indexes."""
        self._touched: dict[str, None] = {}

    def touch(self, topic: str) -> None:
        """It changes by the list that is being applied."""
        self._touched[topic] = None

    @property
    def is_touched(self) -> bool:
        """Whether the list has changed anything that somebody may wait for."""
        return bool(self._touched)

    def forget(self) -> None:
        """The list is taken back."""
        self._touched.clear()

    def commit(self, index: int) -> None:
        """The list is done, at this index."""
        at = self._at
        for topic in self._touched:
            at.pop(topic, None)
            at[topic] = index
        self._touched.clear()
        while len(at) > TOPICS_MAX:
            self.floor = at.pop(next(iter(at)))

    def index_of(self, topic: str) -> int:
        """When it last changed, or a little later."""
        return self._at.get(topic, self.floor)

    def since(self, index: int) -> Iterator[str] | None:
        """What changed after that index; costs what it was. None when it is not remembered so far back."""
        return None if index < self.floor else self._since(index)

    def _since(self, index: int) -> Iterator[str]:
        for topic in reversed(self._at):
            if self._at[topic] <= index:
                break
            yield topic
