"""The port between nodes: frames to peers, and word of who comes and goes.

Three implementations pass one suite (tests/contracts): the framed stream of transport.py, which nodes use, gRPC in
grpc_transport.py, and one in memory among the tests.
"""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from noctule.core.wire.messages import Envelope, Hello

Address: TypeAlias = tuple[str, int]
"""Host and port."""


class Receiver(Protocol):
    """Whom the transport tells. All calls come in the event loop's thread."""

    def frame_received(self, sender: int, envelopes: list[Envelope]) -> None:
        """A frame came."""

    def peer_connected(self, hello: Hello) -> None:
        """Frames sent to this peer now leave; `hello` is what it said of itself."""

    def peer_disconnected(self, node: int) -> None:
        """A connection from or to this peer was closed: its process may be gone."""


class Transport(Protocol):
    """One node's connections to all others."""

    hello: Hello
    """What this node says of itself; a change is told at the next connection."""
    frames_dropped: int
    refusals: dict[int, str]
    """For each peer that must not talk to us: why."""

    async def listen(self, host: str, port: int) -> int:
        """Accept peers; returns the port. Raises `ConfigError` when the port is in use."""
        ...

    def set_peers(self, addresses: Mapping[int, Address]) -> None:
        """Know these peers and no others, from now on.

        Once `dial` was called, new ones are dialled and those whose address changed are dialled anew. Those who are
        left out are forgotten: their connections are closed and frames to them dropped. The receiver hears of what was
        closed by this in a later turn of the loop, so it may call from anywhere.
        """
        ...

    def dial(self) -> None:
        """Begin to dial every peer, and keep dialling whoever is away."""
        ...

    def send(self, to: int, frame: bytes) -> bool:
        """Send a frame; False when the peer is away or too far behind, and the frame is dropped."""
        ...

    def is_connected(self, node: int) -> bool:
        """Whether frames to this peer leave."""
        ...

    def unsent_bytes(self, node: int) -> int | None:
        """How much of what was sent to this peer still waits here; None when it is not connected."""
        ...

    def disconnect(self) -> None:
        """Leave for good: stop listening and dialling, close every connection."""
        ...

    async def close(self) -> None:
        """`disconnect`, and wait for what that takes."""
        ...
