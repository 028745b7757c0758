"""Anti-entropy: by which changes the registry comes to say of a node what that node knows of itself.

What the node has is put, what the registry has under its name and the node does not is removed. Nothing is remembered:
a change that is lost is found missing by the next comparison, and one that comes twice changes nothing.
"""

from collections.abc import Callable, Collection, Mapping

from msgspec import structs

from noctule.core.registry.changes import Change, PutCheck, PutService, RemoveCheck, RemoveService, TellCheck
from noctule.core.registry.objects import NODE_CHECK, Check, ServiceInstance
from noctule.core.registry.registry import Registry


def repairs(
    registry: Registry,
    node: str,
    services: Mapping[str, ServiceInstance],
    checks: Mapping[str, Check],
    *,
    of_services: Collection[str],
    of_checks: Collection[str],
    of_tags: Collection[str] = (),
    is_deferred: Callable[[str], bool] = lambda _: False,
) -> list[Change]:
    """What is to be changed of the named ones; `services` and `checks` are all that the node knows, by id.

    The changes stand in an order in which each can be done. The output of a check that is deferred is as it should be.
    Tags that may be overridden are left to who did so, but where they are `of_tags`: a node that says other ones than
    before means them, to Consul too.
    """
    puts: list[Change] = []
    removals: list[Change] = []
    gone: set[str] = set()
    for id_ in sorted(of_services):
        wanted, known = services.get(id_), registry.instances.get((node, id_))
        if wanted is None:
            if known is not None:
                removals.append(RemoveService(node, id_))
                gone.add(id_)
            continue
        if known is not None:
            wanted = agreed(wanted, known, keeps_tags=wanted.enable_tag_override and id_ not in of_tags)
        if wanted != known:
            puts.append(PutService(wanted))
    for id_ in sorted(of_checks):
        wanted_check, known_check = checks.get(id_), registry.checks.get((node, id_))
        if wanted_check is None:
            # With its service, or by whoever keeps the node: that check is not this node's to remove.
            if known_check is not None and known_check.service_id not in gone and id_ != NODE_CHECK:
                removals.append(RemoveCheck(node, id_))
        elif known_check is None or _but_the_result(wanted_check, known_check) != known_check:
            puts.append(PutCheck(wanted_check))
        elif wanted_check.status is not known_check.status or (
            wanted_check.output != known_check.output and not is_deferred(id_)
        ):
            puts.append(TellCheck(node, id_, wanted_check.status, wanted_check.output))
    return puts + removals


def agreed(wanted: ServiceInstance, known: ServiceInstance, *, keeps_tags: bool) -> ServiceInstance:
    """What the node would have the registry say: with the indexes there, and its tags where those are kept."""
    return structs.replace(
        wanted,
        tags=known.tags if keeps_tags else wanted.tags,
        create_index=known.create_index,
        modify_index=known.modify_index,
    )


def _but_the_result(wanted: Check, known: Check) -> Check:
    """What is wanted, with the result that is known, and what the registry decides alone."""
    return structs.replace(
        wanted,
        status=known.status,
        output=known.output,
        # Those of the instance.
        service_name=known.service_name,
        service_tags=known.service_tags,
        expires_ms=known.expires_ms,
        critical_since_ms=known.critical_since_ms,
        create_index=known.create_index,
        modify_index=known.modify_index,
    )


def known_ids(registry: Registry, node: str) -> tuple[set[str], set[str]]:
    """The ids of all services and of all checks that the registry has under the name of a node.

    A look at every name, which is less than to find those of one node in their order: 2 ms for 10,000 of each.
    """
    services = {id_ for owner, id_ in registry.instances if owner == node}
    return services, {id_ for owner, id_ in registry.checks if owner == node}
