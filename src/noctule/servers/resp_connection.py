"""One client's connection: bytes in, commands to the store, replies out in the order of their commands.

The hot path of the RESP door. A command costs one `_Cell`, which is its sink and its place in the queue of replies.
Whatever was answered at the head of the queue leaves in one write for each turn of the loop. A client that sends more
than it reads is not read; one that leaves too much unread is dropped.

What a subscriber hears leaves in the same write, before the replies: it need not wait for them. Only while the
confirmation of a subscription, or an earlier message, has its place in the queue, messages go to the end of the queue.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, Literal, Protocol, cast

from noctule.base.bounds import PIPELINE_COMMANDS_MAX
from noctule.base.consistency import ConsistencyLevel
from noctule.base.errors import NoctuleError
from noctule.core.keyspace.databases import database_prefix
from noctule.core.keyspace.reply import Encoded, Failure, Reply
from noctule.core.pubsub.message import Message
from noctule.core.wire.resp import Protocol as RespVersion
from noctule.core.wire.resp import encode_replies, encode_reply
from noctule.node.api import Store
from noctule.servers.resp_client import Client, Door, Handler
from noctule.servers.resp_commands import HANDLERS, answer_command
from noctule.servers.resp_databases import Leave, enter, leave_of
from noctule.servers.resp_errands import Errand
from noctule.servers.resp_parser import CommandParser, Received
from noctule.servers.resp_pubsub import BEHIND_EARLIER, refusal_while_subscribed
from noctule.servers.resp_transactions import AT_ONCE

PIPELINE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes read while replies are owed; over it the connection is not read until all replies are out."""
OUTPUT_BYTES_MAX: Final = 512 * 1024 * 1024
"""Replies that the client has not read, besides the one being written; over it the connection is dropped at once."""
OUTPUT_BYTES_TARGET: Final = 64 * 1024 * 1024
"""The same, when it stays over this for OUTPUT_GRACE_S: one pipeline may ask for much, but must then be read."""
PUBSUB_OUTPUT_BYTES_MAX: Final = 32 * 1024 * 1024
"""The first of these bounds for a client with subscriptions, as in Redis: what it gets it did not ask for."""
PUBSUB_OUTPUT_BYTES_TARGET: Final = 8 * 1024 * 1024
"""The second."""
OUTPUT_GRACE_S: Final = 60.0
OUTPUT_BYTES_ALL_MAX: Final = 1024 * 1024 * 1024
"""The same of all clients of a node together; over it, whoever has left the most unread is dropped."""
OUTPUT_BYTES_HIGH: Final = 1024 * 1024
"""Unread replies at which the connection is not read any more; a quarter of it and it is again."""

_EVENTUAL: Final = ConsistencyLevel.EVENTUAL

log = logging.getLogger("noctule.resp")


UNBLOCKED = Failure(b"UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)")
"""Redis' words to clients that wait for keys on a node which stops."""


class _Waiting(Enum):
    WAITING = 1


_WAITING: Literal[_Waiting.WAITING] = _Waiting.WAITING


class _Cell:
    """The place of one reply in the queue of its connection; a `ReplySink`."""

    __slots__ = ("connection", "protocol", "reply")

    def __init__(self, connection: "RespConnection", protocol: RespVersion) -> None:
        self.connection = connection
        self.protocol: RespVersion = protocol
        self.reply: Reply | Literal[_Waiting.WAITING] = _WAITING

    def deliver(self, reply: Reply) -> None:
        self.reply = reply
        connection = self.connection
        # Only the head can leave, and then everything behind it that is answered leaves with it.
        if not connection.is_flush_scheduled and connection.cells and connection.cells[0] is self:
            connection.schedule_flush()


class _Leaving:
    """The sink of a command of a database, whose reply may hold keys."""

    __slots__ = ("_cell", "_leave", "_prefix")

    def __init__(self, cell: _Cell, leave: Leave, prefix: bytes) -> None:
        self._cell = cell
        self._leave = leave
        self._prefix = prefix

    def deliver(self, reply: Reply) -> None:
        self._cell.deliver(self._leave(self._prefix, reply))


class _LaterCell(_Cell):
    """The place of a command that is carried out once nothing before it is owed any more, and it is ready."""

    __slots__ = ("carry_out",)

    def __init__(self, connection: "RespConnection", protocol: RespVersion) -> None:
        super().__init__(connection, protocol)
        self.carry_out: Callable[[], Reply] | None = None
        """Set once it is ready; may change the protocol."""

    def is_ready(self, carry_out: Callable[[], Reply]) -> None:
        """It waits for nothing but its turn."""
        self.carry_out = carry_out
        connection = self.connection
        if not connection.is_flush_scheduled and connection.cells and connection.cells[0] is self:
            connection.schedule_flush()


class Timer(Protocol):
    """What can be taken back, as `asyncio.TimerHandle`."""

    def cancel(self) -> None:
        """Let it not happen."""
        ...


class Loop(Protocol):
    """What a connection needs of the event loop."""

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """As `AbstractEventLoop.call_soon`."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None], /) -> "Timer":
        """As `AbstractEventLoop.call_later`."""
        ...


class Owner(Door, Protocol):
    """The server as its connections need it."""

    commands_total: int
    protocol_errors_total: int
    clients_dropped_total: int

    def admit(self, connection: "RespConnection", transport: asyncio.Transport) -> Client | None:
        """Enter a connection among those served; None when there are too many."""
        ...

    def forget(self, connection: "RespConnection") -> None:
        """The connection is closed. Unknown ones are ignored."""
        ...

    def note_unread(self, connection: "RespConnection") -> None:
        """A client that does not read is owed more: see that all together are not owed too much."""
        ...


class RespConnection(asyncio.Protocol):
    """From `connection_made` to `connection_lost`. Whoever stops the server calls `finish`, then `abort`.

    Ten thousand may be idle at once, so one costs little then: slots, and a single deque, of which even an empty one
    takes 760 bytes.
    """

    __slots__ = (
        "_backlog",
        "_clock",
        "_conversation",
        "_heard",
        "_is_ending",
        "_is_held",
        "_is_open",
        "_is_output_high",
        "_is_reading",
        "_left",
        "_loop",
        "_output_timer",
        "_owner",
        "_parser",
        "_push_bytes",
        "_queued",
        "_read_keys",
        "_submit",
        "_transport",
        "_unanswered_bytes",
        "cells",
        "client",
        "is_cluster",
        "is_flush_scheduled",
    )

    def __init__(self, owner: Owner, store: Store, loop: Loop, *, is_cluster: bool = False) -> None:
        self.is_cluster = is_cluster
        """Whether it came to the cluster face."""
        self.cells: deque[_Cell] = deque()
        """Commands whose replies have not left, oldest first."""
        self.is_flush_scheduled = False
        self.client: Client
        self._owner = owner
        self._loop = loop
        self._conversation = store.conversation()
        self._submit = self._conversation.submit
        self._read_keys = self._conversation.read_keys
        self._clock = owner.clock
        self._transport: asyncio.Transport
        self._parser = CommandParser()
        self._backlog: list[Received] = []
        """Parsed and not begun: the rest of one chunk, when the pipeline is full, or what is held."""
        self._is_held = False
        """Whether an errand has to be finished before anything else is begun."""
        self._unanswered_bytes = 0
        """What has been read since the client was last owed nothing."""
        self._is_open = False
        self._is_ending = False
        """Nothing more is read; the connection closes once nothing is owed."""
        self._is_reading = True
        self._is_output_high = False
        self._output_timer: Timer | None = None
        self._left = 0
        """How many cells have left since the beginning."""
        self._heard: list[bytes] = []
        """Messages for the next write."""
        self._queued: list[tuple[int, int]] = []
        """The confirmations and messages among the cells: how many cells will have left with each, and its bytes."""
        self._push_bytes = 0
        """Of both."""

    # What asyncio calls ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the client, or tell it that there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        client = self._owner.admit(self, self._transport)
        if client is None:
            self._transport.write(b"-ERR max number of clients reached\r\n")
            self._transport.close()
            return
        self.client = client
        client.conversation = self._conversation
        self._is_open = True
        self._transport.set_write_buffer_limits(high=OUTPUT_BYTES_HIGH)

    def data_received(self, data: bytes) -> None:
        """Begin the commands that this chunk completes."""
        if not self._is_open or self._is_ending:
            return
        client = self.client
        client.seen_at = self._clock.now()
        commands = self._parser.feed(data)
        if client.consistency is _EVENTUAL and not self.cells and not self._backlog and client.is_plain:
            commands = self._answer_reads(commands)
            if not commands and self._parser.error is None:
                return
        self._unanswered_bytes = len(data) + (self._unanswered_bytes if self.cells else 0)
        if self._backlog or self._is_held:
            self._backlog.extend(commands)
        elif commands:
            self._begin(commands)
        self._go_on()

    def eof_received(self) -> bool:
        """The client sends no more, as ``printf … | nc``: it still gets the replies it is owed."""
        if not self._is_open:
            return False
        self._is_ending = True
        if self._conversation.hang_up():
            self._transport.close()  # As in Redis, where who waits for a key must not only listen.
            return False
        self._go_on()
        return not self._transport.is_closing()

    def pause_writing(self) -> None:
        """The client does not read its replies."""
        self._is_output_high = True
        self._choose_reading()

    def resume_writing(self) -> None:
        """The client has read most of its replies."""
        self._is_output_high = False
        if self._output_timer is not None:
            self._output_timer.cancel()
            self._output_timer = None
        self._go_on()

    def connection_lost(self, _error: Exception | None) -> None:
        """Drop what is owed; replies that come later find no cell."""
        self._is_open = False
        self.cells.clear()
        self._backlog.clear()
        self._heard.clear()
        self._conversation.leave()
        if self._output_timer is not None:
            self._output_timer.cancel()
        self._owner.forget(self)

    def hear(self, message: Message) -> None:
        """Something was published to which the client is subscribed; into the next write, in the order of calls."""
        if not self._is_open or self._transport.is_closing():
            return
        data = message.encoded(self.client.protocol)
        if self._queued:
            self._answer(Encoded(data))
        else:
            self._heard.append(data)
            self._push_bytes += len(data)
            if not self.is_flush_scheduled:
                self.schedule_flush()
        if self._push_bytes > PUBSUB_OUTPUT_BYTES_MAX:
            self.drop(self._transport.get_write_buffer_size() + self._push_bytes)

    # What the server calls -------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Begin no further command; close once those begun are answered, which those that wait for keys are now."""
        self._is_ending = True
        self._backlog.clear()
        self._conversation.end_waits(UNBLOCKED)
        self._go_on()

    def abort(self) -> None:
        """Close now, with replies unsent."""
        self._transport.abort()

    # Commands --------------------------------------------------------------------------------------------------------

    def _begin(self, commands: list[Received]) -> None:
        """Begin as many as the pipeline has room for; the rest waits in the backlog."""
        room = max(PIPELINE_COMMANDS_MAX - len(self.cells), 0)
        if len(commands) > room:
            self._backlog.extend(commands[room:])
            commands = commands[:room]
        client, cells, submit, find_handler = self.client, self.cells, self._submit, HANDLERS.get
        self._owner.commands_total += len(commands)
        left = iter(commands)
        if not client.is_plain:
            self._begin_with_care(left)
            return
        for command in left:
            if isinstance(command, Failure):
                self._answer(command)
                continue
            client.last_command = command[0]
            handler = find_handler(command[0].upper())
            if handler is None:
                cell = _Cell(self, client.protocol)
                cells.append(cell)
                submit(command, cell, client.consistency)
            else:
                self._handle(handler, command)
                if self._is_held or client.is_closing or not client.is_plain:
                    self._begin_with_care(left)
                    return

    def _answer_reads(self, commands: list[Received]) -> list[Received]:
        """Answer reads of single keys, which may be eventual, at once; what is left begins with something else.

        Nothing must be owed before them, so they need no place in the queue and no turn of the loop.
        """
        client, protocol, wall_ms = self.client, self.client.protocol, self._clock.wall_ms()
        parts: list[bytes] = []
        count, answered, size = len(commands), 0, 0
        while answered < count and size <= OUTPUT_BYTES_HIGH:
            replies = self._read_keys(commands, answered, wall_ms)
            if not replies:
                break
            answered += len(replies)
            part = encode_replies(replies, protocol)
            parts.append(part)
            size += len(part)
        if not answered:
            return commands
        self._owner.commands_total += answered
        last = commands[answered - 1]
        assert isinstance(last, list)
        client.last_command = last[0]
        return commands[answered:] if self._write(parts) else []

    def _begin_with_care(self, commands: Iterator[Received]) -> None:
        """Begin commands of a client that `is_plain` is not true of; what is held goes to the backlog."""
        client = self.client
        while not client.is_closing:
            if self._is_held:
                held = list(commands)
                self._owner.commands_total -= len(held)
                self._backlog[:0] = held
                return
            command = next(commands, None)
            if command is None:
                return
            if isinstance(command, Failure):
                self._answer(command)
            else:
                client.last_command = command[0]
                self._begin_one(command)
        self._is_ending = True
        self._backlog.clear()

    def _begin_one(self, command: list[bytes]) -> None:
        client, name = self.client, command[0].upper()
        handler = HANDLERS.get(name)
        is_limited = client.subscriber.names and client.protocol == 2
        if is_limited and (refusal := refusal_while_subscribed(handler, command)):
            self._answer(refusal)
        elif client.transaction is not None and name not in AT_ONCE:
            self._answer(client.transaction.queue(command, handler, self._owner))
        elif handler is not None:
            self._handle(handler, command)
        else:
            entered = enter(client.database, command)
            if isinstance(entered, Failure):
                self._answer(entered)
            else:
                sink = _Leaving(self._new_cell(), leave_of(name), database_prefix(client.database))
                self._conversation.submit_own(entered, sink, client.consistency)

    def _handle(self, handler: Handler, command: list[bytes]) -> None:
        """A command that the server answers by itself, perhaps with the help of the store."""
        if self.cells and handler in BEHIND_EARLIER:
            self._new_later_cell().is_ready(lambda: self._answer_now(handler, command))
            return
        reply = answer_command(handler, self._owner, self.client, command)
        if not isinstance(reply, Errand):
            self._answer(reply)
        elif reply.holds:
            self._run_held(reply)
        else:
            self._run(reply)

    def _answer_now(self, handler: Handler, command: list[bytes]) -> Reply:
        reply = answer_command(handler, self._owner, self.client, command)
        assert not isinstance(reply, Errand)
        return reply

    def _run(self, errand: Errand) -> None:
        cell = self._new_cell()
        errand.run(self._conversation, lambda replies: cell.deliver(errand.finish(replies)))

    def _run_held(self, errand: Errand) -> None:
        """Nothing begins until it is finished, and that is not before all that was sent earlier is answered."""
        cell = self._new_later_cell()
        self._is_held = True

        def finish(replies: list[Reply]) -> Reply:
            reply = errand.finish(replies)
            cell.protocol = self.client.protocol  # A HELLO may have been among what was finished.
            self._is_held = False
            return reply

        errand.run(self._conversation, lambda replies: cell.is_ready(lambda: finish(replies)))

    def _new_later_cell(self) -> _LaterCell:
        cell = _LaterCell(self, self.client.protocol)
        self.cells.append(cell)
        return cell

    def _new_cell(self) -> _Cell:
        cell = _Cell(self, self.client.protocol)
        self.cells.append(cell)
        return cell

    def _answer(self, reply: Reply) -> None:
        cell = self._new_cell()
        if isinstance(reply, Encoded):
            self._queued.append((self._left + len(self.cells), len(reply.data)))
            self._push_bytes += len(reply.data)
        cell.deliver(reply)

    def _go_on(self) -> None:
        """Begin what waits if there is room; once nothing waits, answer garbage that came last; close or read on."""
        if not self._is_open:
            return
        has_room = len(self.cells) <= PIPELINE_COMMANDS_MAX // 2 and not self._is_output_high
        if self._backlog and has_room and not self._is_held:
            waiting, self._backlog = self._backlog, []
            self._begin(waiting)
        if self._parser.error is not None and not self._backlog and not self._is_ending:
            self._is_ending = True
            self._owner.protocol_errors_total += 1
            log.warning("resp_protocol_error", extra={"fields": {"client": self.client.id}})
            self._answer(self._parser.error)
        if self._is_ending and not self.cells and not self._backlog:
            self._transport.close()
        else:
            self._choose_reading()

    def _choose_reading(self) -> None:
        """Read while there is room. A full pipeline is read again at half; too many bytes, once all are answered."""
        if not self._is_open or self._transport.is_closing():
            return
        cells_max = PIPELINE_COMMANDS_MAX - 1 if self._is_reading else PIPELINE_COMMANDS_MAX // 2
        is_wanted = (
            len(self.cells) <= cells_max
            and (not self.cells or self._unanswered_bytes <= PIPELINE_BYTES_MAX)
            and not self._backlog
            and not self._is_output_high
            and not self._is_ending
        )
        if is_wanted != self._is_reading:
            self._is_reading = is_wanted
            if is_wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # Replies ---------------------------------------------------------------------------------------------------------

    def schedule_flush(self) -> None:
        """Write what is answered at the end of this turn of the loop."""
        self.is_flush_scheduled = True
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.is_flush_scheduled = False
        if not self._is_open or self._transport.is_closing():
            return
        cells, size, count = self.cells, 0, len(self.cells)
        parts = self._take_heard() if self._heard else []
        try:
            while cells:
                reply = cells[0].reply
                if reply is _WAITING:
                    if not isinstance(cells[0], _LaterCell) or cells[0].carry_out is None:
                        break
                    heard = self._carry_out(cells[0], cells[0].carry_out, count - len(cells))
                    parts += heard
                    size += sum(map(len, heard))
                    count = len(cells)
                    if self._transport.is_closing():
                        return  # It heard more of itself than it may.
                    continue
                part = encode_reply(reply, cells.popleft().protocol)
                parts.append(part)
                size += len(part)
                if size > OUTPUT_BYTES_HIGH:
                    # Thousands of large values may be due at once: they are never joined into one, and other
                    # clients have their turn between them. In one go, 512 MB were seconds of silence for all.
                    self._left += count - len(cells)
                    if self._write(parts):
                        self.schedule_flush()
                    return
        except NoctuleError:
            # A reply without an encoding: what follows would be taken for the answer to another command.
            self.abort()
            raise
        self._left += count - len(cells)
        if self._queued:
            self._dequeue()
        if not parts or self._write(parts):
            self._go_on()

    def _take_heard(self) -> list[bytes]:
        heard, self._heard = self._heard, []
        self._push_bytes -= sum(map(len, heard))
        return heard

    def _dequeue(self) -> None:
        """Forget the pushes that have left with their cells."""
        gone = 0
        for left, size in self._queued:
            if left > self._left:
                break
            self._push_bytes -= size
            gone += 1
        del self._queued[:gone]

    def _carry_out(self, cell: _LaterCell, carry_out: Callable[[], Reply], left: int) -> list[bytes]:
        """Everything before the cell has left, `left` of them just now; returns what the client heard of it itself."""
        self._left += left
        self._dequeue()
        cell.reply = carry_out()
        return self._take_heard()

    def _write(self, parts: list[bytes]) -> bool:
        """Hand bytes to the transport; False when the client has left too many unread and is dropped."""
        if self._is_output_high:  # Hardly ever, and below it no bound is near.
            unread_bytes = self._transport.get_write_buffer_size()
            bytes_max, bytes_target = self._output_bounds()
            if unread_bytes > bytes_max:
                self.drop(unread_bytes)
                return False
            if unread_bytes > bytes_target and self._output_timer is None:
                self._output_timer = self._loop.call_later(OUTPUT_GRACE_S, self._check_output)
        self._transport.write(b"".join(parts))
        if self._is_output_high:
            self._owner.note_unread(self)
            if self._transport.is_closing():
                return False
        return True

    def _output_bounds(self) -> tuple[int, int]:
        if self.client.subscriber.names:
            return PUBSUB_OUTPUT_BYTES_MAX, PUBSUB_OUTPUT_BYTES_TARGET
        return OUTPUT_BYTES_MAX, OUTPUT_BYTES_TARGET

    def _check_output(self) -> None:
        self._output_timer = None
        unread_bytes = self._transport.get_write_buffer_size()
        if self._is_open and unread_bytes > self._output_bounds()[1]:
            self.drop(unread_bytes)

    @property
    def unread_bytes(self) -> int:
        """Replies that the client has not read, as far as they are not with the kernel."""
        return self._transport.get_write_buffer_size()

    def drop(self, unread_bytes: int) -> None:
        """Close now, for so much that the client has not read."""
        self._owner.clients_dropped_total += 1
        log.warning("resp_client_dropped", extra={"fields": {"client": self.client.id, "unread_bytes": unread_bytes}})
        self.abort()
