"""The order in which one connection's commands take effect, whatever partitions they go to. Pure; see ADR 0008."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.commands import check_command, find_command, unknown_command
from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Reply
from noctule.core.keyspace.spec import CommandSpec
from noctule.core.keyspace.waits import Blocking, Question, Wait
from noctule.node.api import Dialogue, ReplySink
from noctule.node.waiters import Waiter
from noctule.node.waiting_room import WaitingRoom


class Routes(Protocol):
    """What a conversation needs of the router."""

    @property
    def waiting_room(self) -> WaitingRoom:
        """Where blocking commands wait."""
        ...

    def refusal(self, spec: CommandSpec, args: list[bytes]) -> Failure | None:
        """Why a checked command is not taken by this door, wherever its keys are; None when it is."""
        ...

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

    def read_keys(self, commands: list[list[bytes] | Failure], start: int, wall_ms: int) -> list[Reply]:
        """As `Dialogue.read_keys`."""
        ...


class _Answered:
    """The sink of a question."""

    __slots__ = ("_then",)

    def __init__(self, then: Callable[[Reply], None]) -> None:
        self._then = then

    def deliver(self, reply: Reply) -> None:
        self._then(reply)


class Conversation(Dialogue):
    """The commands of one connection, which take effect in the order sent on every key and in every partition.

    Unanswered writes to different partitions may take effect in either order; their answers keep the order sent.

    Writes go on in order by themselves. A read behind an unanswered write goes through the log, behind it. A write
    behind an unanswered read waits for it, and what follows waits with it: a read must not see what was sent after.

    A blocking command waits for all before it, and all behind it wait for its reply (`node.waiting_room`, ADR 0029).
    """

    __slots__ = ("_held", "_is_going_on", "_is_waiting", "_reads", "_router", "_waiter", "_waits_end", "_writes")

    def __init__(self, router: Routes) -> None:
        self._router = router
        self._reads = 0
        self._writes = 0
        self._held: list[tuple[CommandSpec, list[bytes], ReplySink, ConsistencyLevel]] = []
        self._is_going_on = False
        self._is_waiting = False
        """Whether a command waits for a key, or asks first what it is to wait for."""
        self._waiter: Waiter | None = None
        """The command that waits for a key."""
        self._waits_end: tuple[Reply] | None = None
        """What a command is told in place of waiting, if none may wait any more."""

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """As `Store.submit`, in order."""
        spec = check_command(args)
        if isinstance(spec, Failure):
            sink.deliver(spec)
        elif self._held or self._is_waiting or not self._begin(spec, args, sink, consistency):
            self._held.append((spec, args, sink, consistency))

    def submit_own(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        """As `Dialogue.submit_own`, in order with what clients send."""
        spec = find_command(args[0])
        if spec is None:
            sink.deliver(unknown_command(args))
        elif self._held or self._is_waiting or not self._begin(spec, args, sink, consistency):
            self._held.append((spec, args, sink, consistency))

    def refusal(self, args: list[bytes]) -> Failure | None:
        """As `Dialogue.refusal`."""
        spec = find_command(args[0])
        return unknown_command(args) if spec is None else self._router.refusal(spec, args)

    def _begin(self, spec: CommandSpec, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel) -> bool:
        """Send a command on its way; False when it has to wait for those before it."""
        if spec.blocking is not None and (wait := spec.blocking(args)) is not None:
            if self._reads or self._writes:
                return False
            wait = self._router.refusal(spec, args) or wait
            if isinstance(wait, Question):
                self._ask(spec.blocking, args, wait, sink)
            else:
                self._wait(wait, sink)
        elif spec.is_write or self._writes:
            if self._reads:
                return False
            self._writes += 1
            self._router.route(spec, args, sink, logged=True, conversation=self)
        elif consistency is ConsistencyLevel.EVENTUAL and self._router.read_eventually(spec, args, sink):
            pass
        else:
            self._reads += 1
            lease = consistency is ConsistencyLevel.STRONG
            self._router.route(spec, args, sink, logged=False, lease=lease, conversation=self)
        return True

    def read_keys(self, commands: list[list[bytes] | Failure], start: int, wall_ms: int) -> list[Reply]:
        """As `Dialogue.read_keys`."""
        return self._router.read_keys(commands, start, wall_ms)

    def finished(self, *, logged: bool) -> None:
        """One command has its answer."""
        if logged:
            self._writes -= 1
            if self._held and not self._writes and not self._reads:
                self._go_on()
        else:
            self._reads -= 1
            if self._held and not self._reads:
                self._go_on()

    def _go_on(self) -> None:
        """Begin what was held, as far as it can be."""
        if self._is_going_on:
            return  # A command had its answer at once: the loop that began it goes on.
        self._is_going_on = True
        begun = 0
        while begun < len(self._held) and not self._is_waiting and self._begin(*self._held[begun]):
            begun += 1
        del self._held[:begun]
        self._is_going_on = False

    # Waiting ---------------------------------------------------------------------------------------------------------

    def _ask(self, blocking: Blocking, args: list[bytes], question: Question, sink: ReplySink) -> None:
        self._is_waiting = True
        answered = _Answered(partial(self._answered, blocking, question, sink))
        self._router.waiting_room.ask(args, question, answered)

    def _answered(self, blocking: Blocking, question: Question, sink: ReplySink, reply: Reply) -> None:
        self._is_waiting = False
        args = question.then(reply)
        wait = args if isinstance(args, Failure) else blocking(args)
        assert wait is not None
        assert not isinstance(wait, Question)
        self._wait(wait, sink)
        self._go_on()

    def _wait(self, wait: Wait | Failure, sink: ReplySink) -> None:
        if isinstance(wait, Failure):
            sink.deliver(wait)
        elif self._waits_end is not None:
            sink.deliver(self._waits_end[0])
        else:
            self._is_waiting = True
            self._waiter = Waiter(wait, partial(self._waited, sink))
            self._router.waiting_room.enter(self._waiter)

    def _waited(self, sink: ReplySink, reply: Reply) -> None:
        self._is_waiting, self._waiter = False, None
        sink.deliver(reply)
        self._go_on()

    @property
    def is_blocked(self) -> bool:
        """As `Dialogue.is_blocked`."""
        return self._waiter is not None

    def unblock(self, reply: Reply) -> bool:
        """As `Dialogue.unblock`. What is being tried may yet succeed, and then that is the answer."""
        if self._waiter is None:
            return False
        self._router.waiting_room.give_up(self._waiter, reply)
        return True

    def end_waits(self, reply: Reply) -> None:
        """As `Dialogue.end_waits`."""
        self._waits_end = (reply,)
        self.unblock(reply)

    def hang_up(self) -> bool:
        """As `Dialogue.hang_up`."""
        self._waits_end = (NULL_ARRAY,)
        if self._waiter is None:
            return False
        if not self._waiter.is_decided:
            self._router.waiting_room.hurry(self._waiter)
            return False
        self.leave()
        return True

    def leave(self) -> None:
        """As `Dialogue.leave`."""
        self._waits_end = (NULL_ARRAY,)
        if self._is_waiting:
            self._held.clear()
            self.unblock(NULL_ARRAY)
