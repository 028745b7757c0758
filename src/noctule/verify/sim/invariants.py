"""What must hold at every step of a world, whatever fails. A violation is a `SafetyViolation` with the facts.

Only what changed is looked at: entries when they are handed to the disk, elections when they are won, and of a machine
the groups that took an event in its turn.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from noctule.base.ids import GroupId
from noctule.core.meta.state import MetaState
from noctule.core.placement.partition_map import PartitionMap
from noctule.core.raft.events import Persist
from noctule.core.raft.membership import MARK, decode_membership
from noctule.core.raft.messages import Entry
from noctule.core.replica.events import DigestReady
from noctule.core.roster.loads import Compared

if TYPE_CHECKING:
    from noctule.core.raft.node import RaftNode
    from noctule.verify.sim.machine import Machine


STATES_EVERY_ENTRIES = 32
"""States are compared at each applied index that is a multiple of it: a digest costs every key."""


class SafetyViolation(AssertionError):  # noqa: N818, the checkers' own word
    """An invariant does not hold: a bug in Noctule."""


class LivenessViolation(AssertionError):  # noqa: N818
    """Healed, and yet no progress: a bug in Noctule."""


class Invariants:
    """Remembers what was true once, for all machines and all their lives."""

    def __init__(self, count: Callable[[str], None] = lambda _what: None) -> None:
        self._count = count
        self._leaders: dict[tuple[GroupId, int], tuple[int, int]] = {}
        """By group and term, the node that led, and in which of its lives."""
        self._entries: dict[tuple[GroupId, int, int], tuple[int | None, Entry, int]] = {}
        """By group, index and term: the term of the entry before, if known, the entry, and who had it first."""
        self._committed: dict[GroupId, list[Entry]] = {}
        """For each group the log as it was committed first, from index 1 on."""
        self._committed_in: dict[GroupId, list[int]] = {}
        """For each of those the term of the machine that was seen to know it first."""
        self._seen: dict[tuple[int, GroupId], int] = {}
        """Up to where each machine's log was compared; the machine is named by its life."""
        self._digests: dict[tuple[GroupId, int], tuple[int, bytes]] = {}
        self._voters: dict[GroupId, set[int]] = {}
        """Of each group, by the newest membership that was seen to be committed."""
        self._peers: dict[int, str] = {}
        """By node id, at which address it was first seen: no two nodes ever have one id."""
        self._epochs: dict[int, int] = {}
        """By life, the epoch of the map as a machine saw it last."""
        self._asked_digests: dict[tuple[GroupId, bytes], tuple[int, DigestReady]] = {}

    # Elections -------------------------------------------------------------------------------------------------------

    def leader(self, group: GroupId, term: int, machine: "Machine") -> None:
        """At most one leader in a term, and it has all that was committed before (paper, figure 3)."""
        first, life = self._leaders.setdefault((group, term), (machine.node_id, machine.life))
        if (first, life) != (machine.node_id, machine.life):
            raise SafetyViolation(f"group {group} has leaders {first} and {machine.node_id} in term {term}")
        self._check_completeness(group, term, machine)

    def _check_completeness(self, group: GroupId, term: int, machine: "Machine") -> None:
        """Leader completeness: the newest entry committed in an earlier term is in the log; by log matching so is what
        comes before it. An entry that a later leader committed already may be missing: this one is late."""
        committed, terms = self._committed.get(group, []), self._committed_in.get(group, [])
        index = len(committed)
        while index and terms[index - 1] >= term:
            index -= 1
        log = machine.replicas[group].raft.log
        if index > log.snapshot_index and log.term_at(index) != committed[index - 1].term:
            raise SafetyViolation(
                f"group {group}: node {machine.node_id} leads in term {term} and its log, which ends at "
                f"{log.last_index}, lacks entry {index}, committed in term {terms[index - 1]}"
            )

    # Logs ------------------------------------------------------------------------------------------------------------

    def persisted(self, machine: "Machine", group: GroupId, persist: Persist) -> None:
        """Log matching, where a log grows."""
        if persist.entries:
            log = machine.replicas[group].raft.log
            self._match(machine, group, persist.first_index, log.term_at(persist.first_index - 1), persist.entries)

    def recovered(self, machine: "Machine") -> None:
        """Log matching for all that a machine found on its disk: whatever it reads was written so."""
        for group in machine.replicas:
            self.came(machine, group)

    def came(self, machine: "Machine", group: GroupId) -> None:
        """Log matching for the log with which a replica begins."""
        log = machine.replicas[group].raft.log
        self._match(machine, group, log.first_index, log.snapshot_term, log.between(log.first_index, log.last_index))

    def went(self, machine: "Machine", group: GroupId) -> None:
        """A replica is being removed. It must be no voter of its group, or the group must be no more."""
        self._seen.pop((machine.life, group), None)
        if machine.node_id in self._voters.get(group, set()) and machine.meta.map.get(group) is not None:
            raise SafetyViolation(f"group {group}: node {machine.node_id} removes its replica and votes in it still")

    def _match(
        self, machine: "Machine", group: GroupId, index: int, before: int | None, entries: Iterable[Entry]
    ) -> None:
        """Entries of one index and term are the same, and so are those before them (paper, figure 3, log matching).

        The second follows by induction when the terms before are the same; `before` is that of the first.
        """
        for entry in entries:
            term = entry.term
            first = self._entries.setdefault((group, index, term), (before, entry, machine.node_id))
            if first[1] != entry or (None not in (first[0], before) and first[0] != before):
                raise SafetyViolation(
                    f"group {group}: nodes {first[2]} and {machine.node_id} have different logs up to entry {index}, "
                    f"which is of term {term} in both"
                )
            before = term
            index += 1

    # Turns -----------------------------------------------------------------------------------------------------------

    def changed(self, machine: "Machine", group: GroupId, consensus: "RaftNode") -> None:
        """After a turn in which this replica changed: its own invariants, and agreement with every other."""
        consensus.check()
        if not consensus.applied <= consensus.commit <= consensus.log.last_index:
            raise SafetyViolation(
                f"group {group}: node {machine.node_id} has applied {consensus.applied}, committed "
                f"{consensus.commit}, and its log ends at {consensus.log.last_index}"
            )
        if consensus.commit > self._seen.get((machine.life, group), 0):
            self._check_committed(machine, group, consensus)
            if consensus.applied % STATES_EVERY_ENTRIES == 0:
                self._check_state(machine, group)

    def _check_committed(self, machine: "Machine", group: GroupId, consensus: "RaftNode") -> None:
        """What is committed once stays, at its index, on every machine (state machine safety)."""
        committed = self._committed.setdefault(group, [])
        terms = self._committed_in.setdefault(group, [])
        first = max(self._seen.get((machine.life, group), 0), consensus.log.snapshot_index) + 1
        for index, entry in enumerate(consensus.log.between(first, consensus.commit), start=first):
            if index <= len(committed):
                if committed[index - 1] != entry:
                    raise SafetyViolation(
                        f"group {group}: node {machine.node_id} committed another entry at {index} "
                        f"(term {entry.term}) than was committed before (term {committed[index - 1].term})"
                    )
            elif index == len(committed) + 1:
                committed.append(entry)
                terms.append(consensus.term)
                if entry.data[:1] == MARK:
                    membership = decode_membership(entry.data)
                    self._voters[group] = {*membership.voters, *membership.outgoing}
            else:
                raise SafetyViolation(f"group {group}: node {machine.node_id} committed {index} with a gap before it")
        self._seen[machine.life, group] = consensus.commit

    # The map and the roster ------------------------------------------------------------------------------------------

    def meta(self, machine: "Machine", meta: MetaState, followed: PartitionMap) -> None:
        """A machine has seen another state of *meta*: epochs only rise on it, the map that it follows is the one that
        it was told, every slot has one partition, and no id of a node is ever given twice."""
        epoch = meta.map.epoch
        if epoch < self._epochs.get(machine.life, 0):
            raise SafetyViolation(
                f"node {machine.node_id} goes back from the map of epoch {self._epochs[machine.life]} to {epoch}"
            )
        if epoch != self._epochs.get(machine.life):
            self._epochs[machine.life] = epoch
            if followed.partitions != meta.map.partitions or followed.slot_table != meta.map.slot_table:
                raise SafetyViolation(f"node {machine.node_id} follows another map than that of epoch {epoch}")
            followed.check()
        for node, member in meta.roster.items():
            if self._peers.setdefault(node, member.peer) != member.peer:
                raise SafetyViolation(f"{member.peer} has the id {node}, which was that of {self._peers[node]}")

    def states(self, machines: Mapping[int, "Machine"]) -> None:
        """Equal state at equal applied index, on all machines and at all times."""
        for machine in machines.values():
            for group in machine.replicas:
                self._check_state(machine, group)

    def digested(self, machine: "Machine", group: GroupId, digest: DigestReady) -> None:
        """The digest that the log asked for is the same, and of the same index, on whichever machine takes it."""
        node, expected = self._asked_digests.setdefault((group, digest.nonce), (machine.node_id, digest))
        if digest != expected:
            raise SafetyViolation(
                f"group {group}: nodes {node} and {machine.node_id} have different digests of one entry: "
                f"{expected} and {digest}"
            )
        if node != machine.node_id:
            self._count("digests compared")

    def compared(self, machine: "Machine", group: GroupId, compared: Compared) -> None:
        """The leader finds no replica that differs, by the way that it has in production."""
        if compared.different:
            raise SafetyViolation(
                f"group {group}: node {machine.node_id}, which leads it, finds that {compared.different} differ from "
                f"{compared.equal} at index {compared.index}"
            )

    def _check_state(self, machine: "Machine", group: GroupId) -> None:
        replica = machine.replicas[group]
        digest = replica.digest()
        node, expected = self._digests.setdefault((group, replica.raft.applied), (machine.node_id, digest))
        if digest != expected:
            raise SafetyViolation(
                f"group {group}: nodes {node} and {machine.node_id} differ at applied index {replica.raft.applied}"
            )
        if node != machine.node_id:
            self._count("states compared")

    def committed_count(self) -> int:
        """Entries committed in all groups."""
        return sum(len(entries) for entries in self._committed.values())
