"""Producers and consumers in a world: an element that was acknowledged is given to one consumer, whatever fails.

They stand beside the clients of `verify.sim.workload` and draw from a chance of their own. Consumers wait by BLPOP for
several queues at once, which are in several partitions.
"""

import abc
import random
from functools import partial

from noctule.core.keyspace.reply import NULL_ARRAY, Failure, Reply
from noctule.verify.sim.invariants import LivenessViolation, SafetyViolation
from noctule.verify.sim.machine import Machine
from noctule.verify.sim.world import World

QUEUES = [b"queue:%d" % number for number in range(4)]
_TIMEOUTS = (b"0", b"0.05", b"1.5")
_LOOK_S = 0.2
DRAINED_S_MAX = 60.0
"""How long consumers may take, once nothing fails any more, until nothing is left."""


class Queues:
    """All of a world's."""

    def __init__(self, world: World, producers: int = 3, consumers: int = 4) -> None:
        self.world = world
        self.pushed: set[bytes] = set()
        """Acknowledged."""
        self.perhaps: set[bytes] = set()
        """Pushed with an unknown outcome."""
        self.taken: set[bytes] = set()
        self.unknown = 0
        """Pops whose outcome nobody heard: each may have taken one element."""
        self.timeouts = 0
        self.is_over = False
        """Nothing more is pushed."""
        chance = random.Random(world.seed)
        for number in range(producers):
            _Producer(self, number, random.Random(chance.getrandbits(64)))
        for _ in range(consumers):
            _Consumer(self, random.Random(chance.getrandbits(64)))

    def settle(self) -> None:
        """Push no more and wait until the consumers have everything; then each element was given once."""
        self.is_over = True
        time = self.world.time
        deadline = time.now() + DRAINED_S_MAX
        while missing := self.pushed - self.taken:
            if len(missing) <= self.unknown and time.now() > deadline:
                break  # They went with pops that nobody heard of.
            if time.now() > deadline:
                raise LivenessViolation(f"{len(missing)} elements are not given to anybody: {sorted(missing)[:5]}")
            if not time.step():
                raise LivenessViolation("nothing happens any more, and elements are left")

    def took(self, element: bytes) -> None:
        """A consumer has it."""
        if element in self.taken:
            raise SafetyViolation(f"the element {element!r} was given twice")
        if element not in self.pushed | self.perhaps:
            raise SafetyViolation(f"the element {element!r} was given to a consumer and never pushed")
        self.taken.add(element)


class _Client(abc.ABC):
    """Does one thing after the other, each through whichever node is alive."""

    def __init__(self, queues: Queues, chance: random.Random) -> None:
        self.queues = queues
        self.chance = chance
        self.later()

    def later(self) -> None:
        self.queues.world.time.after(self.chance.uniform(0.001, 0.05), self._next)

    def _next(self) -> None:
        world = self.queues.world
        alive = [machine for machine in world.machines.values() if machine.alive and machine.meta.cluster_id]
        if not alive:
            self.later()
            return
        machine = self.chance.choice(alive)
        step = _Step(self, machine)
        self.begin(machine, step)
        step.look()

    @abc.abstractmethod
    def begin(self, machine: Machine, step: "_Step") -> None:
        """Send a command."""

    def send(self, machine: Machine, args: list[bytes], step: "_Step") -> None:
        """As the only command of a connection of its own."""
        machine._wake(partial(machine.router.conversation().submit, args, step))

    @abc.abstractmethod
    def heard(self, reply: Reply) -> None:
        """Its answer has come."""

    @abc.abstractmethod
    def heard_nothing(self) -> None:
        """The node died under it, or does not know what became of it."""


class _Step:
    """The sink of one command of one client."""

    def __init__(self, client: _Client, machine: Machine) -> None:
        self._client = client
        self._machine = machine
        self._is_over = False

    def deliver(self, reply: Reply) -> None:
        if self._is_over:
            return
        self._is_over = True
        if isinstance(reply, Failure) and reply.text.startswith(b"UNKNOWN"):
            self._client.heard_nothing()
        else:
            self._client.heard(reply)
        self._client.later()

    def look(self) -> None:
        """Whether the node is still there, now and then until the answer comes: some of them wait for ever."""
        if self._is_over:
            return
        if self._machine.alive:
            self._client.queues.world.time.after(_LOOK_S, self.look)
        else:
            self.deliver(Failure(b"UNKNOWN the connection is gone"))


class _Producer(_Client):
    """Pushes elements that nobody else does."""

    def __init__(self, queues: Queues, number: int, chance: random.Random) -> None:
        self._number = number
        self._count = 0
        self._element = b""
        super().__init__(queues, chance)

    def begin(self, machine: Machine, step: _Step) -> None:
        if self.queues.is_over:
            return
        self._count += 1
        self._element = b"%d-%d" % (self._number, self._count)
        # A consumer may have it before its producer hears that it is there.
        self.queues.perhaps.add(self._element)
        self.send(machine, [b"RPUSH", self.chance.choice(QUEUES), self._element], step)

    def heard(self, reply: Reply) -> None:
        if isinstance(reply, int):
            self.queues.pushed.add(self._element)

    def heard_nothing(self) -> None:
        """It stays among those that were perhaps pushed."""


class _Consumer(_Client):
    """Waits for whatever comes."""

    def begin(self, machine: Machine, step: _Step) -> None:
        keys = self.chance.sample(QUEUES, len(QUEUES))
        self.send(machine, [b"BLPOP", *keys, self.chance.choice(_TIMEOUTS)], step)

    def heard(self, reply: Reply) -> None:
        match reply:
            case [bytes(), bytes() as element]:
                self.queues.took(element)
            case Failure():
                pass
            case _:
                if reply is not NULL_ARRAY:
                    raise SafetyViolation(f"who waited was answered {reply!r}")
                self.queues.timeouts += 1

    def heard_nothing(self) -> None:
        self.queues.unknown += 1
