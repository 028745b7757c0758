"""The network of a world: loses, delays, doubles and reorders frames, and can be cut in either direction."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from noctule.core.wire.frames import decode_envelopes, encode_frame
from noctule.core.wire.messages import Envelope
from noctule.verify.sim.time import VirtualTime


@dataclass(frozen=True, slots=True)
class NetworkFaults:
    """Probabilities for each frame, delays in seconds. Reordering comes from the delays: there is no queue."""

    loss: float = 0.0
    doubled: float = 0.0
    delay_s_min: float = 0.0002
    delay_s_max: float = 0.001
    straggler: float = 0.0
    """How often a frame takes up to a hundred times as long, and so arrives behind many later ones."""


class Network:
    """Frames between machines. They travel as bytes, so what cannot be encoded cannot be sent."""

    def __init__(self, time: VirtualTime, chance: random.Random) -> None:
        self.faults = NetworkFaults()
        self.cuts: set[tuple[int, int]] = set()
        """(from, to) pairs that get nothing through."""
        self.frames = self.messages = self.bytes = self.lost = self.doubled = 0
        self._time = time
        self._chance = chance

    def send(self, sender: int, to: int, envelopes: list[Envelope], deliver: Callable[[list[Envelope]], None]) -> None:
        """Put a frame on its way."""
        chance, faults = self._chance, self.faults
        self.frames += 1
        self.messages += len(envelopes)
        if chance.random() < faults.loss:
            self.lost += 1
            return
        body = encode_frame(envelopes)[8:]
        self.bytes += len(body) + 8
        copies = 1
        if chance.random() < faults.doubled:
            self.doubled += 1
            copies = 2
        for _ in range(copies):
            delay = chance.uniform(faults.delay_s_min, faults.delay_s_max)
            if chance.random() < faults.straggler:
                delay *= chance.uniform(1, 100)

            def arrive() -> None:
                # A cut is looked at on arrival: it stops what is on its way, too.
                if (sender, to) not in self.cuts:
                    deliver(decode_envelopes(body))

            self._time.after(delay, arrive)


def cuts_around(node: int, others: Iterable[int], directions: str) -> set[tuple[int, int]]:
    """What isolates a node: `directions` are ``both``, ``out`` (it is not heard) or ``in`` (it hears nobody)."""
    cuts: set[tuple[int, int]] = set()
    for other in others:
        if directions != "in":
            cuts.add((node, other))
        if directions != "out":
            cuts.add((other, node))
    return cuts


def cuts_to_ring(nodes: Sequence[int]) -> set[tuple[int, int]]:
    """What leaves each node only its two neighbours, the last and the first being neighbours, too.

    Every node reaches a majority of five so, and no two the same one. Three nodes are a row: their ring has no gap.
    """
    count = len(nodes)
    gaps = {1, count - 1} if count > 3 else {1}
    return {
        (node, other)
        for at, node in enumerate(nodes)
        for there, other in enumerate(nodes)
        if node != other and abs(at - there) not in gaps
    }
