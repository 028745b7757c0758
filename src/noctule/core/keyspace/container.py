"""What every value made of items has in common: lists, sets, sorted sets, streams.

A container belongs to a `State`, which lends it out for changes: `State.change` before, `State.changed` behind them.
Meanwhile the container's own methods keep `size_bytes` true and, where a journal is kept, note how to take each change
back. Hashes are plain dicts and older than this; `State.put_fields` does the same for them.
"""

from collections.abc import Callable, Iterator
from typing import ClassVar, Self, TypeAlias

Undo: TypeAlias = Callable[[], object]
"""Takes one change back, if all changes after it have been taken back."""

CONTAINER_COST_BYTES = 150
"""What CPython takes for an empty one."""


class Container:
    """A value made of items, in an order that is a function of the commands alone. Without items it does not exist."""

    __slots__ = ("counted_bytes", "size_bytes", "undo")

    type_name: ClassVar[bytes]
    """As TYPE calls it."""
    code: ClassVar[int]
    """Which kind it is in a snapshot; never given to another kind."""

    def __init__(self) -> None:
        self.size_bytes = CONTAINER_COST_BYTES
        """An estimate of the memory taken, a function of the items alone; kept by the methods that change them."""
        self.counted_bytes = 0
        """What its state has counted of that; the state's business."""
        self.undo: list[Undo] | None = None
        """Where to note how a change is taken back, oldest first; None while nobody keeps a journal."""

    def __len__(self) -> int:
        """How many items there are."""
        raise NotImplementedError

    @property
    def servings(self) -> int:
        """How many of those who wait for such a value it may serve, as far as that is known: as many as items."""
        return len(self)

    def take_news(self) -> bool:
        """Whether it may serve somebody whom it could not when this was asked last."""
        return True

    def copy(self) -> Self:
        """Another container with the same items, in a time that one command may take; without a journal."""
        raise NotImplementedError

    def parts(self, bytes_target: int) -> Iterator[bytes]:
        """The items as pieces of about so many bytes, at least one, equal for equal containers. Another thread may
        read them: nobody changes a container that was shared."""
        raise NotImplementedError

    def absorb(self, part: bytes) -> None:
        """Add the items of the next piece. Raises ValueError, or what msgspec raises, for what is none."""
        raise NotImplementedError
