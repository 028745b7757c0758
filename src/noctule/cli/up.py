"""`noctule up`: a cluster on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noctule.cli import output
from noctule.cli.output import JsonOption

if TYPE_CHECKING:
    from noctule.deploy.local.supervisor import Running


def up(
    app: Annotated[
        str | None,
        typer.Argument(metavar="APP", help="The ASGI app as module:attribute; without it only the nodes run."),
    ] = None,
    nodes: Annotated[int, typer.Option(help="How many nodes; a larger number than before has the new ones join.")] = 3,
    instances: Annotated[int, typer.Option(help="How many instances of the app.")] = 3,
    port: Annotated[int, typer.Option(help="Of the gateway; 0: the system chooses.")] = 8080,
    host: Annotated[
        str,
        typer.Option(help="Where everything listens; 0.0.0.0 opens the gateway alone to the network."),
    ] = "127.0.0.1",
    data_dir: Annotated[Path, typer.Option(help="The folder for data and logs; made if it is missing.")] = Path(
        ".noctule"
    ),
    partitions: Annotated[int, typer.Option(help="With how many partitions it is formed.")] = 16,
    resp_port_base: Annotated[
        int, typer.Option(help="Node i has this RESP port plus i; 0: the system chooses. The same for the next three.")
    ] = 7400,
    http_port_base: Annotated[int, typer.Option(help="Of the HTTP API.")] = 7500,
    peer_port_base: Annotated[int, typer.Option(help="Of the nodes among themselves.")] = 7600,
    control_port_base: Annotated[int, typer.Option(help="Where nodes that join connect.")] = 7700,
    resp_cluster_port_base: Annotated[
        int | None,
        typer.Option(help="Where clients of Redis Cluster connect; when left out, 400 above that of RESP."),
    ] = None,
    dns_port_base: Annotated[
        int | None,
        typer.Option(help="Where DNS answers for the registry; when left out, 52 above that of HTTP."),
    ] = None,
    sticky: Annotated[
        bool, typer.Option("--sticky", help="A cookie brings each client back to the instance it had.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Run a cluster on this machine: nodes, instances of an app, and a gateway."""
    from noctule.deploy.local.plan import UpConfig
    from noctule.deploy.local.supervisor import run_up

    config = UpConfig(
        app=app,
        nodes=nodes,
        instances=instances,
        port=port,
        host=host,
        data_dir=data_dir,
        partitions=partitions,
        resp_port_base=resp_port_base,
        http_port_base=http_port_base,
        peer_port_base=peer_port_base,
        control_port_base=control_port_base,
        resp_cluster_port_base=-1 if resp_cluster_port_base is None else resp_cluster_port_base,
        dns_port_base=-1 if dns_port_base is None else dns_port_base,
        sticky=sticky,
    )
    notices = output.Notices()

    def on_ready(running: "Running") -> None:
        notices.settle()
        output.print_json(running) if json else _show(running)

    with notices.waiting():
        return run_up(config, notice=notices, on_ready=on_ready)


def _show(running: "Running") -> None:
    rows: list[tuple[object, ...]] = []
    if running.gateway:
        rows.append(("gateway", running.pid, running.gateway, "", "", "", ""))
    rows += [(each.id, each.pid, f"http://{each.host}:{each.port}", "", "", "", "") for each in running.instances]
    rows += [
        (
            f"node-{node.id}",
            node.pid,
            f"http://{node.host}:{node.http_port}",
            f"redis://{node.host}:{node.resp_port}",
            node.resp_cluster_port,
            node.dns_port,
            node.peer_port,
        )
        for node in running.nodes
    ]
    output.print_table(
        f"cluster {running.cluster}", ("what", "pid", "HTTP", "RESP", "Redis Cluster", "DNS", "peers"), rows
    )
    print(f"data and logs: {running.data_dir}")
    output.say("Ctrl-C stops it.")
