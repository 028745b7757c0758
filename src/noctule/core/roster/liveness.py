"""Which nodes seem alive, seen from one node: heartbeats in pairs, whatever the number of groups.

A node that says something says that it lives; only when nothing else went to a peer for an interval is there a
heartbeat, an empty frame. A closed connection is suspicion at once; silence is judged by `phi.py`. Nothing that must be
safe rests on any of this: who is suspected wrongly is trusted again by its next frame. ADR 0017 tells who asks.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Struct

from noctule.base.ensure import ensure
from noctule.base.ids import Instant
from noctule.core.roster.phi import PhiDetector

HEARTBEAT_S = 0.05
"""Between two signs of life to a peer. A silent peer is suspected after about ten of them."""
PEERS_AT_FULL_RATE = 10
"""With more peers than this the interval grows with their number, so that a node never sends more than 200 heartbeats
a second; with 100 peers silence is noticed after about 5 s, a closed connection at once as ever."""
SUSPICION_PHI = 8.0
LOOKS_PER_INTERVAL = 5
"""How often the peers are looked at; heartbeats and suspicions are this exact."""

# Events ---------------------------------------------------------------------------------------------------------------


class FrameSent(Struct, frozen=True, gc=False):
    """A frame left for this node: no heartbeat is needed for a while."""

    node: int


class FrameHeard(Struct, frozen=True, gc=False):
    """A frame came from this node."""

    node: int


class Connected(Struct, frozen=True, gc=False):
    """Frames to this node leave now; it is in this incarnation."""

    node: int
    incarnation: int


class Disconnected(Struct, frozen=True, gc=False):
    """A connection from or to this node was closed."""

    node: int


class PeersChanged(Struct, frozen=True, gc=False):
    """These are the other nodes now."""

    nodes: tuple[int, ...]


class Tick(Struct, frozen=True, gc=False):
    """Time has passed; due when `next_deadline()` is reached, harmless before."""


Event: TypeAlias = FrameSent | FrameHeard | Connected | Disconnected | PeersChanged | Tick

# Effects --------------------------------------------------------------------------------------------------------------


class SendHeartbeat(Struct, frozen=True, gc=False):
    """Send an empty frame, if there is a connection."""

    node: int


class Suspected(Struct, frozen=True, gc=False):
    """This node seems gone, or the process that it was has been replaced."""

    node: int


class Trusted(Struct, frozen=True, gc=False):
    """This node, which was suspected, is there."""

    node: int


Effect: TypeAlias = SendHeartbeat | Suspected | Trusted


@dataclass(frozen=True, slots=True)
class PeerLiveness:
    """What `describe()` shows of one peer."""

    is_suspected: bool
    heard_at: Instant | None
    """None before the first frame."""
    phi: float


class _Peer:
    __slots__ = ("detector", "has_spoken", "incarnation", "is_suspected", "sent_at")

    def __init__(self, interval_s: float, now: Instant) -> None:
        self.detector = PhiDetector(interval_s, now)
        self.incarnation = 0
        self.is_suspected = False
        self.has_spoken = False
        self.sent_at = now


class Liveness:
    """One node's view of the others. Who is not a peer is nobody: what is told of it changes nothing."""

    def __init__(self, peers: Collection[int], now: Instant, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._heartbeat_s = heartbeat_s
        self._peers: dict[int, _Peer] = {}
        self._interval_s = heartbeat_s
        self._look_at = now
        self._former: set[int] = set()
        """Those who were told as suspected when they ceased to be peers."""
        self._effects: list[Effect] = []
        self._change_peers(tuple(peers), now)

    # The four methods of a machine -----------------------------------------------------------------------------------

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """Take one event in; return what is to be done, in order."""
        match event:
            case FrameSent(node):
                if node in self._peers:
                    self._peers[node].sent_at = now
            case FrameHeard(node):
                if node in self._peers:
                    self._heard(node, self._peers[node], now)
            case Tick():
                self._tick(now)
            case Connected(node, incarnation):
                if node in self._peers:
                    self._connected(node, self._peers[node], incarnation, now)
            case Disconnected(node):
                if node in self._peers:
                    self._suspect(node, self._peers[node])
            case PeersChanged(nodes):
                self._change_peers(nodes, now)
        effects, self._effects = self._effects, []
        return effects

    def next_deadline(self) -> Instant:
        """When the next `Tick` is due."""
        return self._look_at

    def check(self) -> None:
        """Raise `InternalError` when an invariant is broken."""
        ensure(not self._effects, "every effect is handed out")

    def describe(self) -> Mapping[int, PeerLiveness]:
        """Each peer as of the last `Tick`."""
        now = Instant(self._look_at - self._interval_s / LOOKS_PER_INTERVAL)
        return {
            node: PeerLiveness(
                peer.is_suspected, peer.detector.heard_at if peer.has_spoken else None, peer.detector.phi(now)
            )
            for node, peer in self._peers.items()
        }

    def suspects(self, node: int) -> bool:
        """Whether this peer seems gone; nobody suspects who is no peer."""
        return node in self._peers and self._peers[node].is_suspected

    # Events ----------------------------------------------------------------------------------------------------------

    def _heard(self, node: int, peer: _Peer, now: Instant) -> None:
        peer.detector.heard(now)
        peer.has_spoken = True
        if peer.is_suspected:
            self._trust(node, peer)

    def _connected(self, node: int, peer: _Peer, incarnation: int, now: Instant) -> None:
        if peer.incarnation not in (0, incarnation):
            self._suspect(node, peer)  # Whatever the process that was there led, it leads no more.
        peer.incarnation = incarnation
        peer.detector = PhiDetector(self._interval_s, now)
        if peer.is_suspected:
            self._trust(node, peer)

    def _tick(self, now: Instant) -> None:
        look_s = self._interval_s / LOOKS_PER_INTERVAL
        late_s = now - self._look_at
        self._look_at = Instant(now + look_s)
        if late_s > look_s:
            # This process was stopped, or busy: what came meanwhile is not read yet, so nobody was silent for us.
            for peer in self._peers.values():
                peer.detector.forgive(late_s, now)
        for node, peer in self._peers.items():
            if now >= peer.sent_at + self._interval_s:
                peer.sent_at = now
                self._effects.append(SendHeartbeat(node))
            if not peer.is_suspected and peer.detector.phi(now) >= SUSPICION_PHI:
                self._suspect(node, peer)

    def _suspect(self, node: int, peer: _Peer) -> None:
        if not peer.is_suspected:
            peer.is_suspected = True
            self._effects.append(Suspected(node))

    def _trust(self, node: int, peer: _Peer) -> None:
        peer.is_suspected = False
        self._effects.append(Trusted(node))

    def _change_peers(self, nodes: tuple[int, ...], now: Instant) -> None:
        self._interval_s = self._heartbeat_s * max(1.0, len(nodes) / PEERS_AT_FULL_RATE)
        before, self._peers = self._peers, {}
        for node in sorted(nodes):
            self._peers[node] = before.pop(node) if node in before else self._new_peer(node, now)
            self._peers[node].detector.interval_s = self._interval_s
        for node, peer in before.items():
            self._suspect(node, peer)  # Nobody listens to it any more, so whatever it leads must not wait for it.
        self._former |= before.keys()

    def _new_peer(self, node: int, now: Instant) -> _Peer:
        """One that was a peer before is trusted by its first frame; nobody would be told else that it is there."""
        peer = _Peer(self._interval_s, now)
        peer.is_suspected = node in self._former
        self._former.discard(node)
        return peer
