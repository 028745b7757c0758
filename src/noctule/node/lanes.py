"""What a router keeps in its lanes: commands on their way, whom to tell, and what has left without an answer yet."""

from collections.abc import Callable
from typing import Final, Protocol

from noctule.base.ids import GroupId
from noctule.core.keyspace.reply import Failure, Reply
from noctule.node.api import ReplySink

RETRY_DELAY_S: Final = 0.01
"""Between a refusal and the next try: an election or a transfer takes a few of these."""
NOTHING_APPLIED = (b"OVERLOADED", b"CLUSTERDOWN")
"""How failures begin that promise that nothing happened."""
PARTLY = Failure(b"UNKNOWN not every partition answered in time; the command may have been applied in part")


class Order(Protocol):
    """Whoever sees to the order of commands."""

    def finished(self, *, logged: bool) -> None:
        """One of them has its answer."""


class Command:
    """One command on its way, and whom to tell."""

    __slots__ = ("args", "conversation", "deadline", "lease", "logged", "number", "sink")

    def __init__(
        self,
        args: list[bytes],
        sink: ReplySink,
        conversation: Order | None,
        logged: bool,
        lease: bool = False,
    ) -> None:
        self.args = args
        self.lease = lease
        """Of a read: whether the leader's lease will do."""
        self.sink = sink
        self.conversation = conversation
        self.logged = logged
        self.deadline = 0.0
        """While it waits to be sent; once it is in a flight, that has its own."""
        self.number = 0
        """By which the commands of one router are in the order in which they came."""

    def finish(self, reply: Reply) -> None:
        """Tell whoever waits; once."""
        self.sink.deliver(reply)
        if self.conversation is not None:
            self.conversation.finished(logged=self.logged)


class Gather:
    """The sinks of a command that went to several partitions."""

    __slots__ = ("_command", "_left", "_merge", "_replies")

    def __init__(self, command: Command, count: int, merge: Callable[[list[Reply]], Reply]) -> None:
        self._command = command
        self._left = count
        self._merge = merge
        self._replies: list[Reply] = [None] * count

    def part(self, number: int) -> "Part":
        """The sink of that part."""
        return Part(self, number)

    def deliver_part(self, number: int, reply: Reply) -> None:
        """Keep it; the last one finishes the command."""
        self._replies[number] = reply
        self._left -= 1
        if not self._left:
            self._command.finish(PARTLY if self._is_partial() else self._merge(self._replies))

    def _is_partial(self) -> bool:
        """Whether a write says "nothing was applied" in some partitions and not in all."""
        failures = [reply.text for reply in self._replies if isinstance(reply, Failure)]
        undone = sum(text.startswith(NOTHING_APPLIED) for text in failures)
        return self._command.logged and 0 < undone < len(self._replies)


class Part:
    """The sink of one part."""

    __slots__ = ("_gather", "_number")

    def __init__(self, gather: Gather, number: int) -> None:
        self._gather = gather
        self._number = number

    def deliver(self, reply: Reply) -> None:
        """To the other parts' replies."""
        self._gather.deliver_part(self._number, reply)


class Flight:
    """A batch or a query that has a number and no answer yet."""

    __slots__ = (
        "acknowledged_below",
        "batch",
        "commands",
        "deadline",
        "has_scripts",
        "number",
        "sent_at",
        "sent_to",
        "terms",
    )

    def __init__(self, number: int, commands: list[Command], batch: bytes, deadline: float) -> None:
        self.number = number
        self.commands = commands
        self.batch = batch
        self.acknowledged_below = 0
        """As the batch says, whatever is known by now: it tells what was not known when later ones were sent."""
        self.deadline = deadline
        self.has_scripts = False
        """Whether a command of the batch must be evaluated before it is logged."""
        self.sent_to = 0
        self.sent_at = 0.0
        self.terms: set[int] = set()
        """Those to whose leaders the batch was sent, and who have not disclaimed it; empty: it did not happen, and
        does not unless it is sent again."""


class Lane:
    """What this node's clients want of one group."""

    __slots__ = (
        "flights",
        "gone_at",
        "group",
        "has_session",
        "idle_since",
        "next_number",
        "next_sequence",
        "open_reads",
        "open_writes",
        "origin",
        "queries",
        "reader",
        "retry_at",
        "retry_delay_s",
        "session_used_at",
    )

    def __init__(self, group: GroupId, reader: int) -> None:
        self.group = group
        self.reader = reader
        """By which answers to queries of this life of the lane are known."""
        self.session_used_at = 0.0
        """When the newest batch, or the opening, was made: by the stamps the session is used later than this."""
        self.leave_session()
        self.next_number = 1
        self.open_writes: list[Command] = []
        self.open_reads: list[Command] = []
        self.queries: dict[int, Flight] = {}
        self.retry_at: float | None = None
        self.retry_delay_s = RETRY_DELAY_S
        """What the next refusal delays the next try by."""
        self.idle_since = 0.0
        """When it was last found empty."""
        self.gone_at: float | None = None
        """Since when the map has no such partition any more."""

    def leave_session(self, origin: int = 0) -> None:
        """Without a session there is nothing but an opening on its way, and `origin` is what that was drawn."""
        self.has_session = False
        self.origin = origin
        self.flights: dict[int, Flight] = {}

    def begin_session(self, origin: int) -> None:
        """From now on batches can leave."""
        self.has_session = True
        self.origin = origin
        self.next_sequence = 1

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits here and nothing is on its way."""
        return not (self.flights or self.queries or self.open_writes or self.open_reads)
