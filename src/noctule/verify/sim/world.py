"""A world from one seed: machines, network, disks, clocks and clients; what goes wrong is faults.py.

First a safety phase in which things fail, then a majority heals and progress is demanded. The same seed makes the same
world, event by event: all chance comes from one generator, and nothing depends on the hashing of strings.
"""

import hashlib
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial

import msgspec

from noctule.base.errors import RequestError
from noctule.base.ids import GroupId
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.node import RaftNode
from noctule.core.replica.replica import SnapshotPolicy
from noctule.core.wire.frames import Envelope
from noctule.node.recovery import ReplicaSettings
from noctule.verify.checkers.history import Recorder
from noctule.verify.checkers.judge import judge
from noctule.verify.checkers.violation import text_of
from noctule.verify.sim.coverage import Coverage
from noctule.verify.sim.disk import SimulatedDisk
from noctule.verify.sim.faults import Faults
from noctule.verify.sim.invariants import Invariants, LivenessViolation, SafetyViolation
from noctule.verify.sim.machine import Machine
from noctule.verify.sim.network import Network
from noctule.verify.sim.time import VirtualTime
from noctule.verify.sim.workload import KEYS, Workload, recorded

STATES_EVERY_S = 1.0
"""States are compared this often also when nothing is applied; see `invariants.STATES_EVERY_ENTRIES`."""
HEAL_S_MAX = 20.0
"""How long after healing everything must work again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a world that broke nothing."""

    seed: int
    simulated_s: float
    operations: int
    failed: int
    unknown: int
    entries: int
    counts: dict[str, int]
    digest: str
    """Of all turns of all machines and all answers: equal for equal seeds, in any process."""


class World:
    """Everything there is."""

    def __init__(
        self,
        seed: int,
        *,
        node_count: int = 3,
        partition_count: int = 2,
        clients: int = 6,
        think_s_max: float | None = None,
    ) -> None:
        """`think_s_max` is how long a client waits at most between an answer and its next command; drawn by default,
        so that in some worlds groups have the time to go quiet."""
        self.seed = seed
        self.chance = random.Random(seed)
        self.time = VirtualTime()
        self.network = Network(self.time, random.Random(self.chance.getrandbits(64)))
        self.coverage = Coverage()
        self.invariants = Invariants(self.count)
        self.history = Recorder()
        self.nodes = range(1, node_count + 1)
        self.disks = {
            node: SimulatedDisk(node, self.time, random.Random(self.chance.getrandbits(64)), self.count)
            for node in self.nodes
        }
        self.clock_offsets_s = {node: self.chance.uniform(-3600, 3600) for node in self.nodes}
        self.faults = Faults(self)
        self.machines: dict[int, Machine] = {}
        self.request_deadline_s = self.chance.choice((0.15, 5.0, 5.0))
        """With a short one many writes are given up, and their clients told what became of them."""
        self._quiet_after_s = self.chance.choice((0.0, 0.01, 0.1, 0.1, 0.3))
        self._lease_s = self.chance.choice((0.0, 0.0, 0.2))
        self._partition_count = partition_count
        self._lives = 0
        self._watchers: dict[int, list[Callable[[], None]]] = {}
        self._trace = hashlib.blake2b(digest_size=16)
        for node in self.nodes:
            self._start(node)
        drawn = self.chance.choice((0.01, 0.01, 0.01, 0.7))
        self.workload = Workload(self, clients, drawn if think_s_max is None else think_s_max)

    # Machines --------------------------------------------------------------------------------------------------------

    def _start(self, node: int) -> None:
        settings = ReplicaSettings(
            node_id=node,
            voters=tuple(self.nodes),
            raft=RaftConfig(
                retained_entries=self.chance.choice((0, 10, 100)),
                chunk_bytes_max=500,
                lease_s=self._lease_s,
                apply_entries_max=self.chance.choice((1, 3, 256)),
                quiet_after_s=self._quiet_after_s,
            ),
            policy=SnapshotPolicy(entries=self.chance.choice((20, 100, 1000))),
            first_timeout_s=0.25,
        )
        self._lives += 1
        machine = Machine(self, node, self._lives, settings, self._partition_count)
        self.invariants.recovered(machine)
        self.machines[node] = machine

    def restart(self, node: int) -> None:
        """Start a machine that is down; the one place where machines come back.

        One that finds its disk damaged, or empty, is taken back by the others under another directory.
        """
        if not self.machines[node].alive:
            self._start(node)

    def is_whole(self) -> bool:
        """Whether every machine is well and every group has all of them as voters: one more loss can be borne."""
        voters = tuple(self.nodes)
        return all(machine.is_well and machine.is_member_of_all(voters) for machine in self.machines.values())

    def crash(self, node: int, *, power: bool = False) -> None:
        """kill -9, after which connections close; or the machine's power fails, which nobody is told."""
        machine = self.machines[node]
        if not machine.alive:
            return
        self.count("power cut" if power else "kill")
        machine.end(power=power)
        for lost in self._watchers.pop(machine.life, []):
            lost()
        if not power:
            self.disconnect(machine)

    def disconnect(self, machine: Machine) -> None:
        """The connections of a machine close; most of the others notice soon."""
        for other in self.machines.values():
            if other is not machine and other.alive and self.chance.random() < 0.8:
                self.time.after(self.chance.uniform(0, 0.002), partial(other.peer_lost, machine.node_id))

    def watch(self, machine: Machine, lost: Callable[[], None]) -> None:
        """Call when the machine dies. Old watchers of finished operations are harmless."""
        watchers = self._watchers.setdefault(machine.life, [])
        watchers.append(lost)
        if len(watchers) > 1_000:
            del watchers[:500]

    def count(self, what: str) -> None:
        """Something rare happened; shown, so that a run that never reaches it is noticed."""
        self.coverage.count(what)

    def transmit(self, sender: Machine, to: int, envelopes: list[Envelope]) -> None:
        """A frame leaves a machine."""

        def deliver(received: list[Envelope]) -> None:
            machine = self.machines[to]
            if machine.alive:
                machine.receive(sender.node_id, sender.life, received)

        self.network.send(sender.node_id, to, envelopes, deliver)

    def turned(self, machine: Machine, changed: Iterable[tuple[GroupId, RaftNode]]) -> None:
        """A machine ended a turn: check what changed on it, and note it in the trace."""
        changes = [b"%d %d" % (round(self.time.now() * 1e6), machine.node_id)]
        for group, consensus in changed:
            self.invariants.changed(machine, group, consensus)
            changes.append(b" %d %d %d %d" % (group, consensus.term, consensus.commit, consensus.log.last_index))
        self._trace.update(b"".join(changes))

    # Phases ----------------------------------------------------------------------------------------------------------

    def run(self, fault_s: float = 10.0, fault_names: Collection[str] = ()) -> Outcome:
        """Faults for so many simulated seconds, then healing. Raises `SafetyViolation` or `LivenessViolation`.

        The faults are drawn from those of these names, as they are called in `faults.Faults`, or from all.
        """
        self.faults.schedule(fault_s, fault_names)
        self._check_states()
        self.time.run_until(fault_s)
        self.faults.heal()
        before = self.workload.done
        deadline = self.time.now() + HEAL_S_MAX
        while self.workload.done < before + 50:
            if self.time.now() > deadline or not self.time.step():
                raise LivenessViolation(
                    f"{self.workload.done - before} operations in {HEAL_S_MAX} s after everything was healed"
                )
        self.faults.bring_back()
        self.workload.stopped = True
        while self.workload.in_flight:
            if self.time.now() > deadline or not self.time.step():
                raise LivenessViolation(f"{self.workload.in_flight} operations were never answered")
        while not self.is_whole():
            if self.time.now() > deadline or not self.time.step():
                raise LivenessViolation(f"not every machine votes in every group {HEAL_S_MAX} s after all was healed")
        self._read_back()
        self.invariants.states(self.machines)
        self._judge()
        self._trace.update(msgspec.json.encode(self.history.operations()))
        self.coverage.counts.update({"frame lost": self.network.lost, "frame doubled": self.network.doubled})
        return Outcome(
            seed=self.seed,
            simulated_s=round(self.time.now(), 3),
            operations=self.workload.done,
            failed=self.workload.failed,
            unknown=self.workload.unknown,
            entries=self.invariants.committed_count(),
            counts=dict(sorted(self.coverage.counts.items())),
            digest=self._trace.hexdigest(),
        )

    def _check_states(self) -> None:
        alive = {node: machine for node, machine in self.machines.items() if machine.alive}
        self.invariants.states(alive)
        for machine in alive.values():
            machine.carrier.check()
        self.time.after(STATES_EVERY_S, self._check_states)

    def _read_back(self) -> None:
        read: dict[bytes, Reply] = {}
        wanted = [[b"GET", b"counter:%d" % key] for key in range(KEYS)]
        wanted += [[b"HKEYS", b"set:%d" % key] for key in range(KEYS)]
        deadline = self.time.now() + HEAL_S_MAX
        reader = next(machine for machine in self.machines.values() if machine.alive)
        for args in wanted:
            begun = self.history.begin("read-back", args[1].decode(), "read", (), self.time.now())
            reply: Reply = Failure(b"")
            while isinstance(reply, Failure):
                sink = _Sink()
                reader.submit(args, sink)
                while not sink.replies:
                    if self.time.now() > deadline or not self.time.step():
                        raise LivenessViolation(f"{args!r} was not answered after everything was healed: {reply!r}")
                reply = sink.replies[0]
            read[args[1]] = reply
            self.history.end(begun, "ok", self.time.now(), recorded(args[0], reply))
        self.workload.check_end(read)

    def _judge(self) -> None:
        """The clients' history is linearizable."""
        try:
            verdict = judge(self.history.operations())
        except RequestError:
            self.count("history too open to be judged")
            return
        if not verdict.holds:
            found = verdict.violations[0]
            shown = "; ".join(f"{each.process}: {text_of(each)}" for each in found.operations)
            raise SafetyViolation(f"{found.kind}: {found.key}: {found.explanation} ({shown})")


class _Sink:
    def __init__(self) -> None:
        self.replies: list[Reply] = []

    def deliver(self, reply: Reply) -> None:
        self.replies.append(reply)
