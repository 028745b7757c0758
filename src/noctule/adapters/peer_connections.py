"""What all transports have in common: who may talk to this node, who is connected, and who is dialled again.

Every node dials every other and sends on the connection it dialled; what it accepts it only reads. So neither side has
to agree on whose connection survives when both dial at once. Of those that one process dialled only the newest is read:
its frames come in the order in which they were sent, also when a connection broke, and took some with it. Both
introduce themselves by a `Hello`; a peer of another cluster, protocol or settings is refused with a reason that both
log.
"""

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from msgspec import structs

from noctule.adapters.transport_port import Address, Receiver
from noctule.core.wire.messages import Hello

log = logging.getLogger("noctule.transport")

SEND_BUFFER_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes waiting for one peer; over it frames are dropped, which Raft and the router survive."""
STRANGERS_MAX: Final = 64
"""Complaints about strangers that are remembered, so that each is logged once."""
HANDSHAKE_TIMEOUT_S: Final = 2.0
RECONNECT_DELAY_S_MIN: Final = 0.02
RECONNECT_DELAY_S_MAX: Final = 1.0


def refusal_of(own: Hello, other: Hello, expected: int | None) -> str:
    """Why these two must not talk, in words for an operator; empty when they may.

    In the same words on both sides: whoever speaks first, each logs one reason, and that once.
    """
    if other.refusal:
        return other.refusal
    one, two = sorted((own, other), key=lambda hello: hello.node_id)
    if one.protocol != two.protocol:
        return f"node {one.node_id} speaks protocol {one.protocol}, node {two.node_id} speaks {two.protocol}"
    if one.cluster != two.cluster:
        return f"node {one.node_id} is of cluster {one.cluster!r}, node {two.node_id} of {two.cluster!r}"
    if one.cluster_id and two.cluster_id and one.cluster_id != two.cluster_id:
        return (
            f"nodes {one.node_id} and {two.node_id} are of two clusters that are both called {one.cluster!r}: "
            f"{one.cluster_id} and {two.cluster_id}"
        )
    if one.fingerprint and two.fingerprint and one.fingerprint != two.fingerprint:
        return f"nodes {one.node_id} and {two.node_id} have different cluster settings (voters, partitions)"
    if expected is not None and other.node_id != expected:
        return f"node {other.node_id} answers at the address of node {expected}"
    if expected is None and other.node_id == own.node_id:
        return f"two processes call themselves node {own.node_id}"
    return ""


class Connection(Protocol):
    """One connection, dialled or accepted."""

    hello: Hello | None
    """What the peer said of itself; None until it was let in."""

    def send(self, frame: bytes) -> bool:
        """Take a frame to send; False when it is dropped because too many wait."""
        ...

    def unsent_bytes(self) -> int:
        """How much of what was sent still waits here."""
        ...

    def abort(self) -> None:
        """Close now; `PeerConnections.lost` follows in a later turn of the loop."""
        ...


class PeerConnections(ABC):
    """A `Transport` but for the sockets: `listen`, `dial_once` and `stop_listening` are for the classes below it."""

    def __init__(
        self,
        hello: Hello,
        receiver: Receiver,
        chance: random.Random,
        admit: Callable[[Hello], str] = lambda _: "",
    ) -> None:
        self.hello = hello
        self.hellos: dict[int, Hello] = {}
        """What each peer said of itself, by whichever of the two dialled; it stays when the peer is gone.

        A peer may be dialled before its doors are open and not know them yet; by the time it dials itself it does.
        """
        self.receiver = receiver
        self.admit = admit
        """Why a peer that is of this cluster must be kept out all the same; empty when it may come in."""
        self.farewell: Callable[[int], str] = lambda _: ""
        """How a node ceased to be a member, in words for its operator; empty when it never was one, or still is."""
        self.meet: Callable[[Hello], bool] = lambda _: False
        """Whether a stranger of this cluster may be a new member of which this node has not heard; then it is among the
        peers by `set_peers` when this returns."""
        self.dismissed: Callable[[str], None] = lambda _: None
        """Told how, when a peer says that this node is no member any more."""
        self.peers: Mapping[int, Address] = {}
        """The others, and where to dial them; `set_peers` changes it."""
        self.loop = asyncio.get_running_loop()
        self.accepted: set[Connection] = set()
        self.refusals: dict[int, str] = {}
        """For each peer that must not talk to us: why."""
        self.frames_dropped = 0
        self._strangers: dict[str, str] = {}
        """What was last said of those that are no peers, by their ids or hosts."""
        self._chance = chance
        self._outgoing: dict[int, Connection] = {}
        self._incoming: dict[int, Connection] = {}
        self._incarnations: dict[int, int] = {}
        self._is_dialling = False
        self._diallers: dict[int, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        """Diallers that were cancelled and have not ended yet."""

    @abstractmethod
    async def listen(self, host: str, port: int) -> int:
        """Accept peers; returns the port. Raises `ConfigError` when the port is in use."""

    @abstractmethod
    def stop_listening(self) -> None:
        """Accept nobody any more."""

    @abstractmethod
    async def dial_once(self, node: int, address: Address) -> bool:
        """Connect, and return once the connection is closed: whether the peer was met. Raises nothing of the network's.

        When cancelled it closes the connection.
        """

    def set_peers(self, addresses: Mapping[int, Address]) -> None:
        """Know these peers and no others, from now on.

        Once `dial` was called, new ones are dialled and those whose address changed are dialled anew. Those who are
        left out are forgotten: their connections are closed and frames to them dropped. The receiver hears of what was
        closed by this in a later turn of the loop, so it may call from anywhere.
        """
        before, self.peers = self.peers, dict(addresses)
        for node in before:
            if self.peers.get(node) != before[node]:
                self._cease_dialling(node)
            if node not in self.peers:
                self._forget(node)
        if self._is_dialling:
            self.dial()

    def dial(self) -> None:
        """Begin to dial every peer, and keep dialling whoever is away."""
        self._is_dialling = True
        for node in self.peers.keys() - self._diallers.keys():
            self._diallers[node] = self.loop.create_task(self._keep_dialling(node), name=f"dial node {node}")

    def send(self, to: int, frame: bytes) -> bool:
        """Send a frame; False when the peer is away or too far behind, and the frame is dropped."""
        connection = self._outgoing.get(to)
        if connection is not None and connection.send(frame):
            return True
        self.frames_dropped += 1
        return False

    def is_connected(self, node: int) -> bool:
        """Whether frames to this peer leave."""
        return node in self._outgoing

    def unsent_bytes(self, node: int) -> int | None:
        """How much of what was sent to this peer still waits here; None when it is not connected."""
        connection = self._outgoing.get(node)
        return None if connection is None else connection.unsent_bytes()

    def disconnect(self) -> None:
        """Leave for good: stop listening and dialling, close every connection."""
        self._is_dialling = False
        for node in self.peers:
            self._cease_dialling(node)
        self.stop_listening()
        for connection in [*self._outgoing.values(), *self.accepted]:
            connection.abort()

    async def close(self) -> None:
        """`disconnect`, and wait for the diallers to end."""
        self.disconnect()
        await asyncio.gather(*self._ending, return_exceptions=True)

    # Called by connections -------------------------------------------------------------------------------------------

    def introduced(self, connection: Connection, hello: Hello, expected: int | None) -> str:
        """A peer said who it is: let it in, or say why not; `expected` is the node that was dialled, or None.

        Whoever accepts must answer by `answer_to` with what this gave, and then close when there was a refusal.
        """
        refusal = refusal_of(self.hello, hello, expected)
        if not refusal and hello.node_id not in self.peers and not self._may_be_new(hello):
            stranger = f"node {hello.node_id} is not a member of the cluster of node {self.hello.node_id}"
            refusal = self.farewell(hello.node_id) or stranger
        if not refusal:
            refusal = self.admit(hello)
        if refusal:
            self.refused(expected or hello.node_id, refusal)
            if hello.is_gone and self._is_of_ours(hello):
                self.dismissed(refusal)
            return refusal
        connection.hello = hello
        self._established(connection, hello, is_dialled=expected is not None)
        return ""

    def answer_to(self, node: int, refusal: str) -> Hello:
        """What an accepting side says of itself, or why it will not talk to that node."""
        if not refusal:
            return self.hello
        return structs.replace(self.hello, refusal=refusal, is_gone=refusal == self.farewell(node))

    def lost(self, connection: Connection) -> None:
        """A connection is closed."""
        self.accepted.discard(connection)
        if connection.hello is None:
            return
        node = connection.hello.node_id
        for table in (self._outgoing, self._incoming):
            if table.get(node) is connection:
                del table[node]
                self._tell_disconnected(node)

    def refused(self, node: int, reason: str) -> None:
        """A peer and this node must not talk."""
        is_peer = node in self.peers
        known = self.refusals.get(node) if is_peer else self._strangers.get(str(node))
        if known != reason:
            log.error("peer_refused", extra={"fields": {"peer": node, "reason": reason}})
        if is_peer:
            self.refusals[node] = reason
        else:
            self._remember(str(node), reason)

    def secrecy_failed(self, host: str, reason: str) -> None:
        """A caller from this host could not be made sure of by TLS; it has not said who it is."""
        if self._strangers.get(host) != reason:
            log.warning("peer_tls_failed", extra={"fields": {"host": host, "reason": reason}})
        self._remember(host, reason)

    # Own --------------------------------------------------------------------------------------------------------------

    def _established(self, connection: Connection, hello: Hello, *, is_dialled: bool) -> None:
        node = hello.node_id
        known = self.hellos.get(node)
        if known is None or known.incarnation != hello.incarnation or hello.resp or not known.resp:
            self.hellos[node] = hello
        if self._incarnations.setdefault(node, hello.incarnation) != hello.incarnation:
            # The process was replaced, and the old one's connection may not have been missed yet.
            self._incarnations[node] = hello.incarnation
            self.receiver.peer_disconnected(node)
        elif not is_dialled and (older := self._incoming.get(node)) is not None:
            # It gave that one up. What is still to be read there would come behind what the new one brings.
            older.abort()
            self._tell_disconnected(node)
        if not is_dialled:
            self._incoming[node] = connection
            return
        self._outgoing[node] = connection
        self.refusals.pop(node, None)
        log.info("peer_connected", extra={"fields": {"peer": node}})
        self.receiver.peer_connected(hello)

    def _may_be_new(self, hello: Hello) -> bool:
        return hello.cluster_id != "" and self._is_of_ours(hello) and self.meet(hello)

    def _is_of_ours(self, hello: Hello) -> bool:
        """Whether it can know who belongs to this node's cluster."""
        is_same = hello.cluster_id == self.hello.cluster_id or not self.hello.cluster_id
        return is_same and hello.cluster == self.hello.cluster

    def _tell_disconnected(self, node: int) -> None:
        log.info("peer_disconnected", extra={"fields": {"peer": node}})
        self.receiver.peer_disconnected(node)

    def _remember(self, stranger: str, reason: str) -> None:
        if len(self._strangers) >= STRANGERS_MAX:
            self._strangers.clear()  # They may call themselves anything.
        self._strangers[stranger] = reason

    def _cease_dialling(self, node: int) -> None:
        """No longer dial a peer, and close what was dialled."""
        if (dialler := self._diallers.pop(node, None)) is not None:
            dialler.cancel()
            self._ending.add(dialler)
            dialler.add_done_callback(self._ending.discard)
        if (connection := self._outgoing.pop(node, None)) is not None:
            connection.abort()
            self.loop.call_soon(self._tell_disconnected, node)

    def _forget(self, node: int) -> None:
        """Close what a former peer dialled, and know nothing of it."""
        for connection in self.accepted:
            if connection.hello is not None and connection.hello.node_id == node:
                connection.abort()  # `lost` will tell.
        self.refusals.pop(node, None)
        self._incarnations.pop(node, None)
        self.hellos.pop(node, None)

    async def _keep_dialling(self, node: int) -> None:
        address = self.peers[node]
        delay = RECONNECT_DELAY_S_MIN
        while True:
            if await self.dial_once(node, address):
                delay = RECONNECT_DELAY_S_MIN
            # Jitter, so that two nodes which lost each other do not meet at the same instants for ever.
            await asyncio.sleep(delay * self._chance.uniform(0.5, 1.0))
            delay = min(delay * 2, RECONNECT_DELAY_S_MAX)
