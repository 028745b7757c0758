"""One Raft group under random events: the rules of consensus alone, many thousands of steps a second.

`world.py` runs whole nodes with realistic timing; here every order of events is as likely as any other: messages are
delivered in any order, lost or doubled, disks sync late, nodes crash, lose their disks, join and leave, leaders hand
over, clocks run at different rates. `driving.Group` checks every step; here every read is checked, too.

`make fuzz SEEDS=N` runs many, `make fuzz SEED=N` one.
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from noctule.base.errors import InternalError, RequestError
from noctule.base.ids import Instant
from noctule.core.raft import events as raft
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.membership import Change, ChangeKind, Membership
from noctule.core.raft.messages import Heartbeat
from noctule.core.raft.node import RaftNode
from noctule.verify.sim.driving import Group, chosen
from noctule.verify.sim.invariants import LivenessViolation, SafetyViolation
from noctule.verify.sim.run import EXIT_CRASH, EXIT_LIVENESS, EXIT_SAFETY

STEPS = 1_500
MEMBERS_MAX = 6
LETTERS_MAX = 300
"""More than so many on their way, and the oldest are lost."""
HEAL_ROUNDS_MAX = 400
ROUND_S = 0.05
WRITES_IN_A_ROUND = 5
CONFIG = RaftConfig(
    append_bytes_max=60,
    in_flight_max=3,
    uncommitted_bytes_max=1_000,
    chunk_bytes_max=100,
    retained_entries=3,
    clock_drift_max=0.1,
)


class Fuzzer(Group):
    """A group, and the chance that drives it. The same seed makes the same course of events."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self._rates: dict[int, float] = {}
        self._floors: dict[tuple[int, int], int] = {}
        """For each read on its way, by node and context, up to where anything was committed when it began."""
        self._island: set[int] = set()
        """Nothing gets from here to the others, or back."""
        self._lost = 0
        """A node whose disk was lost, until the group has made it a voter again; 0 is none."""
        self._unnoticed: set[tuple[int, int]] = set()
        """(who, of whom): a process has ended, and this node was not told yet."""
        self._number = 0
        self._goal = 0
        """Every member is to apply so far in the end."""
        voters = chance.choice((1, 2, 3, 3, 4, 5))
        learners = [voters + 1] if chance.random() < 0.3 else []
        quiet_after_s = chance.choice((0.0, 0.01, 0.1))
        config = replace(CONFIG, retained_entries=chance.choice((0, 3, 100)), quiet_after_s=quiet_after_s)
        config = replace(config, apply_entries_max=chance.choice((1, 2, 100)))
        if chance.random() < 0.4:
            # A long lease beside a short wait after a suspicion: whatever breaks the promise shows.
            config = replace(config, lease_s=1.4, election_timeout_s_min=1.5, election_timeout_s_max=3.0)
        super().__init__(voters, config, seed, learners=learners)

    def clock(self, node: int) -> Instant:
        """Each node's clock has its own rate and offset, no two rates further apart than the bound allows."""
        if node not in self._rates:
            self._rates[node] = self.chance.uniform(1 - CONFIG.clock_drift_max, 1)
        return Instant(self.now * self._rates[node] + 100 * node)

    # Reads -----------------------------------------------------------------------------------------------------------

    def give(self, node: int, event: raft.Event) -> list[raft.Effect]:
        """As `Group.give`; every read that becomes ready is checked."""
        effects = super().give(node, event)
        for effect in effects:
            match effect:
                case raft.ReadReady(context=context, index=index):
                    floor = self._floors.pop((node, context))
                    self.counts["read answered"] += 1
                    if index < floor:
                        raise SafetyViolation(
                            f"read {context} on node {node} sees up to {index}: {floor} was committed"
                        )
                    if self.nodes[node].applied < index:
                        raise SafetyViolation(f"read {context} on node {node} is ready before {index} is applied")
                case raft.ReadRefused(context=context):
                    del self._floors[node, context]
                    self.counts["read refused"] += 1
                case raft.MembershipChanged(membership=membership, committed=True):
                    self.counts["joint membership" if membership.is_joint() else "membership"] += 1
                case raft.MembershipChanged(committed=False) if not self.nodes[node].is_leader():
                    self.counts["membership heard"] += 1
                case raft.MembershipRefused():
                    self.counts["change refused"] += 1
                case raft.Restore():
                    self.counts["snapshot restored"] += 1
                case raft.Send(message=Heartbeat(quiet=True)):
                    self.counts["sent to sleep"] += 1
                case raft.RoleChanged(role="leader"):
                    self.counts["leader elected"] += 1
                case _:
                    pass
        return effects

    def apply_all(self, node: int) -> None:
        """Not at once: what is committed waits until `apply_someone` comes by."""

    # Steps -----------------------------------------------------------------------------------------------------------

    def run(self, steps: int = STEPS) -> Counter[str]:
        """Random steps, then healing. Raises `SafetyViolation`, `LivenessViolation` or `InternalError`."""
        for _ in range(steps):
            (act,) = self.chance.choices(ACTIONS, WEIGHTS)
            try:
                act(self)
            except RequestError:
                self.counts["step without sense"] += 1
            del self.mail[:-LETTERS_MAX]
        self._heal()
        return self.counts

    def running(self) -> list[int]:
        """Nodes that are not down."""
        return [node for node in self.members if node not in self.down]

    def someone(self) -> int:
        """A running node, or `RequestError`."""
        if not self.running():
            raise RequestError("everyone is down")
        return self.chance.choice(self.running())

    def leader(self) -> int:
        """Whoever thinks that it leads, or `RequestError`."""
        leaders = [node for node in self.running() if self.nodes[node].is_leader()]
        if not leaders:
            raise RequestError("nobody leads")
        return self.chance.choice(leaders)

    def deliver_some(self) -> None:
        """Some letters arrive, in any order."""
        for _ in range(self.chance.randrange(1, 12)):
            if not self.mail:
                return
            at = self.chance.randrange(len(self.mail)) if self.chance.random() < 0.3 else 0
            letter = self.mail[at]
            if self.chance.random() < 0.9:
                del self.mail[at]
            if self.chance.random() < 0.95 and (letter.sender in self._island) == (letter.to in self._island):
                self._hand_over(letter)

    def pass_time(self) -> None:
        """Some time passes; whoever's deadline has come may notice, or not."""
        self.now = Instant(self.now + self.chance.choice((0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.7)))
        for node in self.running():
            if self.chance.random() < 0.7 and self.nodes[node].next_deadline() <= self.clock(node):
                self.give(node, raft.Tick())

    def propose_something(self) -> None:
        """A leader, real or of the past, takes a proposal."""
        self._number += 1
        self.propose(self.leader(), b"%d" % self._number)

    def read_somewhere(self) -> None:
        """A read begins: nothing that is committed by now may be missing in it."""
        self._number += 1
        node = self.leader() if self.chance.random() < 0.5 else self.someone()
        self._floors[node, self._number] = max(self._committed, default=0)
        self.read_index(node, self._number, lease=self.chance.random() < 0.6)
        if (node, self._number) not in self._floors and self.state(node).peers:
            self.counts["read by lease"] += 1

    def apply_someone(self) -> None:
        """A node finds time for some of a commit that was too long to be applied at once."""
        self.give(self.someone(), raft.ApplyMore())

    def crash_someone(self) -> None:
        """A node dies; rarely the last one does."""
        if len(self.running()) > 1 or self.chance.random() < 0.2:
            self._crash(self.someone())

    def _crash(self, node: int) -> None:
        self.crash(node)
        self._unnoticed |= {(other, node) for other in self.members if other != node}
        self._floors = {read: floor for read, floor in self._floors.items() if read[0] != node}

    def start_someone(self) -> None:
        """A node comes back."""
        if self.down:
            self.start(self.chance.choice(sorted(self.down)))

    def hold_someone(self) -> None:
        """A disk becomes slow."""
        self.hold(self.someone())

    def release_someone(self) -> None:
        """A slow disk gets on."""
        node = self.someone()
        if self.chance.random() < 0.5:
            self.sync(node, 1)
        else:
            self.release(node)

    def change_members(self) -> None:
        """A leader is asked for another membership, whether it makes sense or not; not while a disk is lost."""
        self._note_return()
        if self._lost:
            return
        if len(self.members) < MEMBERS_MAX and self.chance.random() < 0.3:
            self.join(max(self.members) + 1)
        count = self.chance.randrange(1, min(3, len(self.members)) + 1)
        kinds = list(ChangeKind)
        changes = [Change(self.chance.choice(kinds), node) for node in self.chance.sample(self.members, count)]
        self.change(self.leader(), *changes, transition=self.chance.choice(list(raft.Transition)))

    def leave(self) -> None:
        """A leader is asked to leave a joint membership."""
        self.leave_joint(self.leader())

    def hand_over(self) -> None:
        """A leader is asked to hand over; sometimes it is cut off just when it did."""
        leader = self.leader()
        self.transfer(leader, self.someone())
        if self.chance.random() < 0.5 and self.deliver(chosen("TimeoutNow", sender=leader)):
            self._island = {leader}

    def suspect_someone(self) -> None:
        """A connection closes, though nobody may have died."""
        self.suspect(self.someone(), self.chance.choice(self.members))

    def trust_someone(self) -> None:
        """A connection is made, or a frame comes after a silence."""
        self.trust(self.someone(), self.chance.choice(self.members))

    def notice_some(self) -> None:
        """Some ends of processes are noticed; if such a process is back, that is noticed, too."""
        for node, gone in sorted(self._unnoticed):
            if node not in self.down and self.chance.random() < 0.5:
                self._notice(node, gone)

    def _notice(self, node: int, gone: int) -> None:
        self._unnoticed.discard((node, gone))
        if self.nodes[node].is_quiet():
            self.counts["quiet node told of a death"] += 1
        self.suspect(node, gone)
        if gone not in self.down:
            self.trust(node, gone)

    def rest(self) -> None:
        """Nothing goes wrong for a while, so that the group may go quiet before something does."""
        for _ in range(self.chance.randrange(2, 12)):
            for node in self.running():
                if self.nodes[node].next_deadline() <= self.clock(node):
                    self.give(node, raft.Tick())
            self.stabilise(lambda sender, to, _: (sender in self._island) == (to in self._island))
            self.now = Instant(self.now + 0.06)
        if any(self.nodes[node].is_quiet() for node in self.running()):
            self.counts["quiet after a rest"] += 1
            if self.chance.random() < 0.5:
                self._cut_off_leader()

    def cut_off(self) -> None:
        """Nodes on an island hear only each other: more often than not a leader alone, whose connections closed."""
        if self._island:
            self._island = set()
        elif self.chance.random() < 0.4:
            self._island = set(self.chance.sample(self.members, len(self.members) // 2))
        else:
            self._cut_off_leader()

    def _cut_off_leader(self) -> None:
        leader = self.leader()
        self._island = {leader}
        for node in self.running():
            if node != leader and self.chance.random() < 0.7:
                self.suspect(node, leader)

    def compact_someone(self) -> None:
        """A node writes a snapshot, if it knows the membership as of what it has applied."""
        node = self.someone()
        if self.nodes[node].log.membership_at(self.nodes[node].applied).voters:
            self.compact(node)

    def lose_a_disk(self) -> None:
        """A node comes back on an empty disk. One at a time, and where the others are a majority without it."""
        self._note_return()
        node = self.someone()
        logs = [machine.log for machine in self.nodes.values()]
        memberships = [log.membership_at(log.snapshot_index) for log in logs]
        memberships += [each for log in logs for _, each in log.memberships_between(1, log.last_index)]
        halves = [half for each in memberships for half in (each.voters, each.outgoing) if node in half]
        if self._lost or not halves or min(map(len, halves)) < 3:
            return
        self._crash(node)
        self._number += 1
        self._lost = node
        self.lose_disk(node, self._number)
        self.counts["disk lost"] += 1

    def _note_return(self) -> None:
        """Only when the node itself knows, and will after a crash, that it is a voter again has it a voice."""
        if not self._lost:
            return
        consensus, directory = self.nodes[self._lost], self.disk[self._lost].directory
        membership = consensus.log.membership
        is_back = self._lost in membership.voters and membership.directory_of(self._lost) == directory
        if is_back and consensus.durable >= consensus.log.membership_index:
            self._lost = 0
            self.counts["disk replaced"] += 1

    # Healing ---------------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        self._goal = max(machine.log.last_index for machine in self.nodes.values()) + 1
        self._island = set()
        for node in sorted(self.down):
            self.start(node)
        for node, gone in sorted(self._unnoticed):
            self._notice(node, gone)
        for node in self.members:
            for other in self.members:
                self.trust(node, other)
        for node in list(self.holds_disk):
            self.release(node)
        if self.chance.random() < 0.5:
            self.mail.clear()  # Not all connections were there yet when the first words were said.
        if self.chance.random() < 0.5:
            self._pass_until(self._has_kept_up, writes=True)
        self._pass_until(self._has_converged)

    def _pass_until(self, condition: Callable[[], bool], *, writes: bool = False) -> None:
        """Let time pass; with `writes` so that no leader is left in peace for as long as a heartbeat."""
        steps = WRITES_IN_A_ROUND if writes else 1
        for step in range(HEAL_ROUNDS_MAX * steps):
            self.now = Instant(self.now + ROUND_S / steps)
            for node in self.members:
                if writes and self.nodes[node].is_leader():
                    self.propose(node, b"on and on")
                if self.nodes[node].next_deadline() <= self.clock(node):
                    self.give(node, raft.Tick())
            self.stabilise()
            for node in self.running():
                super().apply_all(node)
            if step % steps == 0 and condition():
                return
        states = "; ".join(f"{node}: {self.state(node)}" for node in self.members)
        raise LivenessViolation(f"no agreement in {HEAL_ROUNDS_MAX} rounds after everything was healed: {states}")

    def _settled_leader(self) -> RaftNode | None:
        """The leader, unless its group is between two memberships, which one that waits to be told is told to leave."""
        leaders = [machine for machine in self.nodes.values() if machine.is_leader()]
        leader = max(leaders, key=lambda machine: machine.term, default=None)
        membership = leader.log.membership if leader is not None else Membership()
        if leader is not None and membership.is_joint() and not membership.auto_leave:
            self.leave_joint(leader.node_id)
        return None if membership.is_joint() else leader

    def _has_kept_up(self) -> bool:
        """Whether everyone who belongs has applied all that was in any log, and is committed, when it was healed."""
        leader = self._settled_leader()
        members = leader.log.membership.members() if leader is not None else ()
        return bool(members) and all(self.nodes[member].applied >= self._goal for member in members)

    def _has_converged(self) -> bool:
        leader = self._settled_leader()
        if leader is None or leader.log.membership.returning or self._floors:
            return False
        if leader.log.last_index < self._goal:
            self.propose(leader.node_id, b"last")
        members = leader.log.membership.members()
        return all(self.nodes[member].applied == leader.log.last_index >= self._goal for member in members)


_STEPS: list[tuple[int, Callable[[Fuzzer], None]]] = [
    (400, Fuzzer.deliver_some),
    (120, Fuzzer.pass_time),
    (60, Fuzzer.propose_something),
    (60, Fuzzer.read_somewhere),
    (80, Fuzzer.apply_someone),
    (8, Fuzzer.crash_someone),
    (16, Fuzzer.start_someone),
    (8, Fuzzer.hold_someone),
    (40, Fuzzer.release_someone),
    (12, Fuzzer.change_members),
    (8, Fuzzer.leave),
    (6, Fuzzer.hand_over),
    (8, Fuzzer.suspect_someone),
    (8, Fuzzer.trust_someone),
    (12, Fuzzer.notice_some),
    (6, Fuzzer.rest),
    (14, Fuzzer.cut_off),
    (8, Fuzzer.compact_someone),
    (4, Fuzzer.lose_a_disk),
]
"""How often each step is taken, in proportion."""
WEIGHTS = [weight for weight, _ in _STEPS]
ACTIONS = [step for _, step in _STEPS]


_EXIT_CODES = {SafetyViolation: EXIT_SAFETY, LivenessViolation: EXIT_LIVENESS, InternalError: EXIT_CRASH}


def main() -> int:
    """Run the seeds that the arguments name; 0 when all held, else as `run.py`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seed", type=int, help="replay this one")
    options = parser.parse_args()
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    total: Counter[str] = Counter()
    for seed in seeds:
        try:
            total.update(Fuzzer(seed).run())
        except (SafetyViolation, LivenessViolation, InternalError) as error:
            print(f"seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
            print(f"replay: make fuzz SEED={seed}", file=sys.stderr)
            return _EXIT_CODES[type(error)]
    for what, count in sorted(total.items()):
        print(f"{count:>10}  {what}")
    print(f"{len(seeds)} seeds held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
