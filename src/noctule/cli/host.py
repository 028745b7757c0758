"""`noctule host`: the node processes of one machine."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noctule.cli import output
from noctule.cli.output import JsonOption

if TYPE_CHECKING:
    from noctule.deploy.local.host import RunningHost


def host(
    processes: Annotated[
        int | None, typer.Option(help="How many; one for each core when left out.", show_default=False)
    ] = None,
    first_node_id: Annotated[
        int,
        typer.Option(help="The id of the first, the next ones follow, where they are named as peers; 0: they join."),
    ] = 0,
    join: Annotated[str, typer.Option(help="Join the cluster of the node whose control port is at this address.")] = "",
    token: Annotated[
        str, typer.Option(envvar="NOCTULE_TOKEN", help="What noctule cluster token of that cluster printed.")
    ] = "",
    data_dir: Annotated[Path, typer.Option(help="The folder for the data of all of them, and for their logs.")] = Path(
        "noctule-data"
    ),
    config: Annotated[
        Path | None,
        typer.Option(help="The settings file; else noctule.toml in the working directory if it is there."),
    ] = None,
    resp_port_base: Annotated[
        int, typer.Option(help="Process i has this RESP port plus i. The same for the rest.")
    ] = 7400,
    resp_cluster_port_base: Annotated[int, typer.Option(help="Of the cluster face.")] = 7800,
    http_port_base: Annotated[int, typer.Option(help="Of the HTTP API.")] = 7500,
    peer_port_base: Annotated[
        int, typer.Option(help="Of the nodes among themselves, where they join; else it stands among the peers.")
    ] = 7600,
    control_port_base: Annotated[int, typer.Option(help="Where nodes that join connect.")] = 7700,
    pin: Annotated[bool, typer.Option("--pin", help="Let process i run on the i-th core only.")] = False,
    json: JsonOption = False,
) -> int:
    """Run the node processes of this machine until SIGTERM or SIGINT; what ends is started again.

    Each is a noctule node with the settings of noctule.toml and NOCTULE_* variables. Two of them never have replicas of
    one partition while another machine has room.
    """
    from noctule.deploy.local.host import HostConfig, run_host

    asked = HostConfig(
        processes=len(os.sched_getaffinity(0)) if processes is None else processes,
        first_node_id=first_node_id,
        join=join,
        token=token,
        data_dir=data_dir,
        settings_file=config,
        resp_port_base=resp_port_base,
        resp_cluster_port_base=resp_cluster_port_base,
        http_port_base=http_port_base,
        peer_port_base=peer_port_base,
        control_port_base=control_port_base,
        is_pinned=pin,
    )
    notices = output.Notices()

    def on_ready(running: "RunningHost") -> None:
        notices.settle()
        output.print_json(running) if json else _show(running)

    with notices.waiting():
        return run_host(asked, notice=notices, on_ready=on_ready)


def _show(running: "RunningHost") -> None:
    rows = [(node.id, node.pid, f"redis://{node.resp}", f"http://{node.http}", node.peer) for node in running.processes]
    output.print_table("node processes of this machine", ("node", "pid", "RESP", "HTTP", "peers"), rows)
    print(f"data and logs: {running.data_dir}")
