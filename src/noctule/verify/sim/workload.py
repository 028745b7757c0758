"""Clients of a world: each does one thing at a time and judges what it is told.

Counters show lost, doubled and stale operations at once: each increment is answered by a number that no other increment
gets, and a read may not be below what was acknowledged before it began, nor above what was begun before it ended.
Sets of unique members (hash fields) show that acknowledged writes are present at the end, in a second data type.
Some increments are scripts, which note beside the counter what they made of it: both are there, or neither, and as
they were answered, whoever led when and whatever became of the entries that were evaluated for nothing.
Values that expire show that replicas with different clocks agree on what is over; a read may see one or none, but never
one that was overwritten before.
Commands of all kinds on other keys, in some worlds, are judged by what replicas make of them (mixture.py).
Transfers between two keys show that a transaction is applied as a whole, and once: their sum is always zero.
What was done and answered is also recorded, for the checkers, in the world's history.
"""

import random
from typing import TYPE_CHECKING

from noctule.base.consistency import ConsistencyLevel
from noctule.core.keyspace.effects import ScriptCall
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.transactions import transaction
from noctule.verify.sim.invariants import SafetyViolation
from noctule.verify.sim.mixture import Mixture

if TYPE_CHECKING:
    from noctule.verify.sim.world import World

KEYS = 6
INCREMENTS = 0.4
"""How many of the operations that are not mixed are increments."""
WRITING_THINK_S_MAX = 0.01
SCRIPT = b"local n = redis.call('incr', KEYS[1]) redis.call('hset', KEYS[2], ARGV[1], n) return n"
"""An increment that leaves a note."""


def recorded(command: bytes, reply: Reply) -> object:
    """The answer to a command in the words of a history."""
    if command == b"GET":
        return int(reply) if isinstance(reply, bytes) else 0
    if command == b"HKEYS":
        return [field.decode() for field in reply if isinstance(field, bytes)] if isinstance(reply, list) else []
    return bool(reply) if command == b"HSET" else reply


class _Counter:
    """One key that is only ever incremented."""

    def __init__(self) -> None:
        self.begun = 0
        self.acknowledged_max = 0
        self.values: set[int] = set()
        self.unknown = 0


class _Expiring:
    """One key whose values end by themselves."""

    def __init__(self) -> None:
        self.overwritten_at = -1.0
        """When the newest of the acknowledged writes began: what had been answered before that is gone."""
        self.answered_at: dict[bytes, float] = {}
        """Of each value that was acknowledged."""


class _Bank:
    """Two keys and a count of the transfers between them, all of one tag."""

    def __init__(self, number: int) -> None:
        self.keys = [b"{bank:%d}%b" % (number, name) for name in (b"from", b"to", b"count")]
        self.counts: set[int] = set()

    def transfer(self, amount: int) -> list[bytes]:
        """One transaction."""
        source, target, count = self.keys
        commands = [[b"DECRBY", source, b"%d" % amount], [b"INCRBY", target, b"%d" % amount], [b"INCR", count]]
        return transaction([], commands, self.keys, is_write=True)

    def look(self) -> list[bytes]:
        """A transaction that reads."""
        return transaction([], [[b"GET", key] for key in self.keys], self.keys, is_write=False)

    def judge(self, reply: Reply, *, is_transfer: bool) -> None:
        """Raise `SafetyViolation` for what no store that keeps its word can answer."""
        if not isinstance(reply, list) or any(isinstance(each, Failure) for each in reply):
            raise SafetyViolation(f"a transaction on {self.keys} was answered {reply!r}")
        source, target, count = (int(each) if isinstance(each, (bytes, int)) else 0 for each in reply)
        if source + target:
            raise SafetyViolation(f"half of a transaction on {self.keys} was seen: {reply!r}")
        if is_transfer:
            if count in self.counts:
                raise SafetyViolation(f"two transactions on {self.keys} were answered {count}")
            self.counts.add(count)


class Workload:
    """Clients that go on until told to stop."""

    def __init__(self, world: "World", client_count: int, think_s_max: float, mixed_share: float) -> None:
        self.counters = [_Counter() for _ in range(KEYS)]
        self.members: dict[bytes, set[bytes]] = {b"set:%d" % key: set() for key in range(KEYS)}
        self.notes: dict[bytes, dict[bytes, int]] = {b"{counter:%d}:notes" % key: {} for key in range(KEYS)}
        """By key what the scripts that were answered have noted: whose, and which number."""
        self.expiring = [_Expiring() for _ in range(KEYS)]
        self.banks = [_Bank(key) for key in range(KEYS)]
        self.done = self.failed = self.unknown = 0
        self.refused: set[bytes] = set()
        """Members that, as their clients were told, were not added."""
        self.stopped = False
        self.think_s_max = think_s_max
        self.mixture = Mixture()
        self.mixed_share = mixed_share
        """How many of all operations, from 0 to 1, are drawn from the mixture."""
        self.shunned: int | None = None
        """When not None, clients write without a pause, and through any node but this one."""
        self._world = world
        self.in_flight = 0
        """Operations without an answer yet."""
        for number in range(client_count):
            _Client(self, world, number, random.Random(world.chance.getrandbits(64)))

    def write_on(self, besides: int) -> None:
        """From now on all clients write without a pause, though one node be shaken: a pause, or a read, has leaders ask
        everyone, and so repairs much."""
        self.shunned = besides
        self.mixed_share, self.think_s_max = 0.0, WRITING_THINK_S_MAX

    def check_end(self, read: dict[bytes, Reply]) -> None:
        """After healing: every acknowledged operation shows once in what is read."""
        for number, counter in enumerate(self.counters):
            raw = read[b"counter:%d" % number]
            value = int(raw) if isinstance(raw, bytes) else 0
            if not len(counter.values) <= value <= len(counter.values) + counter.unknown:
                raise SafetyViolation(
                    f"counter {number} is {value}: {len(counter.values)} increments were acknowledged, "
                    f"{counter.unknown} have an unknown fate"
                )
        for key, members in self.members.items():
            found = read[key]
            present = set(found) if isinstance(found, list) else set()
            missing = sorted(member for member in members if member not in present)
            if missing:
                raise SafetyViolation(f"{len(missing)} acknowledged members of {key!r} are lost: {missing[:5]}")
            if denied := sorted(member for member in self.refused if member in present):
                raise SafetyViolation(f"members of {key!r} are there that were said not to be applied: {denied[:5]}")
        for key, notes in self.notes.items():
            self._check_notes(key, notes, read[key])

    def _check_notes(self, key: bytes, notes: dict[bytes, int], found: Reply) -> None:
        present = found if isinstance(found, dict) else {}
        for name, number in notes.items():
            if present.get(name) != b"%d" % number:
                raise SafetyViolation(
                    f"a script was answered {number}, and its note in {key!r} is {present.get(name)!r}"
                )
        if len(set(map(str, present.values()))) != len(present):
            raise SafetyViolation(f"two scripts noted the same number in {key!r}")
        if denied := sorted(name for name in self.refused if name in present):
            raise SafetyViolation(f"notes are in {key!r} that were said not to be made: {denied[:5]}")


class _Client:
    """One thing at a time, each through whichever node is alive."""

    def __init__(self, workload: Workload, world: "World", number: int, chance: random.Random) -> None:
        self._workload = workload
        self._world = world
        self._number = number
        self.chance = chance
        self._count = 0
        world.time.after(chance.uniform(0, 0.5), self._next)

    def _next(self) -> None:
        if self._workload.stopped:
            return
        shunned = self._workload.shunned
        alive = [
            machine
            for machine in self._world.machines.values()
            if machine.alive and machine.meta.cluster_id and machine.node_id != shunned
        ]
        if not alive:
            self._world.time.after(0.05, self._next)
            return
        machine = self.chance.choice(alive)
        key = self.chance.randrange(KEYS)
        kind = self.chance.random() * (1 if shunned is None else INCREMENTS)
        self._count += 1
        operation = _Operation(self, self._world, key, kind)
        self._workload.in_flight += 1
        level = ConsistencyLevel.STRONG if self._count % 2 else ConsistencyLevel.LINEARIZABLE
        submit = machine.submit_own if operation.is_of_server else machine.submit
        submit(operation.args, operation, level)
        # A client whose node dies hears nothing: its connection closes, and the fate is unknown.
        self._world.watch(machine, operation.lost)

    def finished(self) -> None:
        self._workload.in_flight -= 1
        self._world.time.after(self.chance.uniform(0.0005, self._workload.think_s_max), self._next)

    def is_mixing(self) -> bool:
        return self.chance.random() < self._workload.mixed_share

    @property
    def number(self) -> int:
        return self._number

    @property
    def workload(self) -> Workload:
        return self._workload

    def member(self) -> bytes:
        return b"%d-%d" % (self._number, self._count)


class _Operation:
    """One command and the judgement of its answer; also its `ReplySink`."""

    def __init__(self, client: _Client, world: "World", key: int, kind: float) -> None:
        self._client = client
        self._world = world
        self._over = False
        workload = client.workload
        self._counter = workload.counters[key]
        self._floor = self._counter.acknowledged_max
        self._expiring = workload.expiring[key]
        self._overwritten_at = self._expiring.overwritten_at
        self._bank = workload.banks[key]
        self._member = client.member()
        self._notes = b""
        """The key of a script's note; empty of everything else."""
        arguments: tuple[int | str, ...] = ()
        if client.is_mixing():
            self._kind = "mixed"
            self.args, self._whats = client.workload.mixture.draw(client.chance)
        elif kind < INCREMENTS:
            self._kind = "increment"
            arguments = (1,)
            self._counter.begun += 1
            self.args = [b"INCR", b"counter:%d" % key]
            if kind < 0.1:
                self._notes = b"{counter:%d}:notes" % key
                keys = [self.args[1], self._notes]
                self.args = ScriptCall(self.args[1], b"", SCRIPT, keys, [self._member]).command()
        elif kind < 0.62:
            self._kind = "read"
            self.args = [b"GET", b"counter:%d" % key]
        elif kind < 0.66:
            self._kind = "transfer"
            self.args = self._bank.transfer(1 + round(kind * 1e9) % 100)
        elif kind < 0.7:
            self._kind = "look"
            self.args = self._bank.look()
        elif kind < 0.8:
            self._kind = "peek"
            self.args = [b"GET", b"expiring:%d" % key]
        elif kind < 0.9:
            self._kind = "write"
            self.args = [b"SET", b"expiring:%d" % key, self._member, b"PX", b"%d" % (20 + round(kind * 1e9) % 2_000)]
        else:
            self._kind = "add"
            self._set = b"set:%d" % key
            arguments = (self._member.decode(),)
            self.args = [b"HSET", self._set, self._member, b"1"]
        self._begun_at = world.time.now()
        self._begun: int | None = None
        if self._kind in ("increment", "read", "add"):  # No checker has a model of the others.
            self._begun = world.history.begin(
                client.number, self.args[1].decode(), self._kind, arguments, self._begun_at
            )

    @property
    def is_of_server(self) -> bool:
        """Whether a server has to send it, for it is a transaction or may wait."""
        return self._kind in ("transfer", "look", "mixed")

    def lost(self) -> None:
        """The node died under it."""
        if not self._over:
            self._end_unknown()

    def _end_unknown(self) -> None:
        self._over = True
        self._client.workload.unknown += 1
        if self._kind == "increment":
            self._counter.unknown += 1
        self._client.finished()

    def deliver(self, reply: Reply) -> None:
        """Judge the answer. A node that died meanwhile may no longer be heard."""
        if self._over:
            return
        if isinstance(reply, Failure):
            if reply.text.startswith(b"UNKNOWN"):
                self._end_unknown()
                return
            self._over = True
            if self._begun is not None:
                self._world.history.end(self._begun, "fail", self._world.time.now())
            self._client.workload.failed += 1
            if self._kind == "add" or self._notes:
                self._client.workload.refused.add(self._member)
            self._client.finished()
            return
        self._over = True
        self._client.workload.done += 1
        if self._begun is not None:
            self._world.history.end(self._begun, "ok", self._world.time.now(), recorded(self.args[0], reply))
        self._judge(reply)
        self._client.finished()

    def _judge(self, reply: Reply) -> None:
        counter = self._counter
        if self._kind == "increment":
            if not isinstance(reply, int) or reply in counter.values:
                raise SafetyViolation(f"two increments of one counter were answered {reply!r}")
            if reply <= self._floor:
                raise SafetyViolation(f"an increment was answered {reply}, after {self._floor} was acknowledged")
            counter.values.add(reply)
            counter.acknowledged_max = max(counter.acknowledged_max, reply)
            if self._notes:
                self._client.workload.notes[self._notes][self._member] = reply
                self._world.count("script run")
        elif self._kind == "read":
            value = int(reply) if isinstance(reply, bytes) else 0
            if not self._floor <= value <= counter.begun:
                raise SafetyViolation(
                    f"a read saw {value}; {self._floor} was acknowledged before it began, "
                    f"{counter.begun} increments were begun before it ended"
                )
            # What a read has seen, no later read may miss.
            counter.acknowledged_max = max(counter.acknowledged_max, value)
        elif self._kind == "write":
            self._expiring.answered_at[self._member] = self._world.time.now()
            self._expiring.overwritten_at = max(self._expiring.overwritten_at, self._begun_at)
        elif self._kind == "peek":
            self._judge_peek(reply)
        elif self._kind == "mixed":
            for what in self._whats:
                self._world.count(what)
        elif self._kind in ("transfer", "look"):
            self._bank.judge(reply, is_transfer=self._kind == "transfer")
        else:
            self._client.workload.members[self._set].add(self._member)

    def _judge_peek(self, reply: Reply) -> None:
        if not isinstance(reply, bytes):
            if self._overwritten_at >= 0:
                self._world.count("value expired")
        elif self._expiring.answered_at.get(reply, self._overwritten_at) < self._overwritten_at:
            raise SafetyViolation(f"a read of {self.args[1]!r} saw {reply!r}, which was overwritten before it began")
