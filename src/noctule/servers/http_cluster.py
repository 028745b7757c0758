"""The cluster as this node sees it, over HTTP."""

from dataclasses import dataclass, field, fields

from noctule.base.errors import TooLargeError
from noctule.node.api import NodePicture
from noctule.servers.http_instances import Instance, instances_in
from noctule.servers.http_route import Answer, Call, json_answer


# Inherits across a floor on purpose: the API promises the same field names as the picture, and so they cannot drift.
@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPicture(NodePicture):
    """This node, the cluster as it sees it, and the app instances."""

    instances: list[Instance] = field(default_factory=list)
    """As this node's replica of *meta* has them; empty when they are too many."""


async def get_cluster(call: Call) -> Answer:
    """The picture of this node. Answers without a quorum too, since that is when somebody looks."""
    picture = call.node.picture()
    try:
        instances = instances_in(call.node.registry.view)
    except TooLargeError:
        instances = []
    facts = {each.name: getattr(picture, each.name) for each in fields(picture)}
    return json_answer(ClusterPicture(**facts, instances=instances))
