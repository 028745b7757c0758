"""Everything that a data plane is to do at one moment, in one piece that is applied whole or not at all.

A worker that has just started gets the same orders as one that runs, so no order depends on an earlier one. The
functions give new orders; `RequestError` says why there can be none.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from noctule.base.errors import RequestError
from noctule.gateway.instances import Instance
from noctule.gateway.model import GatewayModel, Route, Service, Share


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


def with_model(orders: Orders, model: GatewayModel) -> Orders:
    """The same instances under another model; services that it does not have are forgotten."""
    kept = {service.name for service in model.services}
    return Orders(
        model,
        {name: found for name, found in orders.listed.items() if name in kept},
        tuple(pair for pair in orders.drained if pair[0] in kept),
        orders.version + 1,
    )


def with_listed(orders: Orders, listed: Mapping[str, Sequence[Instance]]) -> Orders:
    """Other instances of some services."""
    merged = orders.listed | {name: tuple(found) for name, found in listed.items()}
    return Orders(orders.model, merged, orders.drained, orders.version + 1)


def with_drained(orders: Orders, service_name: str, instance_id: str, *, is_drained: bool) -> Orders:
    """One instance taken out, or taken in again."""
    service = _service(orders, service_name)
    known = [instance.id for instance in orders.instances_of(service)]
    pair = (service_name, instance_id)
    if instance_id not in known and (is_drained or pair not in orders.drained):
        raise RequestError(f"service {service_name!r} has no instance {instance_id!r}; it has {', '.join(known)}")
    others = tuple(each for each in orders.drained if each != pair)
    drained = (*others, pair) if is_drained else others
    return Orders(orders.model, orders.listed, drained, orders.version + 1)


def with_shares(orders: Orders, route_name: str, percents: Mapping[str, float]) -> Orders:
    """Other shares of a route; services that it has and that are not named get nothing, and stay on it."""
    route = _route(orders, route_name)
    for name in percents:
        _service(orders, name)
    if any(not 0 <= percent <= 100 for percent in percents.values()) or abs(sum(percents.values()) - 100) > 0.001:
        raise RequestError(f"the shares of route {route_name!r} must be 0 to 100 each and sum to 100")
    # The order stays, so that a client whose share is drawn by its address keeps it as far as that is possible.
    names = [share.service for share in route.shares]
    names += [name for name in percents if name not in names]
    shares = tuple(Share(name, percents.get(name, 0.0)) for name in names)
    changed = msgspec.structs.replace(route, shares=shares)
    routes = tuple(changed if each is route else each for each in orders.model.routes)
    return with_model(orders, msgspec.structs.replace(orders.model, routes=routes))


def _service(orders: Orders, name: str) -> Service:
    found = next((each for each in orders.model.services if each.name == name), None)
    if found is None:
        known = ", ".join(each.name for each in orders.model.services)
        raise RequestError(f"there is no service {name!r}; there are {known}")
    return found


def _route(orders: Orders, name: str) -> Route:
    found = next((each for each in orders.model.routes if each.name == name), None)
    if found is None:
        known = ", ".join(each.name for each in orders.model.routes)
        raise RequestError(f"there is no route {name!r}; there are {known}")
    return found
