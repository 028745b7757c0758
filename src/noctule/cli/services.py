"""`noctule services`: who serves what, how they are, who calls whom; registering and taking out by hand."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from noctule.base.errors import NoctuleError
from noctule.cli import output
from noctule.cli.asking import pair_of
from noctule.cli.output import NODE_URL, JsonOption, NodeOption

if TYPE_CHECKING:
    from noctule.client.services import ServicesClient
    from noctule.core.registry.views import CheckRegistration, ServiceList, ServiceView

T = TypeVar("T")

OUTPUT_CHARACTERS = 60
"""Of what a check says, in a table; `show` and --json give all of it."""

services = typer.Typer(
    help="Register services, find them, see how they are and who calls whom.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="The name of the service.", metavar="NAME")]
Id = Annotated[str, typer.Argument(help="The id of the instance.", metavar="ID")]
Keeper = Annotated[
    str, typer.Option("--on", help="The instance of that node in the registry, as in node-1.", metavar="NODE")
]


@services.command("list")
def list_(
    name: Annotated[str, typer.Argument(help="Only this service.", metavar="[NAME]")] = "",
    node: NodeOption = NODE_URL,
    tag: Annotated[str, typer.Option(help="Only instances with this tag.")] = "",
    passing: Annotated[bool, typer.Option("--passing", help="Only instances all of whose checks pass.")] = False,
    stale: Annotated[bool, typer.Option("--stale", help="What the asked node knows, also without a quorum.")] = False,
    json: JsonOption = False,
) -> None:
    """List the instances of services, with their health."""
    from noctule.base.consistency import ConsistencyLevel

    level = ConsistencyLevel.EVENTUAL if stale else ConsistencyLevel.LINEARIZABLE
    found = _ask(node, lambda client: client.services(name, tag=tag, passing=passing, consistency=level))
    output.print_json(found) if json else _show_list(found)


@services.command("show")
def show(which: Id, node: NodeOption = NODE_URL, on: Keeper = "", json: JsonOption = False) -> None:
    """Show one instance with its checks."""
    found = _ask(node, lambda client: client.service(which, node=on))
    if json:
        output.print_json(found)
        return
    facts = {
        "id": found.id,
        "service": found.name,
        "status": found.status,
        "address": f"{found.address}:{found.port}",
        "kept by": found.node,
        "tags": ", ".join(found.tags),
        "depends on": ", ".join(found.depends_on),
        "metadata": ", ".join(f"{key}={value}" for key, value in found.meta.items()),
        "weights": f"{found.weights.passing} passing, {found.weights.warning} warning",
        "renewed within": f"{found.ttl_s:g} s" if found.ttl_s else "",
    }
    for fact, value in facts.items():
        if value:
            print(f"{fact}: {value}")
    _show_checks([found])


@services.command("register")
def register(
    name: Name,
    node: NodeOption = NODE_URL,
    instance: Annotated[str, typer.Option("--id", help="The id of the instance; the service's name if left out.")] = "",
    address: Annotated[str, typer.Option(help="Where it serves; the asked node's address if left out.")] = "",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port there.")] = 0,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given more than once.")] = None,
    meta: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Metadata; more than once.")] = None,
    depends_on: Annotated[list[str] | None, typer.Option(help="A service that it calls; more than once.")] = None,
    ttl_s: Annotated[float, typer.Option("--ttl-s", help="It must be registered again within so many seconds.")] = 0.0,
    http: Annotated[str, typer.Option(metavar="URL", help="The asked node checks this URL.")] = "",
    tcp: Annotated[str, typer.Option(metavar="HOST:PORT", help="The asked node connects there.")] = "",
    grpc: Annotated[str, typer.Option(metavar="HOST:PORT", help="The asked node calls its health service.")] = "",
    interval_s: Annotated[float, typer.Option("--interval-s", help="Between two checks.")] = 10.0,
    json: JsonOption = False,
) -> None:
    """Register an instance: kept by the asked node, or with --ttl-s to be renewed."""
    from noctule.core.registry.views import ServiceRegistration

    service = ServiceRegistration(
        name,
        id=instance or name,
        address=address,
        port=port,
        tags=tuple(tag or ()),
        meta=dict(map(pair_of, meta or ())),
        depends_on=tuple(depends_on or ()),
        ttl_s=ttl_s or None,
        checks=_checks(instance or name, interval_s, http=http, tcp=tcp, grpc=grpc),
    )
    found = _ask(node, lambda client: client.register_service(service))
    output.print_json(found) if json else print(f"registered {found.id} of {found.name}, kept by {found.node}")


@services.command("deregister")
def deregister(which: Id, node: NodeOption = NODE_URL, on: Keeper = "", json: JsonOption = False) -> None:
    """Take an instance out of the registry."""
    was_there = _ask(node, lambda client: client.deregister_service(which, node=on))
    if json:
        output.print_json({"id": which, "deleted": was_there})
    else:
        print(f"deregistered {which}" if was_there else f"there was no instance {which}")


@services.command("watch")
def watch(
    name: Name,
    node: NodeOption = NODE_URL,
    passing: Annotated[bool, typer.Option("--passing", help="Only instances all of whose checks pass.")] = False,
    json: JsonOption = False,
) -> None:
    """Print the instances of a service now and after each change, until interrupted; a JSON line each with --json."""

    async def follow(client: "ServicesClient") -> None:
        async for found in client.watch_services(name, passing=passing):
            output.print_json(found) if json else _show_list(found)

    _ask(node, follow)


@services.command("checks")
def checks(
    name: Annotated[str, typer.Argument(help="Only of this service.", metavar="[NAME]")] = "",
    node: NodeOption = NODE_URL,
    json: JsonOption = False,
) -> int:
    """List every check of every instance; exit code 1 when one does not pass."""
    found = _ask(node, lambda client: client.services(name)).services
    if json:
        output.print_json({"services": [{"id": each.id, "node": each.node, "checks": each.checks} for each in found]})
    else:
        _show_checks(found)
    return 0 if all(check.status == "passing" for each in found for check in each.checks) else NoctuleError.exit_code


@services.command("dependencies")
def dependencies(node: NodeOption = NODE_URL, json: JsonOption = False) -> int:
    """Show which service calls which; exit code 1 when one is missing or not healthy."""
    graph = _ask(node, lambda client: client.dependencies())
    if json:
        output.print_json(graph)
    else:
        rows = [
            (
                each.name,
                each.status,
                f"{each.passing} of {each.instances}",
                _words(each.depends_on),
                _words(each.used_by),
            )
            for each in graph.services
        ]
        output.print_table("services", ("service", "health", "passing", "calls", "called by"), rows)
        for name in graph.missing:
            print(f"{name} is called and has no instance")
        for cycle in graph.cycles:
            print(
                f"each needs the others, a cycle: {', '.join(cycle)}" if len(cycle) > 1 else f"{cycle[0]} calls itself"
            )
    return 0 if all(each.status == "passing" for each in graph.services) else NoctuleError.exit_code


def _ask(url: str, call: "Callable[[ServicesClient], Awaitable[T]]") -> T:
    from noctule.client.services import ServicesClient

    async def converse() -> T:
        async with ServicesClient(url) as client:
            return await call(client)

    return asyncio.run(converse())


def _checks(instance: str, interval_s: float, **targets: str) -> "tuple[CheckRegistration, ...]":
    """One for each kind of check that was given a target."""
    import msgspec

    from noctule.core.registry.views import CheckRegistration

    return tuple(
        msgspec.convert(
            {"id": f"{kind}:{instance}", "name": f"{kind} check", "interval_s": interval_s, kind: target},
            CheckRegistration,
        )
        for kind, target in targets.items()
        if target
    )


def _show_list(found: "ServiceList") -> None:
    rows = [
        (each.name, each.id, each.status, f"{each.address}:{each.port}", each.node, _words(each.tags))
        for each in found.services
    ]
    columns = ("service", "instance", "health", "address", "kept by", "tags")
    age = f", up to {found.staleness_ms} ms old" if found.staleness_ms else ""
    age = age if found.staleness_ms is not None else ", of unknown age"
    output.print_table(f"{len(rows)} instance{'s' * (len(rows) != 1)}{age}", columns, rows)


def _show_checks(found: "list[ServiceView] | tuple[ServiceView, ...]") -> None:
    rows = [
        (each.name, each.id, check.name or check.id, check.type or "told", check.status, _cut(check.output))
        for each in found
        for check in each.checks
    ]
    output.print_table("checks", ("service", "instance", "check", "kind", "status", "output"), rows)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= OUTPUT_CHARACTERS else line[:OUTPUT_CHARACTERS] + "…"


def _words(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "-"
