"""Whoever looks after a simulated cluster: nodes join, are drained and taken out, replicas are moved, settings change.

Nothing here is a fault, and everything is asked for through *meta*, at any node that runs, as an operator would.
What is asked for may be refused or lost; the world only has to stay true. What happens when is drawn by `Faults`.
"""

import random
from functools import partial
from typing import TYPE_CHECKING

from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.meta import operations
from noctule.core.meta.operations import Operation, decode_answer, encode_operation
from noctule.core.meta.tokens import hash_token
from noctule.core.migration.stages import ENDED, Stage
from noctule.core.roster.features import FEATURES
from noctule.core.roster.members import Member, MemberState
from noctule.node.address_book import AddressBook
from noctule.node.proposals import Done

if TYPE_CHECKING:
    from noctule.verify.sim.machine import Machine
    from noctule.verify.sim.world import World

AGAIN_S = 0.3
"""A machine that waits to be let in asks again after so long."""
SETTINGS = {
    "replication_factor": (3, 3, 5),
    "migrations_concurrent_max": (1, 2, 10),
    "migration_bytes_per_s_max": (0, 1_000, 100_000),
}
"""What operators like to set, and to what."""
STAYING_MIN = 3
"""Nobody else is told to leave when only so many would stay or fewer would: of two voters none may be lost."""
TEND_S = 0.5
"""Between two looks at whether a node that is to leave has nothing left to hold."""


def member_of(node: int, machine: int, rack_count: int) -> Member:
    """What a machine, by its number among all, says of itself."""
    return Member(
        id=node,
        peer=f"machine-{machine}:1",
        labels={"host": f"machine-{machine}", "rack": f"rack-{machine % rack_count}"},
        version="simulated",
        features=FEATURES,
    )


class _Done:
    """A `ReplySink`."""

    def __init__(self, done: Done) -> None:
        self._done = done

    def deliver(self, reply: Reply) -> None:
        """Hand it on."""
        self._done(reply)


class Operators:
    """Of one world."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._chance = world.chance
        self.joining = 0
        """Machines that were ever told to join."""
        self.parting: set[int] = set()
        """Nodes that were ever told to leave, or taken out: they may stop voting at any moment."""
        self._leaving: set[int] = set()

    def ask(self, operation: Operation, done: Done = lambda _reply: None, at: "Machine | None" = None) -> None:
        """Have *meta* do this, by way of the machine `at` or of any that runs; nobody answers for what is lost."""
        machine = at or self._someone()
        if machine is not None:
            machine.operate(encode_operation(operation), _Done(done))

    def _someone(self) -> "Machine | None":
        running = [m for node, m in self._world.machines.items() if m.alive and node not in self._world.gone]
        formed = [machine for machine in running if machine.meta.cluster_id]
        return self._chance.choice(formed) if formed else None

    # Nodes -----------------------------------------------------------------------------------------------------------

    def join(self) -> None:
        """Another machine is to join: an operator makes a token, and the machine asks until it is let in."""
        self.joining += 1
        number = len(self._world.founders) + self.joining
        token = hash_token(f"noctule-{number}")
        self.ask(operations.CreateToken(token))
        _Joiner(self._world, number, token, self._chance)

    def drain(self, node: int) -> None:
        """A node is to leave in peace: it is drained, and leaves when it holds nothing any more."""
        meta = self._world.meta
        if meta is None or node in self._leaving:
            return
        if len([each for each in meta.roster if meta.is_present(each) and each not in self.parting]) <= STAYING_MIN:
            return
        if not self._leaving:
            self._world.time.after(TEND_S, self._tend_leaving)
        self._leaving.add(node)
        self.parting.add(node)
        self._world.count("node drained")
        self.ask(operations.SetMemberState(node, MemberState.DRAINING))

    def _tend_leaving(self) -> None:
        meta = self._world.meta
        for node in sorted(self._leaving):
            member = meta.roster.get(node) if meta is not None else None
            if meta is None or member is None:
                continue
            if member.state is MemberState.ACTIVE:
                self.ask(operations.SetMemberState(node, MemberState.DRAINING))
            elif member.state is not MemberState.DRAINING:
                self._leaving.discard(node)
            elif not meta.held_by.get(node):
                self.ask(operations.SetMemberState(node, MemberState.LEFT))
        if self._leaving:
            self._world.time.after(TEND_S, self._tend_leaving)

    def stop_leaving(self) -> None:
        """Who has not left by now stays: not every node that is to go has somewhere to go to."""
        meta = self._world.meta
        for node in sorted(self._leaving):
            if meta is not None and node in meta.roster and meta.roster[node].state is MemberState.DRAINING:
                self.ask(operations.SetMemberState(node, MemberState.ACTIVE))
        self._leaving.clear()

    def remove(self, node: int) -> None:
        """A node is gone for good, and taken out as it is; only where every group does without it."""
        meta = self._world.meta
        if meta is None or not meta.is_present(node) or not self._world.is_whole():
            return
        if self._world.bears_loss_of([node]) and len(self._world.nodes) > STAYING_MIN:
            self.parting.add(node)
            self._world.crash(node, power=self._chance.random() < 0.5)
            self.ask(operations.SetMemberState(node, MemberState.REMOVED))

    # Replicas --------------------------------------------------------------------------------------------------------

    def migrate(self) -> None:
        """A replica is to move, from and to anywhere."""
        meta = self._world.meta
        if meta is None or not len(meta.map):
            return
        partition = self._chance.choice(sorted(meta.map.partitions))
        replicas = meta.map.partitions[partition].replicas
        others = [node for node in sorted(meta.roster) if meta.is_present(node) and node not in replicas]
        if others:
            source, target = self._chance.choice(replicas), self._chance.choice(others)
            self.ask(operations.BeginMigration(partition, source, target, "an operator's wish"))

    def cancel(self) -> None:
        """A migration that is on its way is called back."""
        meta = self._world.meta
        running = [each for each in meta.migrations.values() if each.stage not in ENDED] if meta is not None else []
        if running:
            migration = self._chance.choice(running)
            self._world.count("migration cancelled")
            self.ask(operations.AdvanceMigration(migration.id, migration.stage, Stage.ROLLBACK, "cancelled"))

    # Settings --------------------------------------------------------------------------------------------------------

    def change_settings(self) -> None:
        """Another replication factor, or other limits."""
        chance = self._chance
        values: dict[str, int | float | str | bool] = {}
        name = chance.choice(("replication_factor", "migrations_concurrent_max", "migration_bytes_per_s_max"))
        values[name] = chance.choice(SETTINGS[name])
        if chance.random() < 0.3:
            values["rebalance_enabled"] = chance.random() < 0.5
        self._world.count("settings changed")
        self.ask(operations.ChangeSettings(values))


class _Joiner:
    """A machine that is not let in yet. It knows the addresses of a few nodes, and always asks with the same nonce."""

    def __init__(self, world: "World", number: int, token: str, chance: random.Random) -> None:
        self._world = world
        self._number = number
        self._token = token
        self._known = chance.sample(world.nodes, min(2, len(world.nodes)))
        self._chance = chance
        self._is_in = False
        self._ask()

    def _ask(self) -> None:
        if self._is_in:
            return
        self._world.time.after(AGAIN_S, self._ask)
        machine = self._world.machines[self._chance.choice(self._known)]
        if all(node in self._world.gone for node in self._known):
            self._known = [self._chance.choice(self._world.nodes)]  # Somebody tells it of another one.
        elif machine.alive:
            operation = operations.Admit(
                member_of(0, self._number, self._world.rack_count), self._token, f"nonce {self._number}"
            )
            self._world.operators.ask(operation, partial(self._answered, machine), machine)

    def _answered(self, machine: "Machine", reply: Reply) -> None:
        if isinstance(reply, Failure) or self._is_in:
            return
        given = decode_answer(reply)
        assert isinstance(given, int)
        members = machine.premises.members
        if given not in members:
            return  # That node has not heard of its own decision yet: it is asked again.
        self._is_in = True
        self._world.let_in(members[given], AddressBook.of(machine.meta.cluster_id, members.values()))
