"""What this face needs of the node behind it."""

from collections.abc import Sequence
from typing import Protocol

from noctule.core.registry.changes import Change
from noctule.core.registry.registry import Answered, Registry


class RegistryDoor(Protocol):
    """The cluster's registry, as one node reaches it."""

    @property
    def state(self) -> Registry:
        """As far as this node has applied it. For reading, until control goes back to the loop."""
        ...

    @property
    def knows_leader(self) -> bool:
        """Whether this node knows who leads the group that keeps the registry."""
        ...

    @property
    def last_contact_ms(self) -> int | None:
        """How old `state` may be; None while that is unknown."""
        ...

    async def confirm(self) -> None:
        """Return once `state` shows everything that was acknowledged before the call. Raises `UnavailableError`."""
        ...

    async def change(self, changes: Sequence[Change]) -> list[Answered]:
        """Have all of them done, or none; what each answered, once `state` shows it.

        Raises `RequestError` that tells which one was refused and why, `UnavailableError`, or `OutcomeUnknownError`.
        """
        ...
