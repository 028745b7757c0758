"""What must hold at every step of a world, whatever fails. A violation is a `SafetyViolation` with the facts."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from noctule.base.ids import GroupId

if TYPE_CHECKING:
    from noctule.verify.sim.machine import Machine


class SafetyViolation(AssertionError):  # noqa: N818, the checkers' own word
    """An invariant does not hold: a bug in Noctule."""


class LivenessViolation(AssertionError):  # noqa: N818
    """Healed, and yet no progress: a bug in Noctule."""


class Invariants:
    """Remembers what was true once, for all machines and all their lives."""

    def __init__(self) -> None:
        self._leaders: dict[tuple[int, int], int] = {}
        self._committed: dict[int, list[tuple[int, bytes]]] = {}
        """For each group the log as it was committed first, from index 1 on."""
        self._seen: dict[tuple[int, int, int], int] = {}
        self._digests: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._lives = 0

    def leader(self, group: GroupId, term: int, node: int) -> None:
        """At most one leader in a term (paper, figure 3, election safety)."""
        first = self._leaders.setdefault((group, term), node)
        if first != node:
            raise SafetyViolation(f"group {group} has leaders {first} and {node} in term {term}")

    def machine(self, machine: "Machine") -> None:
        """After each turn of a machine: its own invariants, and agreement with every other."""
        for group, replica in machine.replicas.items():
            replica.raft.check()
            self._check_committed(machine, group)

    def _check_committed(self, machine: "Machine", group: GroupId) -> None:
        """What is committed once stays, at its index, on every machine (state machine safety, leader completeness)."""
        consensus = machine.replicas[group].raft
        committed = self._committed.setdefault(group, [])
        name = (id(machine), group, machine.node_id)
        index = max(self._seen.get(name, 0), consensus.log.snapshot_index) + 1
        while index <= consensus.commit:
            entry = consensus.log.between(index, index)[0]
            if index <= len(committed):
                if committed[index - 1] != entry:
                    raise SafetyViolation(
                        f"group {group}: node {machine.node_id} committed another entry at {index} "
                        f"(term {entry.term}) than was committed before (term {committed[index - 1][0]})"
                    )
            elif index == len(committed) + 1:
                committed.append(entry)
            else:
                raise SafetyViolation(f"group {group}: node {machine.node_id} committed {index} with a gap before it")
            index += 1
        self._seen[name] = consensus.commit

    def states(self, machines: Mapping[int, "Machine"]) -> None:
        """Equal state at equal applied index, on all machines and at all times."""
        for machine in machines.values():
            for group, replica in machine.replicas.items():
                at = (group, replica.raft.applied)
                node, digest = self._digests.setdefault(at, (machine.node_id, replica.digest()))
                if digest != replica.digest():
                    raise SafetyViolation(
                        f"group {group}: nodes {node} and {machine.node_id} differ at applied index {at[1]}"
                    )

    def committed_count(self) -> int:
        """Entries committed in all groups."""
        return sum(len(entries) for entries in self._committed.values())
