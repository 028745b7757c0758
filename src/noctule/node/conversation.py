"""The order in which one connection's commands take effect, whatever partitions they go to. Pure; see ADR 0008."""

from collections import deque
from typing import Protocol

from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.commands import check_command, find_command, unknown_command
from noctule.core.keyspace.reply import Failure
from noctule.core.keyspace.spec import CommandSpec
from noctule.node.api import ReplySink


class Routes(Protocol):
    """What a conversation needs of the router."""

    def route(
        self,
        spec: CommandSpec,
        args: list[bytes],
        sink: ReplySink,
        *,
        logged: bool,
        lease: bool = False,
        conversation: "Conversation",
    ) -> None:
        """Send a checked command on its way; `conversation.finished` is called after its reply was delivered."""

    def read_eventually(self, spec: CommandSpec, args: list[bytes], sink: ReplySink) -> bool:
        """Answer from this node's own replicas; False when only a leader can."""
        ...


class Conversation:
    """The commands of one connection, which take effect in the order sent on every key and in every partition.

    Unanswered writes to different partitions may take effect in either order; their answers keep the order sent.

    Writes go on in order by themselves. A read behind an unanswered write goes through the log, behind it. A write
    behind an unanswered read waits for it, and what follows waits with it: a read must not see what was sent after.
    """

    __slots__ = ("_held", "_reads", "_router", "_writes")

    def __init__(self, router: Routes) -> None:
        self._router = router
        self._reads = 0
        self._writes = 0
        self._held: deque[tuple[CommandSpec, list[bytes], ReplySink, ConsistencyLevel]] = deque()

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """As `Store.submit`, in order."""
        spec = check_command(args)
        if isinstance(spec, Failure):
            sink.deliver(spec)
        else:
            self._begin(spec, args, sink, consistency)

    def submit_own(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """As `Dialogue.submit_own`, in order with what clients send."""
        spec = find_command(args[0])
        if spec is None:
            sink.deliver(unknown_command(args))
        else:
            self._begin(spec, args, sink, consistency)

    def _begin(self, spec: CommandSpec, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel) -> None:
        if self._held:
            self._held.append((spec, args, sink, consistency))
        elif spec.is_write or self._writes:
            if self._reads:
                self._held.append((spec, args, sink, consistency))
                return
            self._writes += 1
            self._router.route(spec, args, sink, logged=True, conversation=self)
        elif consistency is ConsistencyLevel.EVENTUAL and self._router.read_eventually(spec, args, sink):
            pass
        else:
            self._reads += 1
            lease = consistency is ConsistencyLevel.STRONG
            self._router.route(spec, args, sink, logged=False, lease=lease, conversation=self)

    def finished(self, *, logged: bool) -> None:
        """One command has its answer."""
        if logged:
            self._writes -= 1
        else:
            self._reads -= 1
            if not self._reads and self._held:
                held, self._held = self._held, deque()
                for command in held:
                    self._begin(*command)
