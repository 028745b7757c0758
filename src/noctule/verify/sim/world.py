"""A world from one seed: machines, network, disks, clocks, clients, and what goes wrong.

First a safety phase in which things fail, then everything heals and progress is demanded. The same seed makes the same
world, event by event: all chance comes from one generator, and nothing depends on the hashing of strings.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.placement.slots import partition_table
from noctule.core.raft import events as raft
from noctule.core.raft.config import RaftConfig
from noctule.core.replica.replica import SnapshotPolicy
from noctule.core.wire.frames import Envelope
from noctule.node.recovery import ReplicaSettings
from noctule.verify.checkers.history import Recorder
from noctule.verify.sim.disk import SimulatedDisk
from noctule.verify.sim.invariants import Invariants, LivenessViolation
from noctule.verify.sim.machine import Machine
from noctule.verify.sim.network import Network, NetworkFaults
from noctule.verify.sim.time import VirtualTime
from noctule.verify.sim.workload import KEYS, Workload, recorded

STATES_EVERY_S = 0.25
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
    """Of the whole trace: equal for equal seeds, in any process."""


class World:
    """Everything there is."""

    def __init__(self, seed: int, *, node_count: int = 3, partition_count: int = 2, clients: int = 6) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.time = VirtualTime()
        self.network = Network(self.time, random.Random(self.chance.getrandbits(64)))
        self.invariants = Invariants()
        self.history = Recorder()
        self.counts: Counter[str] = Counter()
        nodes = range(1, node_count + 1)
        self.disks = {node: SimulatedDisk(self.time, random.Random(self.chance.getrandbits(64))) for node in nodes}
        self.clock_offsets_s = {node: self.chance.uniform(-3600, 3600) for node in nodes}
        self._slot_table = partition_table(partition_count)
        self._nodes = nodes
        self._watchers: dict[int, list[Callable[[], None]]] = {}
        self._trace = hashlib.blake2b(digest_size=16)
        self.machines: dict[int, Machine] = {}
        for node in nodes:
            self.start(node)
        self.workload = Workload(self, clients)

    def start(self, node: int) -> None:
        """Start a machine on its disk."""
        settings = ReplicaSettings(
            node_id=node,
            voters=tuple(self._nodes),
            raft=RaftConfig(retained_entries=self.chance.choice((0, 10, 100)), chunk_bytes_max=500),
            policy=SnapshotPolicy(entries=self.chance.choice((20, 100, 1000))),
            first_timeout_s=0.25,
        )
        self.machines[node] = Machine(self, node, settings, self._slot_table)

    def crash(self, node: int) -> None:
        """kill -9: the others' connections close, the clients' too."""
        machine = self.machines[node]
        if not machine.alive:
            return
        machine.crash()
        self.count("crash")
        for lost in self._watchers.pop(id(machine), []):
            lost()
        for other in self.machines.values():
            if other.alive and self.chance.random() < 0.8:
                self.time.after(self.chance.uniform(0, 0.002), partial(_notice_loss, other, node))

    def watch(self, machine: Machine, lost: Callable[[], None]) -> None:
        """Call when the machine dies. Old watchers of finished operations are harmless."""
        watchers = self._watchers.setdefault(id(machine), [])
        watchers.append(lost)
        if len(watchers) > 1_000:
            del watchers[:500]

    def count(self, what: str) -> None:
        """Something rare happened; shown, so that a run that never reaches it is noticed."""
        self.counts[what] += 1

    def transmit(self, sender: int, to: int, envelopes: list[Envelope]) -> None:
        """A frame leaves a machine."""

        def deliver(received: list[Envelope]) -> None:
            machine = self.machines[to]
            if machine.alive:
                machine.receive(sender, received)

        self.network.send(sender, to, envelopes, deliver)

    def turned(self, machine: Machine) -> None:
        """A machine ended a turn: check it, and note it in the trace."""
        self.invariants.machine(machine)
        self._trace.update(b"%d %d " % (round(self.time.now() * 1e6), machine.node_id))
        for replica in machine.replicas.values():
            consensus = replica.raft
            self._trace.update(b"%d %d %d " % (consensus.term, consensus.commit, consensus.log.last_index))

    # Phases ----------------------------------------------------------------------------------------------------------

    def run(self, fault_s: float = 10.0) -> Outcome:
        """Faults for so many simulated seconds, then healing. Raises `SafetyViolation` or `LivenessViolation`."""
        self._schedule_faults(fault_s)
        self._check_states()
        self._run_until(fault_s)
        self._heal()
        before = self.workload.done
        deadline = self.time.now() + HEAL_S_MAX
        while self.workload.done < before + 50:
            if self.time.now() > deadline or not self.time.step():
                raise LivenessViolation(
                    f"{self.workload.done - before} operations in {HEAL_S_MAX} s after everything was healed"
                )
        self.workload.stopped = True
        while self.workload.in_flight:
            if self.time.now() > deadline or not self.time.step():
                raise LivenessViolation(f"{self.workload.in_flight} operations were never answered")
        self._read_back()
        self.invariants.states(self.machines)
        return Outcome(
            seed=self.seed,
            simulated_s=round(self.time.now(), 3),
            operations=self.workload.done,
            failed=self.workload.failed,
            unknown=self.workload.unknown,
            entries=self.invariants.committed_count(),
            counts=dict(sorted(self.counts.items())),
            digest=self._trace.hexdigest(),
        )

    def _run_until(self, at: float) -> None:
        while self.time.now() < at and self.time.step():
            pass

    def _check_states(self) -> None:
        self.invariants.states({node: machine for node, machine in self.machines.items() if machine.alive})
        self.time.after(STATES_EVERY_S, self._check_states)

    def _schedule_faults(self, fault_s: float) -> None:
        chance = self.chance
        self.network.faults = NetworkFaults(
            loss=chance.choice((0, 0, 0.01, 0.1)),
            doubled=chance.choice((0, 0.02, 0.1)),
            delay_s_max=chance.choice((0.001, 0.01, 0.05)),
            straggler=chance.choice((0, 0.01, 0.05)),
        )
        for disk in self.disks.values():
            disk.slow_sync = chance.choice((0, 0, 0.05))
        for _ in range(chance.randrange(2, 12)):
            at = chance.uniform(0.5, fault_s)
            node = chance.choice(list(self._nodes))
            fault = chance.choice((self._crash_for_a_while, self._cut_for_a_while, self._crash_all, self._transfer))
            self.time.after(at, partial(fault, node))

    def _crash_for_a_while(self, node: int) -> None:
        self.crash(node)
        self.time.after(self.chance.uniform(0.01, 2.0), lambda: self._restart(node))

    def _crash_all(self, _node: int) -> None:
        """The power fails."""
        self.count("power cut")
        for node in self._nodes:
            self._crash_for_a_while(node)

    def _restart(self, node: int) -> None:
        if not self.machines[node].alive:
            self.start(node)

    def _cut_for_a_while(self, node: int) -> None:
        others = [other for other in self._nodes if other != node]
        directions = self.chance.choice(("both", "out", "in"))
        cuts = {(node, other) for other in others if directions != "in"}
        cuts |= {(other, node) for other in others if directions != "out"}
        self.count(f"cut {directions}")
        self.network.cuts |= cuts
        self.time.after(self.chance.uniform(0.1, 3.0), lambda: self.network.cuts.difference_update(cuts))

    def _transfer(self, node: int) -> None:
        for machine in self.machines.values():
            if not machine.alive:
                continue
            for group, replica in machine.replicas.items():
                if replica.raft.is_leader() and machine.node_id != node:
                    self.count("transfer")
                    machine.take(group, raft.TransferLeadership(node))

    def _heal(self) -> None:
        self.network.faults = NetworkFaults()
        self.network.cuts.clear()
        for disk in self.disks.values():
            disk.slow_sync = 0.0
        for node in self._nodes:
            self._restart(node)
        self.time.after(3.0, self.network.cuts.clear)

    def _read_back(self) -> None:
        read: dict[bytes, Reply] = {}
        wanted = [[b"GET", b"counter:%d" % key] for key in range(KEYS)]
        wanted += [[b"HKEYS", b"set:%d" % key] for key in range(KEYS)]
        deadline = self.time.now() + HEAL_S_MAX
        for args in wanted:
            sink = _Sink()
            begun = self.history.begin("read-back", args[1].decode(), "read", (), self.time.now())
            self.machines[1].router.submit(args, sink)
            while not sink.replies:
                if self.time.now() > deadline or not self.time.step():
                    raise LivenessViolation(f"{args!r} was not answered after everything was healed")
            reply = sink.replies[0]
            if isinstance(reply, Failure):
                raise LivenessViolation(f"{args!r} was answered {reply!r} after everything was healed")
            read[args[1]] = reply
            self.history.end(begun, "ok", self.time.now(), recorded(args[0], reply))
        self.workload.check_end(read)


def _notice_loss(machine: Machine, node: int) -> None:
    if machine.alive:
        machine.peer_lost(node)


class _Sink:
    def __init__(self) -> None:
        self.replies: list[Reply] = []

    def deliver(self, reply: Reply) -> None:
        self.replies.append(reply)
