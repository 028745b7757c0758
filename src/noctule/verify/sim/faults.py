"""What goes wrong in a world. Each fault is a method that begins it and sees to its end; `Faults.table` has them all.

A new kind of fault is a method here, a line in the table, and a name in `coverage.RARE`.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

from noctule.adapters.peer_connections import RECONNECT_DELAY_S_MAX
from noctule.base.ids import META_GROUP, GroupId
from noctule.core.meta.operations import ChangeSettings
from noctule.core.migration.stages import Migration
from noctule.core.raft import events as raft
from noctule.core.raft.membership import Change, ChangeKind
from noctule.verify.sim.disk import SYNC_S_MAX
from noctule.verify.sim.network import NetworkFaults, cuts_around, cuts_to_ring

if TYPE_CHECKING:
    from noctule.verify.sim.machine import Machine
    from noctule.verify.sim.world import World

FAULTS_MAX = 20
"""In one world."""

TEND_S = 0.25
"""Between two looks at who belongs to the groups."""

WRITE_AWAITED_S_MAX = 1.0
"""How long a fault that wants to hit a write waits for one."""


JOINING_MAX = 3
"""Machines that may join in one world."""
PARTS = ("source", "target", "leader", "leader of meta")
"""Who has one in a migration."""


def node_of(world: "World", migration: Migration, part: str) -> int:
    """The node that has this part in a migration now; 0 when nobody has."""
    if part == "source":
        return migration.source
    if part == "target":
        return migration.target
    group = META_GROUP if part == "leader of meta" else GroupId(migration.partition)
    leading = [
        (machine.replicas[group].raft.term, node)
        for node, machine in world.machines.items()
        if machine.alive and group in machine.replicas and machine.replicas[group].raft.is_leader()
    ]
    return max(leading, default=(0, 0))[1]


class Faults:
    """Drawn for one world, all from its chance."""

    def __init__(self, world: "World") -> None:
        self.table: tuple[Callable[[int], None], ...] = (
            self.crash_for_a_while,
            self.crash_in_a_write,
            self.cut_for_a_while,
            self.cut_to_ring_for_a_while,
            self.cut_power_of_all,
            self.transfer,
            self.fail_disk,
            self.flip_bits,
            self.replace_disk,
            self.change_members,
            self.jump_clock,
            self.pause,
            self.join,
            self.drain,
            self.remove,
            self.stay_away,
            self.migrate,
            self.migrate,
            self.strike_migration,
            self.strike_migration,
            self.cancel,
            self.change_settings,
        )
        """Each is as likely as the others; each is given a node, which it may make nothing of."""
        self._world = world
        self._chance = world.chance
        self._is_healed = False
        self._bears_losses = False
        """Whether every group has all nodes as voters, all the time."""
        self._stay_down: set[int] = set()
        """Nodes that nobody starts any more."""
        self._away: set[int] = set()
        """Nodes that nobody starts until all is healed."""
        self._strikes = 0

    def schedule(self, fault_s: float, names: Collection[str] = ()) -> None:
        """Draw what the network and the disks are like, and what happens when, of the faults of these names only.

        Without names each world has some kinds of faults, so that two that need each other meet more often than among
        all (Groce et al., "Swarm Testing", 2012).
        """
        world, chance = self._world, self._chance
        world.network.faults = NetworkFaults(
            loss=chance.choice((0, 0, 0.01, 0.1)),
            doubled=chance.choice((0, 0.02, 0.1)),
            delay_s_max=chance.choice((0.001, 0.01, 0.05)),
            straggler=chance.choice((0, 0.01, 0.05)),
        )
        for disk in world.disks.values():
            disk.slow_sync = chance.choice((0, 0, 0.05))
            disk.sync_s_max = chance.choice((SYNC_S_MAX, SYNC_S_MAX, 0.02, 0.1))
        world.stage_watchers.append(self._strike)
        kinds = [fault for fault in self.table if fault.__name__ in names]
        if not names:
            kinds = chance.sample(self.table, chance.randint(2, len(self.table)))
        self._bears_losses = not {self.flip_bits, self.replace_disk, self.change_members} & set(kinds)
        self._tend_members()
        for _ in range(chance.randrange(2, FAULTS_MAX)):
            at_s = chance.uniform(min(0.5, fault_s / 2), fault_s)
            world.time.after(at_s, partial(self._begin, chance.choice(kinds)))

    def _begin(self, fault: Callable[[int], None]) -> None:
        fault(self._chance.choice(self._world.nodes))

    def heal(self) -> None:
        """Everything works again; in some worlds a minority stays down, and the others must do without it.

        Not where disks are lost or members change: there those that run may be no majority of the voters.
        """
        world = self._world
        self._is_healed = True
        self._strikes = 0
        world.operators.stop_leaving()
        minority = self._chance.sample(world.nodes, (len(world.nodes) - 1) // 2)
        if self._bears_losses and world.is_whole() and world.bears_loss_of(minority):
            self._stay_down = set(minority)
            world.count("minority left down")
        world.network.faults = NetworkFaults()
        world.network.cuts.clear()
        for disk in world.disks.values():
            disk.slow_sync, disk.sync_s_max = 0.0, SYNC_S_MAX
        for node in list(world.nodes):
            if node in self._stay_down or world.machines[node].failure or world.disks[node].files.failing:
                world.crash(node)
            if node not in self._stay_down:
                world.restart(node)
        if self._away:
            # Who was away long enough is taken out and may not come back; all that could be, is replaced by now.
            world.operators.ask(ChangeSettings({"node_replace_after_s": 0}))
        self._away.clear()

    def bring_back(self) -> None:
        """Whoever stayed down comes back, too."""
        self._stay_down = set()
        for node in list(self._world.nodes):
            self._world.restart(node)

    # Processes -------------------------------------------------------------------------------------------------------

    def crash_for_a_while(self, node: int) -> None:
        """The process is killed, or its machine loses power."""
        self._world.crash(node, power=self._chance.random() < 0.5)
        self._restart_later(node)

    def crash_in_a_write(self, node: int) -> None:
        """The machine dies while it writes to its log, alone or with all others; how far the write came is open."""
        crash = self._chance.choice((self.crash_for_a_while, self.crash_for_a_while, self.cut_power_of_all))
        self._when_writing(node, partial(crash, node), self._world.time.now() + WRITE_AWAITED_S_MAX)

    def _when_writing(self, node: int, call: Callable[[], None], deadline: float) -> None:
        world = self._world
        if self._is_healed or world.time.now() > deadline:
            return
        if world.machines[node].alive and world.disks[node].is_writing():
            call()
        else:
            world.time.after(0.0005, partial(self._when_writing, node, call, deadline))

    def cut_power_of_all(self, _node: int) -> None:
        """The power fails for everyone at one moment; they come back one by one."""
        self._world.count("power cut of all")
        for node in list(self._world.nodes):
            self._world.crash(node, power=True)
            self._restart_later(node)

    def _cut_power(self, node: int) -> None:
        if not self._is_healed:
            self._world.crash(node, power=True)
            self._restart_later(node)

    def pause(self, node: int) -> None:
        """The process is stopped, and notices nothing but that time has passed."""
        machine = self._world.machines[node]
        if machine.alive:
            self._world.count("pause")
            machine.pause(self._chance.uniform(0.05, 3.0))

    def _restart_later(self, node: int) -> None:
        self._world.time.after(self._chance.uniform(0.01, 2.0), partial(self._restart, node))

    def _restart(self, node: int) -> None:
        """A machine that crashed once may do so again soon, or at once, in its recovery."""
        if node in self._stay_down or node in self._away:
            return
        self._world.restart(node)
        if self._chance.random() < 0.2 and not self._is_healed:
            delay_s = self._chance.uniform(0, self._chance.choice((0.05, 1.0)))
            self._world.time.after(delay_s, partial(self._crash_again, node))

    def _crash_again(self, node: int) -> None:
        if not self._is_healed:
            self.crash_for_a_while(node)

    def reconnect(self, node: int) -> None:
        """The connections of a node break, perhaps since it is killed, and those of one direction are back later: what
        is said as soon as the others are, or what is answered, is lost."""
        world, chance = self._world, self._chance
        others = [other for other in world.nodes if other != node]
        machine = world.machines[node]
        if chance.random() < 0.5:
            world.crash(node)
            world.time.after(chance.uniform(0.01, 0.5), partial(world.restart, node))
        elif machine.alive:
            world.disconnect(machine)
            for other in others:
                machine.peer_lost(other)
        halves = {chance.choice(((node, other), (other, node))) for other in others}
        self._cut("connected by halves", halves, RECONNECT_DELAY_S_MAX)

    # Disks -----------------------------------------------------------------------------------------------------------

    def fail_disk(self, node: int) -> None:
        """Something on the disk fails from now on, until the machine is started anew."""
        world = self._world
        machine = world.machines[node]
        if not machine.alive:
            return
        world.disks[node].fail()

        def replace() -> None:
            if world.machines[node] is machine and not self._is_healed:
                power = self._chance.random() < 0.5
                world.crash(node, power=power)
                self._restart_later(node)
                if not power:
                    # What only memory has, for a sync failed, is gone with the next power cut.
                    world.time.after(self._chance.uniform(0.5, 4.0), partial(self._cut_power, node))

        world.time.after(self._chance.uniform(0.5, 3.0), replace)

    def flip_bits(self, node: int) -> None:
        """A machine dies, and before it comes back bits of its disk change. No other loss may be open."""
        world = self._world
        if node in world.founders and world.is_whole() and world.bears_loss_of([node]):
            world.crash(node, power=self._chance.random() < 0.5)
            world.disks[node].flip_bits()
            self._restart_later(node)

    def replace_disk(self, node: int) -> None:
        """A machine dies and comes back on an empty disk. No other loss may be open."""
        world = self._world
        if node in world.founders and world.is_whole() and world.bears_loss_of([node]):
            world.crash(node, power=True)
            world.disks[node].replace()
            self._restart_later(node)

    # Members ---------------------------------------------------------------------------------------------------------

    def change_members(self, node: int) -> None:
        """In some groups this node becomes a learner, by any way there is; no loss may be open, for voters get few."""
        if not self._world.is_whole():
            return
        self._world.count("members changed")
        for machine, group in self._led():
            if node in machine.replicas[group].raft.log.membership.voters and self._chance.random() < 0.7:
                way = self._chance.choice(list(raft.Transition))
                machine.take(group, raft.ChangeMembership((Change(ChangeKind.LEARNER, node),), way))
                if self._chance.random() < 0.6:
                    # Nobody hears of it, so the next leader takes it back.
                    self.cut_for_a_while(machine.node_id)

    def _tend_members(self) -> None:
        """Now and then, and after healing always, partitions are brought back to all voters that the map names.

        Migrations are left alone, and *meta* sees to itself.
        """
        meta = self._world.meta
        for machine, group in self._led():
            membership = machine.replicas[group].raft.log.membership
            partition = meta.map.get(group) if meta is not None and group not in meta.busy else None
            if not self._is_healed and self._chance.random() < 0.7:
                continue
            replicas = partition.replicas if partition is not None else ()
            lost = [node for node in membership.learners if node in replicas and node not in membership.returning]
            if membership.is_joint() and not membership.auto_leave:
                machine.take(group, raft.LeaveJoint())
            elif lost and not membership.is_joint():
                machine.take(group, raft.ChangeMembership(tuple(Change(ChangeKind.VOTER, node) for node in lost)))
        self._world.time.after(TEND_S, self._tend_members)

    def _led(self) -> list[tuple["Machine", GroupId]]:
        """The groups with a leader that is well, each with it."""
        well = [machine for machine in self._world.machines.values() if machine.is_well]
        return [(each, group) for each in well for group, replica in each.replicas.items() if replica.raft.is_leader()]

    # The cluster changes ---------------------------------------------------------------------------------------------

    def join(self, _node: int) -> None:
        """Another node joins."""
        if self._world.operators.joining < JOINING_MAX:
            self._world.operators.join()

    def drain(self, node: int) -> None:
        """A node is to leave."""
        self._world.operators.drain(node)

    def remove(self, node: int) -> None:
        """A node is lost for good, and an operator takes it out."""
        self._world.operators.remove(node)

    def stay_away(self, node: int) -> None:
        """A node dies and stays away for so long that the cluster replaces it by itself."""
        world = self._world
        if world.is_whole() and world.bears_loss_of([node]):
            self._away.add(node)
            world.crash(node)
            world.count("node stays away")
            world.operators.ask(ChangeSettings({"node_replace_after_s": 1.0}))

    def migrate(self, _node: int) -> None:
        """A replica moves."""
        self._world.operators.migrate()

    def cancel(self, _node: int) -> None:
        """A migration is called back."""
        self._world.operators.cancel()

    def change_settings(self, _node: int) -> None:
        """The cluster is told to keep to other limits."""
        self._world.operators.change_settings()

    def strike_migration(self, _node: int) -> None:
        """A replica moves, and when the migration comes into one of its stages somebody who has a part in it fails."""
        self._strikes += 1
        self._world.operators.migrate()

    def _strike(self, migration: Migration) -> None:
        if not self._strikes or self._chance.random() < 0.5:
            return
        self._strikes -= 1
        part = self._chance.choice(PARTS)
        node = node_of(self._world, migration, part)
        if node in self._world.nodes and not self._is_healed:
            way = self._chance.choice((self.crash_for_a_while, self.pause, self.cut_for_a_while))
            self._world.count(f"{part} struck in a migration")
            self._world.count(f"{part} struck in {migration.stage}")
            self._world.time.after(0.0, partial(way, node))

    # Network ---------------------------------------------------------------------------------------------------------

    def cut_for_a_while(self, node: int) -> None:
        """A node is isolated, in one direction or in both."""
        directions = self._chance.choice(("both", "out", "in"))
        others = [other for other in self._world.nodes if other != node]
        self._cut(f"cut {directions}", cuts_around(node, others, directions))

    def cut_to_ring_for_a_while(self, _node: int) -> None:
        """Each node reaches its neighbours only."""
        self._cut("cut ring", cuts_to_ring(self._world.nodes))

    def _cut(self, what: str, cuts: set[tuple[int, int]], duration_s_max: float = 3.0) -> None:
        network = self._world.network
        self._world.count(what)
        network.cuts |= cuts
        self._world.time.after(self._chance.uniform(0.1, duration_s_max), lambda: network.cuts.difference_update(cuts))

    # The rest --------------------------------------------------------------------------------------------------------

    def jump_clock(self, node: int) -> None:
        """The wall clock is set forward or back, by up to an hour."""
        self._world.count("clock jump")
        self._world.clock_offsets_s[node] += self._chance.uniform(-3600, 3600)

    def transfer(self, node: int) -> None:
        """Every leader is asked to hand over to this node. No fault, but it is not always asked at a good time."""
        for machine in self._world.machines.values():
            if machine.alive and machine.node_id != node:
                for group, replica in machine.replicas.items():
                    if replica.raft.is_leader():
                        machine.ask(group, raft.TransferLeadership(node))
