"""Commands that no lane can take now, because slots are on their way from one partition to another. Pure.

What is here was refused as moved, or belongs to no partition yet, or came behind something of that kind. Logged
commands on one slot leave in the order in which they came, and not before every batch is resolved that may hold an
earlier one in the lane of a partition that had the slot before (`unsettle`). Reads are in no order with anything: a
`Conversation` has none on its way together with writes.
"""

from collections.abc import Iterable, Sequence

from noctule.core.keyspace.within import slots_of
from noctule.node.lanes import Command, Flight


class _Held:
    """A command with the slots it is about."""

    __slots__ = ("command", "not_before", "slots")

    def __init__(self, command: Command, slots: Sequence[int], not_before: float) -> None:
        self.command = command
        self.slots = slots
        self.not_before = not_before


def _number_of(held: _Held) -> int:
    return held.command.number


class Detours:
    """Those of one router. Empty, but for a moment around a change of the map."""

    def __init__(self) -> None:
        self.blocked: set[int] = set()
        """The slots on which a logged command that comes now has to wait here, behind others."""
        self._held: list[_Held] = []
        self._unsettled: dict[Flight, set[int]] = {}
        """Batches from before a change, and the slots of their commands."""

    def __len__(self) -> int:
        return len(self._held)

    def add(self, commands: Iterable[Command], not_before: float = 0.0) -> None:
        """Keep commands that came at any time before, until `not_before` at least."""
        for command in commands:
            slots = slots_of(command.args)
            self._held.append(_Held(command, slots, not_before))
            if command.logged:
                self.blocked.update(slots)

    def unsettle(self, flight: Flight) -> None:
        """Hold back what is about the slots of this batch until `settle`."""
        slots = self._unsettled.setdefault(flight, set())
        for command in flight.commands:
            slots.update(slots_of(command.args))
        self.blocked |= slots

    def settle(self, flight: Flight) -> bool:
        """The batch is answered, or nobody waits for that any more; whether that may let something go (`admit`)."""
        return bool(self._unsettled) and self._unsettled.pop(flight, None) is not None

    def hurry(self) -> None:
        """The map has changed: nothing waits for its time any more."""
        for held in self._held:
            held.not_before = 0.0

    def admit(self, now: float, slot_table: Sequence[int]) -> list[Command]:
        """Take out what can go to a lane now, in order."""
        self._held.sort(key=_number_of)
        blocked: set[int] = set().union(*self._unsettled.values())
        kept: list[_Held] = []
        admitted: list[Command] = []
        for held in self._held:
            slots, command = held.slots, held.command
            is_behind = command.logged and not blocked.isdisjoint(slots)
            if is_behind or held.not_before > now or not all(slot_table[slot] for slot in slots):
                kept.append(held)
                if command.logged:
                    blocked.update(slots)
            else:
                admitted.append(command)
        self._held, self.blocked = kept, blocked
        return admitted

    def expire(self, now: float) -> list[Command]:
        """Take out what is over its deadline; `admit` should follow."""
        late = [held.command for held in self._held if held.command.deadline <= now]
        if late:
            self._held = [held for held in self._held if held.command.deadline > now]
        return late

    def clear(self) -> list[Command]:
        """Take out everything."""
        commands = [held.command for held in self._held]
        self._held, self._unsettled, self.blocked = [], {}, set()
        return commands
