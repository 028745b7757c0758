"""What the leader of *meta* sees to in the registry: its members and whether they live, and what has ended by time.

Called by the governor while it leads. Each call looks at everything anew and keeps nothing: a successor goes on from
what the registry says.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from uuid import NAMESPACE_URL, uuid5

from noctule.base.addresses import split_address
from noctule.core.meta.operations import ChangeRegistry
from noctule.core.meta.state import MetaState
from noctule.core.registry.changes import Change, PutCheck, PutNode, RemoveNode, TellCheck
from noctule.core.registry.objects import NODE_CHECK, Check, CheckStatus, RegistryNode
from noctule.core.roster.features import REGISTRY
from noctule.core.roster.members import PRESENT, Member
from noctule.node.agent.agent import node_name
from noctule.node.proposals import Proposals

CHANGES_MAX = 500
"""Of one operation; the rest follows in the next one."""
ALIVE = "Agent alive and reachable"
SILENT = "Agent not live or unreachable"
"""What a member's check says, in Consul's words."""


def keep_members(meta: MetaState, is_alive: Callable[[int], bool], proposals: Proposals) -> None:
    """Have the registry say of the members what is so."""
    if REGISTRY in meta.features and (changes := list(islice(member_changes(meta, is_alive), CHANGES_MAX))):
        proposals.propose("registry-members", ChangeRegistry(changes))


def end_what_is_due(meta: MetaState, wall_ms: int, proposals: Proposals) -> None:
    """Have the registry end the sessions, and make critical the checks, whose time has passed by this node's clock."""
    if REGISTRY in meta.features and (changes := meta.registry.due(wall_ms, CHANGES_MAX)):
        proposals.propose("registry-due", ChangeRegistry(changes))


def member_changes(meta: MetaState, is_alive: Callable[[int], bool]) -> Iterator[Change]:
    """What is to be changed so that members are there, with their checks as they are, and those that left are not."""
    registry = meta.registry
    for member in meta.roster.values():
        name = node_name(member.id)
        known = registry.nodes.get(name)
        if member.state not in PRESENT:
            if known is not None:
                yield RemoveNode(name)
            continue
        wanted = registry_node(meta.cluster_id, member)
        if known is None or not _is_said(wanted, known):
            yield PutNode(wanted)
        status, output = (CheckStatus.PASSING, ALIVE) if is_alive(member.id) else (CheckStatus.CRITICAL, SILENT)
        check = registry.checks.get((name, NODE_CHECK))
        if check is None:
            yield PutCheck(Check(name, NODE_CHECK, "Serf Health Status", status, output=output))
        elif check.status is not status:
            yield TellCheck(name, NODE_CHECK, status, output)


def registry_node(cluster_id: str, member: Member) -> RegistryNode:
    """A member as the registry has it: found by its host, with its labels as metadata."""
    host = split_address(member.peer)[0]
    return RegistryNode(
        name=node_name(member.id),
        address=host,
        id=str(uuid5(NAMESPACE_URL, f"noctule://{cluster_id}/nodes/{member.id}")),
        tagged_addresses={"lan": host, "wan": host},
        meta=dict(member.labels),
    )


def _is_said(wanted: RegistryNode, known: RegistryNode) -> bool:
    """Whether the registry has it so already; the datacenter is not the keeper's to say."""
    facts = (wanted.address, wanted.id, wanted.tagged_addresses, wanted.meta)
    return facts == (known.address, known.id, known.tagged_addresses, known.meta)
