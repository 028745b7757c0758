"""The transport's port in memory: nodes of one network hand each other frames in later turns of the loop."""

import asyncio
import random
from dataclasses import dataclass, field

from noctule.adapters.peer_connections import PeerConnections
from noctule.adapters.transport_port import Address, Receiver
from noctule.base.errors import ConfigError, ProtocolError
from noctule.core.wire.frames import FrameReader, decode_envelopes, decode_hello, encode_hello
from noctule.core.wire.messages import Hello


@dataclass
class Network:
    """Who listens where."""

    listeners: dict[Address, "MemoryTransport"] = field(default_factory=dict)
    port: int = 0

    def free_port(self) -> int:
        """One that nobody had before."""
        self.port += 1
        return self.port


class Wire:
    """One connection: two ends that hear each other."""

    def __init__(self, owner: "MemoryTransport | None", expected: int | None) -> None:
        self.hello: Hello | None = None
        self.other: Wire
        self.closed = asyncio.get_running_loop().create_future()
        self.received: list[bytes] = []
        """By the end of a test, which has no owner."""
        self._owner = owner
        self._expected = expected

    def send(self, frame: bytes) -> bool:
        if not self.closed.done():
            asyncio.get_running_loop().call_soon(self.other.hear, frame)
        return True

    def unsent_bytes(self) -> int:
        return 0

    def abort(self) -> None:
        for end in (self, self.other):
            asyncio.get_running_loop().call_soon(end.end)

    def hear(self, frame: bytes) -> None:
        if self.closed.done():
            return
        if self._owner is None:
            self.received.append(frame)
            return
        try:
            bodies = FrameReader().feed(frame)
            if len(bodies) != 1:
                raise ProtocolError("not one frame")
            if self.hello is not None:
                self._owner.receiver.frame_received(self.hello.node_id, decode_envelopes(bodies[0]))
                return
            hello = decode_hello(bodies[0])
            refusal = self._owner.introduced(self, hello, self._expected)
            if self._expected is None:
                self.send(encode_hello(self._owner.answer_to(hello.node_id, refusal)))
            if refusal:
                self.abort()
        except ProtocolError:
            self.abort()

    def end(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
            if self._owner is not None:
                self._owner.lost(self)


class MemoryTransport(PeerConnections):
    def __init__(self, network: Network, hello: Hello, receiver: Receiver, chance: random.Random) -> None:
        super().__init__(hello, receiver, chance)
        self._network = network
        self._address: Address | None = None

    async def listen(self, host: str, port: int) -> int:
        address = (host, port or self._network.free_port())
        if address in self._network.listeners:
            raise ConfigError(f"cannot listen for peers on {host}:{port}; choose another --peer-port")
        self._network.listeners[address] = self
        self._address = address
        return address[1]

    def stop_listening(self) -> None:
        if self._address is not None:
            self._network.listeners.pop(self._address, None)

    async def dial_once(self, node: int, address: Address) -> bool:
        listener = self._network.listeners.get(address)
        if listener is None:
            return False
        wire = Wire(self, node)
        wire.other = listener.accept_from(wire)
        wire.send(encode_hello(self.hello))
        try:
            await wire.closed
        finally:
            wire.abort()
        return wire.hello is not None

    def accept_from(self, caller: Wire) -> Wire:
        """Give the other end to a caller."""
        end = Wire(self, None)
        end.other = caller
        self.accepted.add(end)
        return end
