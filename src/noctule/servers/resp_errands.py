"""What a command about the connection, such as EXEC, needs the store for: sent on its behalf, and in its order."""

from collections.abc import Callable
from dataclasses import dataclass

from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.reply import Reply
from noctule.node.api import Dialogue


@dataclass(frozen=True, slots=True)
class Errand:
    """What a handler returns when it cannot answer at once."""

    commands: list[list[bytes]]
    """May be of scope INTERNAL; bounds and arities are right."""
    finish: Callable[[list[Reply]], Reply]
    """The reply, from theirs."""
    holds: bool = False
    """Whether nothing that the client sent later begins before it is finished, nor is it finished before all that was
    sent earlier is answered, nor when the client has gone: for what changes more than the store."""
    consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE

    def run(self, door: Dialogue, done: Callable[[list[Reply]], None]) -> None:
        """Send the commands; `done` is called once, with all replies in the order of the commands."""
        if not self.commands:
            done([])
            return
        results = _Results(len(self.commands), done)
        for number, command in enumerate(self.commands):
            door.submit_own(command, _Result(results, number), self.consistency)


class _Results:
    """The replies so far."""

    __slots__ = ("done", "left", "replies")

    def __init__(self, count: int, done: Callable[[list[Reply]], None]) -> None:
        self.replies: list[Reply] = [None] * count
        self.left = count
        self.done = done


class _Result:
    """The sink of one of them."""

    __slots__ = ("_number", "_results")

    def __init__(self, results: _Results, number: int) -> None:
        self._results = results
        self._number = number

    def deliver(self, reply: Reply) -> None:
        results = self._results
        results.replies[self._number] = reply
        results.left -= 1
        if not results.left:
            results.done(results.replies)
