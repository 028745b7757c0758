"""`noctule gateway`: runs a gateway, and works on one that runs."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from noctule.base.errors import ConfigError
from noctule.cli import output
from noctule.cli.asking import pair_of
from noctule.cli.gateway_certs import certs
from noctule.cli.gateway_render import render
from noctule.cli.output import JsonOption

if TYPE_CHECKING:
    from noctule.client.gateway import GatewayClient, Progress

T = TypeVar("T")

GATEWAY_URL = "http://127.0.0.1:8080"
LOOK_S = 0.25
"""How often a drain is looked at."""


gateway = typer.Typer(
    help="Run a gateway, or work on one that runs.",
    invoke_without_command=True,
    rich_markup_mode=None,
)

UrlOption = Annotated[
    str,
    typer.Option(
        "--url", envvar="NOCTULE_GATEWAY", metavar="URL", help="Of the gateway, which must run on this machine."
    ),
]
WaitOption = Annotated[
    float,
    typer.Option("--wait-s", metavar="S", help="How long to wait until what is in flight has ended; 0: not at all."),
]
Service = Annotated[str, typer.Argument(metavar="SERVICE", help="Its name in the config.")]
Route = Annotated[str, typer.Argument(metavar="ROUTE", help="Its name in the config.")]
InstanceId = Annotated[str, typer.Argument(metavar="INSTANCE", help="Its id, as status shows it.")]


@gateway.callback()
def run(
    context: typer.Context,
    config: Annotated[
        str, typer.Option(metavar="CONFIG", help="A TOML file, or registry:<name> for the registry's key.")
    ] = "gateway.toml",
    engine: Annotated[
        Literal["embedded", "haproxy", "nginx"], typer.Option(help="The program that carries the traffic.")
    ] = "embedded",
    check: Annotated[bool, typer.Option("--check", help="Only look whether the config is right.")] = False,
    node: Annotated[
        list[str] | None,
        typer.Option(envvar="NOCTULE_NODE", metavar="URL", help="HTTP URL of a node of the registry; may be repeated."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="For what the registry last said, should it be away at the next start, and for the files of another "
            "engine: those are in noctule-gateway when it is left out."
        ),
    ] = None,
    drain_s: Annotated[float, typer.Option(metavar="S", help="For what is in flight at SIGTERM.")] = 30.0,
    access_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One JSON line for each request; stdout unless given.")
    ] = None,
    die_with_parent: Annotated[
        bool, typer.Option("--die-with-parent", help="Stop when the process that started it ends.")
    ] = False,
) -> int:
    """Run a gateway until SIGTERM or SIGINT; SIGHUP has it read its config anew.

    One JSON line on stdout tells that it serves; logs go to stderr as JSON lines.
    """
    if context.invoked_subcommand is not None:
        return 0
    from noctule.deploy.local.json_log import log_json_lines
    from noctule.gateway.process import GatewayRun, load_config, run_gateway

    wanted = GatewayRun(
        config=config,
        nodes=tuple(node or ()),
        data_dir=data_dir,
        drain_s=drain_s,
        access_log=access_log,
        engine=engine,
        die_with_parent=die_with_parent,
    )
    wanted.validate()
    if check:
        model = asyncio.run(load_config(wanted))
        routes, services = len(model.routes), len(model.services)
        print(f"{config} is right: {routes} route{'s' * (routes != 1)}, {services} service{'s' * (services != 1)}")
        if engine != "embedded":
            from noctule.gateway.engines.abilities import lacks

            for line in lacks(engine, model):
                output.say(f"{engine} does not do this: {line}")
        return 0
    log_json_lines(os.environ.get("NOCTULE_LOG_LEVEL", "INFO").upper())
    return run_gateway(wanted, output.installed_version())


@gateway.command("example")
def example() -> None:
    """Print a config with every setting, its meaning and an example."""
    from noctule.gateway.model_reference import EXAMPLE

    print(EXAMPLE.read_text(encoding="utf-8"), end="")


gateway.command("render")(render)
gateway.command("certs")(certs)


@gateway.command("worker", hidden=True)
def worker(
    channel: Annotated[int, typer.Option(help="A descriptor of the socket to the parent.")],
    access_log: Annotated[Path | None, typer.Option(help="As the parent was told.")] = None,
) -> int:
    """One worker of a gateway with several; started by it."""
    from noctule.deploy.local.json_log import log_json_lines
    from noctule.gateway.worker import run_worker

    log_json_lines(os.environ.get("NOCTULE_LOG_LEVEL", "INFO").upper())
    return run_worker(channel, access_log)


@gateway.command("status")
def status(url: UrlOption = GATEWAY_URL, json: JsonOption = False) -> None:
    """Show routes, services and instances of a gateway."""
    found = _ask(url, lambda client: client.status())
    output.print_json(found) if json else _show(found, _ask(url, lambda client: client.model()))


@gateway.command("drain")
def drain(service: Service, instance: InstanceId, url: UrlOption = GATEWAY_URL, wait_s: WaitOption = 30.0) -> int:
    """Give an instance nothing new, and wait until it is done with what it has."""
    progress = _ask(url, lambda client: client.drain(service, instance))
    return _wait(url, progress, wait_s, lambda found: _in_flight_of_instance(found, service, instance))


@gateway.command("undrain")
def undrain(service: Service, instance: InstanceId, url: UrlOption = GATEWAY_URL) -> None:
    """Take an instance in again."""
    _ask(url, lambda client: client.drain(service, instance, is_drained=False))
    print(f"{instance} of {service} may have requests again")


@gateway.command("shares")
def shares(
    route: Route,
    parts: Annotated[list[str], typer.Argument(metavar="SERVICE=PERCENT…", help="They sum to 100.")],
    url: UrlOption = GATEWAY_URL,
) -> None:
    """Divide a route's traffic among services, as for a canary."""
    wanted = {name: _percent(text) for name, text in map(pair_of, parts)}
    _ask(url, lambda client: client.set_shares(route, wanted))
    print(f"{route}: " + ", ".join(f"{name} {percent:g} %" for name, percent in wanted.items()))


@gateway.command("switch")
def switch(route: Route, service: Service, url: UrlOption = GATEWAY_URL, wait_s: WaitOption = 30.0) -> int:
    """Send a whole route to one service at once, and wait until the others are done with what they have."""
    progress = _ask(url, lambda client: client.switch(route, service))
    print(f"{route}: every new request goes to {service}")
    return _wait(url, progress, wait_s, lambda found: _in_flight_of_services(found, progress.in_flight))


@gateway.command("reload")
def reload(url: UrlOption = GATEWAY_URL) -> None:
    """Have a gateway read its config anew; a bad one is refused, and the one before goes on."""
    found = _ask(url, lambda client: client.reload())
    print(f"{found['config']} is in force")
    if found["restart_needed"]:
        output.say(f"from the next start on: {', '.join(found['restart_needed'])}")
    if found["overridden_routes"]:
        output.say(f"their shares were set by command and stay: {', '.join(found['overridden_routes'])}")


def _ask(url: str, call: "Callable[[GatewayClient], Awaitable[T]]") -> T:
    from noctule.client.gateway import GatewayClient

    async def converse() -> T:
        return await call(GatewayClient(url))

    return asyncio.run(converse())


def _wait(url: str, progress: "Progress", wait_s: float, left: Callable[[dict[str, Any]], int]) -> int:
    """0 once nothing is left; `FAILED` when something still is after `wait_s`."""
    count = sum(progress.in_flight.values())
    deadline = time.monotonic() + wait_s
    while count and time.monotonic() < deadline:
        output.say(f"{count} still in flight")
        time.sleep(LOOK_S)
        count = left(_ask(url, lambda client: client.status()))
    if not count:
        print("done: nothing is in flight there")
        return 0
    output.say(f"{count} still in flight; they go on")
    return output.FAILED if wait_s else 0


def _in_flight_of_instance(found: dict[str, Any], service: str, instance: str) -> int:
    return sum(
        each["in_flight"]
        for one in found["traffic"]["services"]
        if one["name"] == service
        for each in one["instances"]
        if each["id"] == instance
    )


def _in_flight_of_services(found: dict[str, Any], names: dict[str, int]) -> int:
    return sum(one["in_flight"] for one in found["traffic"]["services"] if one["name"] in names)


def _percent(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not a number; write a share as in canary=5") from None


def _show(found: dict[str, Any], model: dict[str, Any]) -> None:
    traffic = found["traffic"]
    rows = [
        (one["name"], *(each[key] for key in ("id", "state", "weight", "in_flight", "requests", "failures")))
        for one in traffic["services"]
        for each in one["instances"]
    ]
    title = f"gateway of {found['config']}, {found['workers']} worker{'s' * (found['workers'] != 1)}"
    output.print_table(title, ("service", "instance", "state", "weight", "in flight", "requests", "failures"), rows)
    statuses = {route["name"]: route["statuses"] for route in traffic["routes"]}
    routes = [
        (
            route["name"],
            ", ".join(f"{share['service']} {share['percent']:g} %" for share in route["shares"]),
            ", ".join(f"{kind} {count}" for kind, count in statuses.get(route["name"], {}).items()),
        )
        for route in model["routes"]
    ]
    output.print_table("routes", ("route", "goes to", "responses"), routes)
    if found["config_error"]:
        output.say(f"the newest config was refused: {found['config_error']}")
    for each in found["registry"]:
        if each["source"] != "live":
            output.say(f"{each['service']}: the registry is away; its list is {each['age_s']:.0f} s old")
