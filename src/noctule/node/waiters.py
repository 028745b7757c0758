"""Who stands in a node's waiting room, in which queues, and what is done for the room. Read waiting_room.py."""

from collections.abc import Callable
from math import inf
from typing import Protocol

from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.waits import Wait
from noctule.node.api import ReplySink
from noctule.node.lanes import Command


class Errands(Protocol):
    """What is done for the room: the router does it."""

    @property
    def node_id(self) -> int:
        """This node."""
        ...

    def look(self, args: list[bytes], sink: ReplySink) -> None:
        """Run an internal command that only reads, on the partition of its first argument."""
        ...

    def attempt(self, args: list[bytes], sink: ReplySink) -> Command:
        """Run a command on the one partition of its keys; returned for `withdraw`."""
        ...

    def withdraw(self, command: Command) -> bool:
        """Take back what has not left yet; then it is not answered. False when it may be carried out."""
        ...

    def problem(self, args: list[bytes]) -> Failure | None:
        """Why `attempt` could never run this, by the map as it is."""
        ...

    def group_of(self, key: bytes) -> GroupId:
        """The partition of a key, 0 when it has none."""
        ...


class Waiter:
    """One blocking command, from `enter` until it is told the end."""

    __slots__ = (
        "attempted",
        "deadline",
        "entered_at",
        "farewell",
        "is_decided",
        "is_done",
        "looks",
        "owed",
        "tell",
        "tries",
        "trying",
        "wait",
    )

    def __init__(self, wait: Wait, tell: Callable[[Reply], None]) -> None:
        self.wait = wait
        self.tell = tell
        """Called once, with the reply."""
        self.tries: dict[Queue, list[bytes]] = {}
        """Where it stands, in the order of preference, and what it tries there."""
        self.looks: dict[Queue, Reply] = {}
        """What was found there at first."""
        self.is_decided = False
        """All keys were looked at, so from now on it waits; before, only its first choice will do."""
        self.owed: Queue | None = None
        """Where there was something when it came, until it has tried: it does not leave without."""
        self.entered_at = Instant(0.0)
        self.deadline = inf
        self.trying: Queue | None = None
        """Whose key is being tried for it."""
        self.attempted: Command | None = None
        self.farewell: tuple[Reply] | None = None
        """What it is told if nothing comes of what is being tried: its time is up."""
        self.is_done = False


class Queue:
    """Those on this node who wait for one thing of one key, in order."""

    __slots__ = ("detail", "group", "key", "kind", "looking", "ready", "trying", "waiters")

    def __init__(self, key: bytes, kind: bytes, detail: bytes) -> None:
        self.key = key
        self.kind = kind
        self.detail = detail
        self.waiters: dict[Waiter, None] = {}
        self.group = GroupId(0)
        """Of which partition the key was when it was last looked at."""
        self.looking = 0
        """Looks on their way."""
        self.ready = 0
        """How many more attempts may succeed, as last heard."""
        self.trying = 0
        """Attempts on their way."""
