"""What liveness.py takes in, and what is to be done for it."""

from typing import TypeAlias

from msgspec import Struct


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
