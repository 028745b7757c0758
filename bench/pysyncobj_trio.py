"""Three nodes of PySyncObj (MIT) in this process, under a transport that hands messages over in memory. No I/O.

It has no such transport of its own, so one is written here against its public `Transport`. README.md beside this file
says what was changed, and that all of it makes PySyncObj faster, not slower.
"""

import logging
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from noctule_trio import TurnClock
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated, syncobj
from pysyncobj import pickle as pysyncobj_pickle
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from noctule.base.errors import UnavailableError

BATCH_PERIOD_S = 0.005
"""Between two rounds of AppendEntries when it batches; its default of 0.1 s made a third of the proposals."""
COMPRESSION_LEVEL = 3
"""As in its TcpConnection."""
NEVER = 10**9


class PySyncObjTrio:
    """Three `SyncObj`s that are driven by `doTick`, with no journal and no dump, so that all is in memory.

    `is_batching` is its `appendEntriesUseBatch`: else each command is sent to each follower at once, by itself. With
    `is_encoded` a message travels as its TcpConnection would send it, pickled and compressed, else as the object it is.
    """

    def __init__(self, *, is_batching: bool, is_encoded: bool) -> None:
        # It says of each AppendEntries that it sent twice in a row that state may have diverged; nothing has, as is
        # checked at the end, and writing it out would cost it a part of its rate.
        logging.getLogger("pysyncobj").disabled = True
        logging.getLogger(syncobj.__name__).disabled = True
        self._clock = TurnClock()
        syncobj.monotonicTime = self._clock.now
        # The pipe wakes its thread, and there is none here.
        syncobj.PIPE_NOTIFIER_ENABLED = False
        self.acknowledged_count = 0
        nodes = [Node(str(number)) for number in (1, 2, 3)]
        transports: dict[Node, _MemoryTransport] = {}

        def transport(owner: SyncObj, own: Node, others: set[Node]) -> _MemoryTransport:
            transports[own] = _MemoryTransport(owner, own, others, transports, is_encoded=is_encoded)
            return transports[own]

        self._replicas = [
            _Values(own, [node for node in nodes if node is not own], _config(is_batching=is_batching), transport)
            for own in nodes
        ]
        self.applied: list[list[bytes]] = [replica.applied for replica in self._replicas]

    def is_ready(self) -> bool:
        """Whether a leader is there and all know it and have applied its first entry."""
        # Its leader first in each turn, as Noctule's.
        self._replicas.sort(key=lambda replica: not replica._isLeader())
        return bool(self._replicas[0]._isLeader()) and all(replica.isReady() for replica in self._replicas)

    def propose(self, values: Sequence[bytes]) -> None:
        """Call its replicated method once for each."""
        leader = self._replicas[0]
        for value in values:
            leader.put(value, callback=self._acknowledge)

    def turn(self) -> None:
        """One tick of each."""
        self._clock.turn()
        for replica in self._replicas:
            replica.doTick(0)

    def close(self) -> None:
        """End all three."""
        for replica in self._replicas:
            replica.destroy()

    def _acknowledge(self, _result: object, error: int) -> None:
        if error != FAIL_REASON.SUCCESS:
            raise UnavailableError(f"PySyncObj gave a command up with its reason {error}")
        self.acknowledged_count += 1


class _Values(SyncObj):  # type: ignore[misc]  # Its package has no types.
    """The state machine: it keeps what it is given."""

    def __init__(self, own: Node, others: list[Node], config: SyncObjConf, transport: Callable[..., Transport]) -> None:
        # Before its own attributes, so that it takes this for no part of the state that snapshots hold.
        self.applied: list[bytes] = []
        super().__init__(own, others, config, nodeClass=Node, transportClass=transport)
        self._poller = _NoSockets()

    @replicated  # type: ignore[untyped-decorator]
    def put(self, value: bytes) -> None:
        """Apply one command."""
        self.applied.append(value)


class _MemoryTransport(Transport):  # type: ignore[misc]
    """Messages wait at their receiver until the end of its tick, which is where a socket would be read."""

    def __init__(
        self,
        owner: SyncObj,
        own: Node,
        others: set[Node],
        transports: "dict[Node, _MemoryTransport]",
        *,
        is_encoded: bool,
    ) -> None:
        super().__init__(owner, own, others)
        self._own = own
        self._others = list(others)
        self._transports = transports
        self._is_encoded = is_encoded
        self._is_connected = False
        self._incoming: deque[tuple[Node, Any]] = deque()
        owner.addOnTickCallback(self._on_tick)

    def send(self, node: Node, message: Any) -> bool:
        """Always arrives."""
        if self._is_encoded:
            message = zlib.compress(pysyncobj_pickle.dumps(message), COMPRESSION_LEVEL)
        self._transports[node]._incoming.append((self._own, message))
        return True

    def _on_tick(self) -> None:
        if not self._is_connected:
            self._is_connected = True
            for node in self._others:
                self._onNodeConnected(node)
        incoming = self._incoming
        while incoming:
            sender, message = incoming.popleft()
            if self._is_encoded:
                message = pysyncobj_pickle.loads(zlib.decompress(message))
            self._onMessageReceived(sender, message)


class _NoSockets:
    """In place of its poller: a tick would else ask the system about no sockets at all."""

    def poll(self, _timeout_s: float) -> None:
        """Nothing has come."""


def _config(*, is_batching: bool) -> SyncObjConf:
    more = {"appendEntriesPeriod": BATCH_PERIOD_S} if is_batching else {}
    return SyncObjConf(
        autoTick=False,
        appendEntriesUseBatch=is_batching,
        commandsQueueSize=0,
        # Noctule's nodes write no snapshots here either.
        logCompactionMinEntries=NEVER,
        logCompactionMinTime=NEVER,
        **more,
    )
