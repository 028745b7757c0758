"""A Raft group whose members follow *meta*, each as far as it has heard of it, and drive their migrations.

Real `RaftNode`s and a real `MetaState`; each step of the mover may be lost or done twice, and letters and nodes are the
caller's to lose.
"""

import random
from hashlib import blake2b

from noctule.base.errors import RequestError
from noctule.core.meta.operations import AdvanceMigration, Form, Operation, decode_answer, encode_operation
from noctule.core.meta.state import MetaState
from noctule.core.migration import mover
from noctule.core.migration.group_view import Digest, GroupView, view_group
from noctule.core.migration.stages import ENDED, Migration
from noctule.core.placement.partition_map import Partition
from noctule.core.raft import events as raft
from noctule.core.roster.features import FEATURES
from noctule.core.roster.members import PRESENT, Member
from noctule.verify.sim.driving import Group

LIMITS = mover.MigrationLimits(timeout_s=30.0)
DIGEST = b"DIGEST:"


class Drivers:
    """The nodes of one partition, and those that may be its next ones."""

    def __init__(self, replicas: tuple[int, ...] = (1, 2, 3), nodes: int = 4, seed: int = 1) -> None:
        self.chance = random.Random(seed)
        self.group = Group(replicas, seed=seed)
        self.log: list[Operation] = []
        members = [Member(node, f"host{node}:1", features=FEATURES) for node in range(1, nodes + 1)]
        self.metas = {node: (MetaState(), 0) for node in range(nodes + 1)}
        """By node its state of *meta* and how much of the log it has applied; 0 is *meta* itself."""
        self.ask(Form("bats", members, [replicas], len(replicas)))
        for node in range(1, nodes + 1):
            self.hear(node)
        self.progress: dict[int, mover.Progress] = {}
        self.asked: dict[int, bytes] = {}
        self.wrong_digests: set[int] = set()
        """Nodes that hold something else than they should."""

    @property
    def meta(self) -> MetaState:
        """What is true."""
        return self.metas[0][0]

    @property
    def migration(self) -> Migration:
        """The newest one."""
        return self.meta.migrations[max(self.meta.migrations)]

    @property
    def partition(self) -> Partition:
        """As it is in truth."""
        return self.meta.map.partitions[next(iter(self.meta.map.partitions))]

    @property
    def leaders(self) -> list[int]:
        """Everyone who believes to lead."""
        return [
            node for node, machine in self.group.nodes.items() if machine.is_leader() and node not in self.group.down
        ]

    def ask(self, operation: Operation) -> bool:
        """Have *meta* do it; whether it did."""
        self.log.append(operation)
        state, applied = self.metas[0]
        reply = state.execute(encode_operation(operation), len(self.log))
        self.metas[0] = state, applied + 1
        try:
            decode_answer(reply)
        except RequestError:
            return False
        return True

    def hear(self, node: int, count: int | None = None) -> None:
        """The node applies the next entries of *meta*, all by default, and follows the map."""
        state, applied = self.metas[node]
        upto = len(self.log) if count is None else min(applied + count, len(self.log))
        for stamp in range(applied, upto):
            state.execute(encode_operation(self.log[stamp]), stamp + 1)
        self.metas[node] = state, upto
        partition = state.map.get(1)
        if partition is None:
            return
        if node in partition.replicas and node not in self.group.members:
            self.group.join(node)
        elif node in self.group.members and node not in self.group.down and node not in partition.replicas:
            self.group.crash(node)

    def view(self, node: int) -> GroupView:
        """What this leader sees."""
        state = self.metas[node][0]
        target = max(state.migrations.items())[1].target if state.migrations else 0
        member = state.roster.get(target)
        view = view_group(
            self.group.nodes[node],
            self.group.now,
            target=target,
            is_target_present=member is not None and member.state in PRESENT,
            state_bytes=sum(map(len, self.group.applied[node])),
            keys=len(self.group.applied[node]),
            digest_asked=self.asked.get(node, b""),
            digests=self.digests(),
        )
        assert view is not None
        return view

    def digests(self) -> frozenset[Digest]:
        """Of every node that has applied a request for one, of what it had applied by then."""
        found = set()
        for node in self.group.members:
            data = self.group.applied[node]
            for at, each in enumerate(data):
                if each.startswith(DIGEST):
                    told = b" ".join(data[:at]) + (b"!" if node in self.wrong_digests else b"")
                    nonce = each.removeprefix(DIGEST).replace(b"_", b" ")
                    found.add(Digest(node, nonce, at, blake2b(told, digest_size=8).digest()))
        return frozenset(found)

    def decide(self, node: int) -> mover.Step | None:
        """What this leader wants next."""
        state, now = self.metas[node][0], self.group.now
        view = self.view(node)
        running = [each for each in state.migrations.values() if each.stage not in ENDED]
        if not running:
            return mover.tidy_step(state.map.partitions[next(iter(state.map.partitions))], view)
        progress = mover.watch(self.progress.get(node), running[0], view, now)
        self.progress[node] = progress
        return mover.next_step(running[0], view, progress, now, LIMITS)

    def drive(self, node: int, *, times: int = 1) -> mover.Step | None:
        """Let a leader decide, and do what it wants so many times: 0 is a step that was lost."""
        step = self.decide(node)
        for _ in range(times):
            if step is not None and node not in self.group.down and self.group.nodes[node].is_leader():
                self.carry_out(node, step)
        return step

    def carry_out(self, node: int, step: mover.Step) -> None:
        """As the node does."""
        match step:
            case mover.ChangeMembership(changes=changes, joint=joint):
                transition = raft.Transition.JOINT if joint else raft.Transition.SIMPLE
                self.group.change(node, *changes, transition=transition)
            case mover.TransferLeadership(target=target):
                self.group.transfer(node, target)
            case mover.ProposeDigest(nonce=nonce):
                self.asked[node] = nonce
                self.group.propose(node, DIGEST + nonce.replace(b" ", b"_"))
            case mover.Advance(stage=stage, to=to, note=note):
                running = [each for each in self.metas[node][0].migrations.values() if each.stage not in ENDED]
                self.ask(AdvanceMigration(running[0].id, stage, to, note))

    def settle(self, seconds: float = 60.0) -> None:
        """Everyone who belongs here runs, everything arrives, time passes, until nothing is left to be done."""
        group = self.group
        for node in list(group.down):
            self.hear(node)
            if node in self.partition.replicas:
                group.start(node)
        for _ in range(int(seconds / 0.05)):
            for node in range(1, len(self.metas)):
                self.hear(node)
            group.tick(0.05)
            group.stabilise(lambda _sender, to, _message: to in group.members)
            for node in self.leaders:
                self.drive(node)
            if self.is_over():
                return
        raise AssertionError(f"{self.migration} of {self.partition}: {[group.state(node) for node in group.members]}")

    def is_over(self) -> bool:
        """Whether the migration has ended and the group is what the map says, with everyone at the same place."""
        leaders = self.leaders
        if self.migration.stage not in ENDED or len(leaders) != 1:
            return False
        view = self.view(leaders[0])
        replicas = set(self.partition.replicas)
        members = set(view.membership.members())
        return view.is_committed and set(view.membership.voters) == replicas == members
