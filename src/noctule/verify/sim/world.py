"""A world from one seed: machines, network, disks, clocks and clients; what goes wrong is faults.py.

The first machines form a cluster as real ones do, through *meta*; others may join, and any may leave. First a safety
phase in which things fail, then a majority heals and progress is demanded. The same seed makes the same world, event by
event: all chance comes from one generator, and nothing depends on the hashing of strings.
"""

import hashlib
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import msgspec

from noctule.adapters.lua_engine import LuaEngine
from noctule.base.errors import RequestError
from noctule.base.ids import GroupId
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.meta.settings import SettingValue
from noctule.core.meta.state import MetaState
from noctule.core.migration.stages import Migration, Stage
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.membership import Membership
from noctule.core.raft.node import RaftNode
from noctule.core.registry.objects import NODE_CHECK, CheckStatus
from noctule.core.replica.carry_out import FIRST_WAIT_S
from noctule.core.replica.replica import SnapshotPolicy
from noctule.core.roster.features import REGISTRY
from noctule.core.roster.members import PRESENT, Member
from noctule.core.wire.frames import Envelope
from noctule.node.address_book import AddressBook
from noctule.node.governor import META_VOTERS_MAX, Founding
from noctule.node.recovery import ReplicaSettings
from noctule.verify.checkers.history import Recorder
from noctule.verify.checkers.judge import judge
from noctule.verify.checkers.violation import text_of
from noctule.verify.sim.coverage import Coverage
from noctule.verify.sim.disk import CLUSTER, SimulatedDisk
from noctule.verify.sim.faults import Faults
from noctule.verify.sim.followers import committed_in, left_behind
from noctule.verify.sim.invariants import Invariants, LivenessViolation, SafetyViolation
from noctule.verify.sim.machine import Machine
from noctule.verify.sim.network import Network
from noctule.verify.sim.operators import Operators, member_of
from noctule.verify.sim.time import VirtualTime
from noctule.verify.sim.workload import KEYS, Workload, recorded

STATES_EVERY_S = 1.0
"""States are compared this often also when nothing is applied; see `invariants.STATES_EVERY_ENTRIES`."""
HEAL_S_MAX = 20.0
"""How long after healing clients must be served again, and be told what became of what they asked for."""
WHOLE_S_MAX = 120.0
"""How long until every replica is where it belongs: migrations that were begun have ended, or gone back, by then."""
KEEPS_UP_S_MAX = 20.0
"""How long after a node was connected anew every voter must know who leads, and have what was committed by then."""
LOOK_S = 0.05
"""Between two looks at whether it is."""
MIGRATION_TIMEOUT_S = 3.0
"""Short, so that migrations of what is gone go back within the life of a world."""
DIGEST_INTERVAL_S = 1.0
"""In every other world leaders compare the replicas of their groups so often, as they do in production."""
STAYS_S_MAX = 2.0
"""How long a machine that was taken out of the cluster runs on without having heard of it."""


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
        settings: Mapping[str, SettingValue] | None = None,
        replication_factor: int | None = None,
        is_watched: bool = True,
        rack_count: int = 3,
    ) -> None:
        """`settings` are those of the cluster, beside what it is formed with.

        `think_s_max` is how long a client waits at most between an answer and its next command; drawn by default, so
        that in some worlds groups have the time to go quiet. Where the world is not watched, digests are not taken and
        states not compared all the time: that costs more than all the rest where there is much.
        """
        self.seed = seed
        self.chance = random.Random(seed)
        self.time = VirtualTime()
        self.network = Network(self.time, random.Random(self.chance.getrandbits(64)))
        self.coverage = Coverage()
        self.is_watched = is_watched
        self.rack_count = rack_count
        self.invariants = Invariants(self.count)
        self.history = Recorder()
        self.name = CLUSTER
        self.founders = tuple(range(1, node_count + 1))
        self.nodes = list(self.founders)
        """All that were ever in the cluster and have not left it for good, as far as their machines know."""
        self.gone: set[int] = set()
        """Those that have."""
        self.disks: dict[int, SimulatedDisk] = {}
        self.clock_offsets_s: dict[int, float] = {}
        self.stage_watchers: list[Callable[[Migration], None]] = []
        """Told of each stage of each migration, as soon as any machine has heard of it."""
        self._stages: set[tuple[int, Stage]] = set()
        self.operators = Operators(self)
        self.faults = Faults(self)
        self.machines: dict[int, Machine] = {}
        self.request_deadline_s = self.chance.choice((0.15, 5.0, 5.0))
        """With a short one many writes are given up, and their clients told what became of them."""
        self._quiet_after_s = self.chance.choice((0.0, 0.01, 0.1, 0.1, 0.3))
        self._lease_s = self.chance.choice((0.0, 0.0, 0.2))
        self._partition_count = partition_count
        factor = self.chance.choice((3, 3, 5))
        self._factor = replication_factor or factor
        self._settings = {
            "migration_timeout_s": MIGRATION_TIMEOUT_S,
            "node_replace_after_s": 0,
            "digest_interval_s": DIGEST_INTERVAL_S if seed % 2 else 0,
            **(settings or {}),
        }
        self._members: dict[int, Member] = {}
        self._lives = 0
        self._watchers: dict[int, list[Callable[[], None]]] = {}
        self._trace = hashlib.blake2b(digest_size=16)
        for node in self.founders:
            self._install(member_of(node, node, rack_count))
        for node in self.founders:
            self._start(node)
        drawn = self.chance.choice((0.01, 0.01, 0.01, 0.7))
        mixed_share = self.chance.choice((0.0, 0.1, 0.5))
        self.workload = Workload(self, clients, drawn if think_s_max is None else think_s_max, mixed_share)

    # Machines --------------------------------------------------------------------------------------------------------

    def _install(self, member: Member) -> None:
        """Put a machine there, with an empty disk."""
        node = member.id
        self._members[node] = member
        self.disks[node] = SimulatedDisk(node, self.time, random.Random(self.chance.getrandbits(64)), self.count)
        self.clock_offsets_s[node] = self.chance.uniform(-3600, 3600)

    def let_in(self, member: Member, book: AddressBook) -> None:
        """Start a machine that the cluster has let in; it knows whom the `book` names."""
        if member.id in self.disks:
            raise SafetyViolation(f"node id {member.id} was given twice")
        self.count("node joined")
        self._install(member)
        self.disks[member.id].join(book)
        self.nodes.append(member.id)
        self._start(member.id)

    def retire(self, node: int, _reason: str = "") -> None:
        """A machine that no longer belongs to the cluster ends for good, at the end of this instant."""
        if node not in self.gone:
            self.gone.add(node)
            self.time.after(0.0, partial(self._end_for_good, node))

    def _end_for_good(self, node: int) -> None:
        self.crash(node)
        if node in self.nodes:
            self.nodes.remove(node)

    def _founding(self) -> Founding:
        return Founding(
            cluster_id=f"{self.chance.getrandbits(64):016x}",
            members=tuple(Member(id=node, peer=self._members[node].peer) for node in self.founders),
            partition_count=self._partition_count,
            replication_factor=self._factor,
            settings=self._settings,
        )

    def _start(self, node: int) -> None:
        is_founder = node in self.founders
        settings = ReplicaSettings(
            node_id=node,
            voters=self.founders[:META_VOTERS_MAX] if is_founder else (),
            raft=self._drawn_config() if self.is_watched else RaftConfig(quiet_after_s=0.1),
            policy=SnapshotPolicy(entries=self.chance.choice((20, 100, 1000))) if self.is_watched else SnapshotPolicy(),
            first_timeout_s=FIRST_WAIT_S,
            first_partitions=self._partition_count,
            engine=LuaEngine(chance=random.Random(self.seed)),
        )
        self._lives += 1
        founding = self._founding() if is_founder else None
        machine = Machine(self, self._members[node], self._lives, settings, founding)
        self.invariants.recovered(machine)
        self.machines[node] = machine

    def _drawn_config(self) -> RaftConfig:
        """Small enough that a short life sees many snapshots of many chunks."""
        return RaftConfig(
            retained_entries=self.chance.choice((0, 10, 100)),
            chunk_bytes_max=500,
            lease_s=self._lease_s,
            apply_entries_max=self.chance.choice((1, 3, 256)),
            quiet_after_s=self._quiet_after_s,
        )

    def restart(self, node: int) -> None:
        """Start a machine that is down; the one place where machines come back.

        One that finds its disk damaged, or empty, is taken back by the others under another directory.
        """
        if not self.machines[node].alive and node not in self.gone:
            self._start(node)

    @property
    def meta(self) -> MetaState | None:
        """The newest state of *meta* that any machine that runs has; None until the cluster is formed."""
        metas = [machine.meta for machine in self.machines.values() if machine.alive]
        newest = max(metas, key=lambda meta: meta.version, default=None)
        return newest if newest is not None and newest.cluster_id else None

    def is_whole(self) -> bool:
        """Whether every machine is well, everything is where the map says, nothing is on its way, and the registry
        says so of the members: one more loss can be borne wherever there are three replicas."""
        meta = self.meta
        if meta is None or meta.busy:
            return False
        present = {node for node in meta.roster if meta.is_present(node)}
        if REGISTRY in meta.features and members_said_alive(meta) != present:
            return False
        if not present <= self.machines.keys() or any(node not in present for node in meta.held_by):
            return False
        return all(self.machines[node].is_well and self.machines[node].has_all_of(meta) for node in sorted(present))

    def bears_loss_of(self, nodes: Collection[int]) -> bool:
        """Whether every group has a majority without these, by the map and by what any machine knows of its group.

        Also when those have stopped voting that were told to leave: their group may have decided that already.
        """
        meta = self.meta
        if meta is None:
            return False
        memberships = [Membership(voters=partition.replicas) for partition in meta.map]
        for machine in self.machines.values():
            if machine.alive:
                for replica in machine.replicas.values():
                    log = replica.raft.log
                    memberships += [log.membership, log.committed_membership(replica.raft.commit)]
        halves = [half for each in memberships for half in (each.voters, each.outgoing) if half]
        lost = {*nodes, *self.operators.parting}
        return all(2 * len([node for node in half if node not in lost]) > len(half) for half in halves)

    def meta_changed(self, machine: Machine) -> None:
        """A machine has applied something to *meta*."""
        meta = machine.meta
        if self.is_watched:
            self.invariants.meta(machine, meta, machine.steward.partitions)
        for migration in meta.migrations.values():
            if (migration.id, migration.stage) not in self._stages:
                self._stages.add((migration.id, migration.stage))
                self.count(f"migration {migration.stage}")
                for watcher in list(self.stage_watchers):
                    watcher(migration)
        for node in self.nodes:
            member = meta.roster.get(node)
            if member is not None and member.state not in PRESENT and node not in self.gone:
                self.count(f"node {member.state}")
                self.gone.add(node)
                self.time.after(self.chance.uniform(0, STAYS_S_MAX), partial(self._end_for_good, node))

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
            machine = self.machines.get(to)
            if machine is not None and machine.alive:
                machine.receive(sender.node_id, sender.life, received)

        self.network.send(sender.node_id, to, envelopes, deliver)

    def turned(self, machine: Machine, changed: Iterable[tuple[GroupId, RaftNode]]) -> None:
        """A machine ended a turn: check what changed on it, and note it in the trace."""
        changes = [b"%d %d" % (round(self.time.now() * 1e6), machine.node_id)]
        for group, consensus in changed:
            if self.is_watched:
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
        self.keep_up()
        self.settle()
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

    def keep_up(self) -> None:
        """Connect a node anew while clients write without a pause: its replicas must keep up with that."""
        node = self.chance.choice(self.nodes)
        self.workload.write_on(besides=node)
        self._connect_anew(node)

    def _connect_anew(self, node: int) -> None:
        self.faults.reconnect(node)
        committed = committed_in(self)
        deadline = self.time.now() + KEEPS_UP_S_MAX
        while (behind := left_behind(self, committed)) or self.network.cuts:
            if self.time.now() > deadline:
                voters = ", ".join(f"node {node} in group {group}" for node, group in behind)
                raise LivenessViolation(f"left behind for {KEEPS_UP_S_MAX} s: {voters}; {self.why_not()}")
            self.time.run_until(self.time.now() + LOOK_S)

    def settle(self) -> None:
        """Stop the clients, wait until everything is where it belongs, and compare what is there with what they were
        told. Raises as `run` does."""
        self.workload.stopped = True
        deadline = self.time.now() + HEAL_S_MAX
        while self.workload.in_flight:
            if self.time.now() > deadline or not self.time.step():
                raise LivenessViolation(f"{self.workload.in_flight} operations were never answered")
        deadline = self.time.now() + WHOLE_S_MAX
        while not self.is_whole():
            if self.time.now() > deadline:
                raise LivenessViolation(f"not all is where it belongs {WHOLE_S_MAX} s after healing: {self.why_not()}")
            self.time.run_until(self.time.now() + LOOK_S)
        self._connect_anew(self.chance.choice(self.nodes))  # Groups that go quiet have done so.
        self.read_back()
        self.invariants.states(self.machines)
        self._judge()

    def _check_states(self) -> None:
        alive = {node: machine for node, machine in self.machines.items() if machine.alive}
        self.invariants.states(alive)
        for machine in alive.values():
            machine.check()
        self.time.after(STATES_EVERY_S, self._check_states)

    def why_not(self) -> str:
        """What the world is like, for whoever wants to know why it is not whole."""
        meta = self.meta
        if meta is None:
            return "the cluster is not formed"
        parts = [f"busy {list(meta.busy.values())}, roster {[(m.id, str(m.state)) for m in meta.roster.values()]}"]
        parts += [f"{each.id} on {each.replicas} {each.state}" for each in meta.map]
        parts.append(f"the registry says that {sorted(members_said_alive(meta))} live")
        for node, machine in self.machines.items():
            if machine.alive:
                groups = {
                    group: (each.raft.role.name, each.raft.term, each.raft.leader, each.raft.log.membership)
                    for group, each in machine.replicas.items()
                }
                parts.append(f"node {node}: well {machine.is_well}, version {machine.meta.version}, {groups}")
        return "; ".join(parts)

    def read_back(self) -> None:
        """Every acknowledged operation shows once in what can be read now, or `SafetyViolation`."""
        read: dict[bytes, Reply] = {}
        wanted = [[b"GET", b"counter:%d" % key] for key in range(KEYS)]
        wanted += [[b"HKEYS", b"set:%d" % key] for key in range(KEYS)]
        wanted += [[b"HGETALL", key] for key in self.workload.notes]
        deadline = self.time.now() + HEAL_S_MAX
        reader = next(machine for node, machine in self.machines.items() if machine.alive and node not in self.gone)
        for args in wanted:
            begun: int | None = None
            if args[1] not in self.workload.notes:  # No checker has a model of notes.
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
            if begun is not None:
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


def members_said_alive(meta: MetaState) -> set[int]:
    """The members that the registry has; those that it says are gone stand as negative numbers."""
    found = set()
    for name in meta.registry.nodes:
        if not name.startswith("node-"):
            continue  # Somebody registered it who is no member.
        node = int(name.removeprefix("node-"))
        check = meta.registry.checks.get((name, NODE_CHECK))
        found.add(node if check is not None and check.status is CheckStatus.PASSING else -node)
    return found


class _Sink:
    def __init__(self) -> None:
        self.replies: list[Reply] = []

    def deliver(self, reply: Reply) -> None:
        self.replies.append(reply)
