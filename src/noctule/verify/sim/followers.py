"""Who follows: whether each replica that votes knows who leads its group, and has what the group has agreed on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from noctule.base.ids import META_GROUP, GroupId

if TYPE_CHECKING:
    from noctule.verify.sim.machine import Machine
    from noctule.verify.sim.world import World


def committed_in(world: "World") -> dict[GroupId, int]:
    """Up to where each group has committed, as far as any machine knows."""
    found: dict[GroupId, int] = {}
    for machine in world.machines.values():
        for group, replica in machine.replicas.items():
            found[group] = max(replica.raft.commit, found.get(group, 0))
    return found


def left_behind(world: "World", committed: Mapping[GroupId, int]) -> list[tuple[int, GroupId]]:
    """The replicas, by node and group, that vote and do not know a leader, or have not applied as much as this; also
    those whose machine is down, unless it has left for good."""
    return [
        (node, group)
        for node, machine in world.machines.items()
        for group in machine.replicas
        if node not in world.gone and _votes(world, machine, group) and not _follows(machine, group, committed)
    ]


def _votes(world: "World", machine: "Machine", group: GroupId) -> bool:
    """By its own log, and by the newest map: else it is about to be removed."""
    partition = world.meta.map.get(group) if world.meta is not None else None
    is_kept = group == META_GROUP or (partition is not None and machine.node_id in partition.replicas)
    return is_kept and machine.node_id in machine.replicas[group].raft.log.membership.voters


def _follows(machine: "Machine", group: GroupId, committed: Mapping[GroupId, int]) -> bool:
    consensus = machine.replicas[group].raft
    return machine.alive and consensus.leader != 0 and consensus.applied >= committed.get(group, 0)
