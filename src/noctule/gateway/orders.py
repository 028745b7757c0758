"""Everything that a data plane is to do at one moment, in one piece that is applied whole or not at all.

A worker that has just started gets the same orders as one that runs, so no order depends on an earlier one.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from noctule.gateway.instances import Instance
from noctule.gateway.model import GatewayModel, Service


class Orders(Struct, frozen=True):
    """The model, who is there now, and who an operator has taken out."""

    model: GatewayModel
    listed: dict[str, tuple[Instance, ...]] = {}
    """By service: what the registry, or a supervisor, says. Services without an entry have their fixed instances."""
    drained: tuple[tuple[str, str], ...] = ()
    """Service and instance of those that get nothing new."""
    version: int = 0
    """Rises with each change."""

    def instances_of(self, service: Service) -> Sequence[Instance]:
        """Who is listed for a service of the model."""
        listed = self.listed.get(service.name)
        return service.fixed_instances if listed is None else listed

    def with_listed(self, listed: Mapping[str, Sequence[Instance]]) -> "Orders":
        """The same with other instances of some services."""
        merged = {**self.listed, **{name: tuple(found) for name, found in listed.items()}}
        return Orders(self.model, merged, self.drained, self.version + 1)
