"""Where a node's clients wait for keys: BLPOP and its like. Pure; its own clock is what it is handed.

Nothing waits in the log. Whoever comes in has each key looked at first: by a linearizable read, ``NOCTULE.AWAIT``, that
tells whether the key is ready and else leaves a note with the replica that answered. What makes the key ready later
makes that replica tell this node (`key_ready`), and then the first in the key's queue tries an ordinary command, such
as the pop itself, which happens once or not at all like any other write. If others were faster it goes on waiting.

The note, the replica that has it, and the word that the key is ready may all get lost: a queue looks again when its
partition has another leader or has changed, and every `LOOK_AGAIN_S` at the latest. So what is lost costs time, and an
idle client costs a read now and then and no log entry.

On one key those who wait on one node are served in the order in which they came, as many at a time as there are items.
Between nodes it is chance.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count, takewhile
from typing import Final

from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.awaited import AWAIT
from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Reply
from noctule.core.keyspace.waits import Question
from noctule.node.api import ReplySink
from noctule.node.lanes import NOTHING_APPLIED
from noctule.node.waiters import Errands, Queue, Waiter

PLACES_MAX: Final = 100_000
"""Places in all queues of one node: a client that waits for three keys takes three. Over it a client is refused."""
LOOK_AGAIN_S: Final = 2.0
"""How long a queue trusts that it is told: then it looks for itself."""
FIRST_LOOK_S: Final = 1.0
"""A client whose time is up is told so once all keys were looked at, or this long after it came."""
LEFT_MAX: Final = 1_000
"""Keys of which the room remembers, when the last one has left, that there was more."""
HEAP_SLACK: Final = 64
"""Entries of clients who have left that are tolerated beside twice the number of those who wait."""

_FULL = Failure(b"OVERLOADED too many clients wait for keys on this node (PLACES_MAX, %d)" % PLACES_MAX)
_PASSING = (*NOTHING_APPLIED, b"UNKNOWN")
"""How answers to a look begin that say nothing about the key."""


class _Look:
    """The sink of a look: for one who has just come in, or for all."""

    __slots__ = ("_queue", "_room", "_waiter")

    def __init__(self, room: "WaitingRoom", queue: Queue, waiter: Waiter | None) -> None:
        self._room = room
        self._queue = queue
        self._waiter = waiter

    def deliver(self, reply: Reply) -> None:
        self._room._looked(self._queue, self._waiter, reply)


class _Outcome:
    """The sink of an attempt."""

    __slots__ = ("_queue", "_room", "_waiter")

    def __init__(self, room: "WaitingRoom", queue: Queue, waiter: Waiter) -> None:
        self._room = room
        self._queue = queue
        self._waiter = waiter

    def deliver(self, reply: Reply) -> None:
        self._room._tried(self._queue, self._waiter, reply)


class WaitingRoom:
    """That of one node."""

    def __init__(self, errands: Errands, now: Callable[[], Instant]) -> None:
        self._errands = errands
        self._now = now
        self._queues: dict[bytes, dict[tuple[bytes, bytes], Queue]] = {}
        """By key, then by what is waited for."""
        self._left: dict[tuple[bytes, bytes, bytes], int] = {}
        """How many more attempts might have succeeded on queues that nobody stands in; the oldest first."""
        self._places = 0
        self._waiters = 0
        self._timers: list[tuple[float, int, Waiter]] = []
        """A heap of those whose time will be up, with some who have left."""
        self._numbers = count()
        self._looked_at: dict[Queue, float] = {}
        """When each queue looked, the longest ago first."""
        self._changed: set[GroupId] = set()
        """Partitions that have another leader since the last tick, or are others themselves."""
        self._closed: Failure | None = None

    @property
    def waiting(self) -> int:
        """Clients who wait."""
        return self._waiters

    # Coming and going ------------------------------------------------------------------------------------------------

    def enter(self, waiter: Waiter) -> None:
        """Take somebody in, who is told the outcome, now or later."""
        wait = waiter.wait
        refusal = self._closed or (_FULL if self._places + len(wait.tries) > PLACES_MAX else None)
        refusal = refusal or next(filter(None, (self._errands.problem(each.args) for each in wait.tries)), None)
        if refusal is not None:
            waiter.is_done = True
            waiter.tell(refusal)
            return
        self._waiters += 1
        now = waiter.entered_at = self._now()
        if wait.timeout_ms:
            waiter.deadline = now + wait.timeout_ms / 1_000
            self._set_timer(waiter, waiter.deadline)
        for key, args, detail in wait.tries:
            waiter.tries.setdefault(self._queue(key, wait.kind, detail), args)
        for queue in waiter.tries:
            queue.waiters[waiter] = None
        self._places += len(waiter.tries)
        favourite = next(iter(waiter.tries))
        if favourite.ready and wait.takes and len(favourite.waiters) == 1:
            # Very likely there still is something: an attempt shows it as well as a look would.
            favourite.ready -= 1
            self._try(favourite, waiter)
        else:
            self._look_first(waiter)

    def _look_first(self, waiter: Waiter) -> None:
        for queue in waiter.tries:
            self._look(queue, waiter)

    def ask(self, args: list[bytes], question: Question, sink: ReplySink) -> None:
        """Find out what must be known before a command with these arguments may come in."""
        refusal = self._closed or self._errands.problem(args)
        if refusal is not None:
            sink.deliver(refusal)
        else:
            self._errands.look(question.args, sink)

    def give_up(self, waiter: Waiter, reply: Reply) -> None:
        """Let somebody wait no longer, and tell this; or the outcome of what is being tried, if that succeeds."""
        if waiter.is_done:
            return
        queue = waiter.trying
        if queue is None:
            self._finish(waiter, reply)
        elif waiter.attempted is not None and self._errands.withdraw(waiter.attempted):
            queue.trying -= 1
            queue.ready += 1
            waiter.trying = None
            self._finish(waiter, reply)
            self._try_next(queue)
        else:
            waiter.farewell = (reply,)

    def hurry(self, waiter: Waiter) -> None:
        """Let somebody take what is there now, and not wait for more."""
        waiter.deadline = self._now()
        self._time_is_up(waiter, waiter.deadline)

    def close(self, failure: Failure) -> None:
        """Tell this to all who wait, and to whoever comes."""
        self._closed = failure
        for queue in self._all_queues():
            for waiter in list(queue.waiters):
                self.give_up(waiter, failure)

    # What is heard ---------------------------------------------------------------------------------------------------

    def key_ready(self, key: bytes, kind: bytes, count: int) -> None:
        """A replica tells that a value of that type with so many items was at the key a moment ago, and none before."""
        for queue in [each for each in self._queues.get(key, {}).values() if each.kind == kind]:
            if count:
                self._heard(queue, count)
                self._try_next(queue)
            else:
                self._look(queue)

    def group_changed(self, group: GroupId) -> None:
        """The partition has another leader, or other slots: who was noted where is not known any more."""
        if self._queues:
            self._changed.add(group)

    def tick(self) -> None:
        """Tell those whose time is up; look again where it is due."""
        now = self._now()
        while self._timers and self._timers[0][0] <= now:
            waiter = heappop(self._timers)[2]
            if not waiter.is_done:
                self._time_is_up(waiter, now)
        if self._changed:
            self._look_at_changed()
        for queue in list(takewhile(lambda queue: self._looked_at[queue] + LOOK_AGAIN_S <= now, self._looked_at)):
            del self._looked_at[queue]
            self._look(queue)

    def _look_at_changed(self) -> None:
        changed, self._changed = self._changed, set()
        for queue in self._all_queues():
            group = self._errands.group_of(queue.key)
            if group in changed or group != queue.group:
                self._look(queue)

    def _time_is_up(self, waiter: Waiter, now: float) -> None:
        if not waiter.is_decided and now < waiter.entered_at + FIRST_LOOK_S:
            self._set_timer(waiter, waiter.entered_at + FIRST_LOOK_S)
            return
        if not waiter.is_decided:
            self._decide(waiter, now)  # And back here, as decided.
        elif waiter.owed is not None:
            if waiter.trying is None:
                self._try(waiter.owed, waiter)
        else:
            self.give_up(waiter, NULL_ARRAY)

    # Looking ---------------------------------------------------------------------------------------------------------

    def _look(self, queue: Queue, waiter: Waiter | None = None) -> None:
        """Have the key looked at, for one who must know as of now, or for all: then one look at a time will do."""
        if waiter is None and queue.looking:
            return
        queue.looking += 1
        queue.group = self._errands.group_of(queue.key)
        args = [AWAIT, queue.key, b"%d" % self._errands.node_id, queue.kind]
        if queue.detail:
            args.append(queue.detail)
        self._errands.look(args, _Look(self, queue, waiter))

    def _looked(self, queue: Queue, waiter: Waiter | None, reply: Reply) -> None:
        queue.looking -= 1
        if queue.waiters:
            self._looked_at.pop(queue, None)
            self._looked_at[queue] = self._now()
        if isinstance(reply, int):
            self._heard(queue, reply)
            self._try_next(queue)
        if waiter is not None and not waiter.is_decided:
            waiter.looks[queue] = reply
            self._decide(waiter, self._now())

    def _heard(self, queue: Queue, count: int) -> None:
        # What is being tried will take some of these, or has taken some that were there before.
        queue.ready = max(count - queue.trying, 0)

    def _decide(self, waiter: Waiter, now: float) -> None:
        """Choose the first key that is ready, once it is known of all before it that they are not."""
        for queue in waiter.tries:
            if queue not in waiter.looks:
                if now < max(waiter.deadline, waiter.entered_at + FIRST_LOOK_S):
                    return
                continue
            found = waiter.looks[queue]
            if isinstance(found, Failure) and not found.text.startswith(_PASSING):
                self._finish(waiter, found)
                return
            if found and isinstance(found, int):
                waiter.owed = queue
                break
        waiter.is_decided = True
        self._try_any(waiter)
        if now >= waiter.deadline:
            self._time_is_up(waiter, now)

    # Trying ----------------------------------------------------------------------------------------------------------

    def _try_any(self, waiter: Waiter) -> None:
        for queue in list(waiter.tries):
            if waiter.trying is None and not waiter.is_done:
                self._try_next(queue)

    def _try_next(self, queue: Queue) -> None:
        """Try for the first who can, as many as may succeed; or for all, if they take nothing from each other."""
        if not queue.ready:
            return
        for waiter in list(queue.waiters):
            if waiter.is_decided and waiter.trying is None:
                self._try(queue, waiter)
                queue.ready -= waiter.wait.takes
                if queue.ready <= 0:
                    return

    def _try(self, queue: Queue, waiter: Waiter) -> None:
        queue.trying += 1
        waiter.trying = queue
        attempted = self._errands.attempt(waiter.tries[queue], _Outcome(self, queue, waiter))
        if waiter.trying is queue:
            waiter.attempted = attempted

    def _tried(self, queue: Queue, waiter: Waiter, reply: Reply) -> None:
        queue.trying -= 1
        waiter.trying = waiter.attempted = waiter.owed = None
        was_refused = isinstance(reply, Failure) and reply.text.startswith(NOTHING_APPLIED)
        if reply is not None and reply is not NULL_ARRAY and not was_refused:
            self._finish(waiter, reply)
        else:
            queue.ready = 0
            if waiter.farewell is not None:
                self._finish(waiter, waiter.farewell[0])
            elif not waiter.is_decided:
                self._look_first(waiter)
            elif self._now() >= waiter.deadline:
                self._finish(waiter, NULL_ARRAY)
            else:
                self._try_any(waiter)
        # What is left is not known, and a note, if there was one, is used up.
        if queue.waiters and not queue.ready and not queue.trying and not was_refused:
            self._look(queue)

    def _finish(self, waiter: Waiter, reply: Reply) -> None:
        waiter.is_done = waiter.is_decided = True
        self._waiters -= 1
        self._places -= len(waiter.tries)
        for queue in waiter.tries:
            del queue.waiters[waiter]
            if not queue.waiters:
                self._forget(queue)
        if len(self._timers) > 2 * self._waiters + HEAP_SLACK:
            self._timers = [timer for timer in self._timers if not timer[2].is_done]
            heapify(self._timers)
        waiter.tell(reply)

    # Queues and timers -----------------------------------------------------------------------------------------------

    def _queue(self, key: bytes, kind: bytes, detail: bytes) -> Queue:
        name = (kind, detail)
        queues = self._queues.setdefault(key, {})
        queue = queues.get(name)
        if queue is None:
            queue = queues[name] = Queue(key, *name)
            queue.ready = self._left.pop((key, *name), 0)
        return queue

    def _all_queues(self) -> list[Queue]:
        return [queue for queues in self._queues.values() for queue in queues.values()]

    def _forget(self, queue: Queue) -> None:
        queues = self._queues[queue.key]
        del queues[queue.kind, queue.detail]
        if not queues:
            del self._queues[queue.key]
        self._looked_at.pop(queue, None)
        if queue.ready:
            self._left[queue.key, queue.kind, queue.detail] = queue.ready
            if len(self._left) > LEFT_MAX:
                del self._left[next(iter(self._left))]

    def _set_timer(self, waiter: Waiter, at: float) -> None:
        heappush(self._timers, (at, next(self._numbers), waiter))
