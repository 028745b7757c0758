"""``noctule``: finds the verb, runs it, and turns whatever goes wrong into one line and an exit code.

A verb is a function in a file of its name. Only the file of the verb that was asked for is imported, so that
``noctule --help`` does not wait for the gateway's and the store's libraries.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import typer

from noctule.cli import output

PROGRAM = "noctule"


class Verb(NamedTuple):
    """One word after ``noctule``."""

    name: str
    module: str
    attribute: str
    """A function, or a `typer.Typer` with verbs of its own."""
    summary: str
    """The first line of its docstring, for the list of verbs."""


VERBS = (
    Verb("up", "noctule.cli.up", "up", "Run a cluster on this machine: nodes, instances of an app, and a gateway."),
    Verb("node", "noctule.cli.node", "node", "Run one node until SIGTERM or SIGINT."),
    Verb(
        "host",
        "noctule.cli.host",
        "host",
        "Run the node processes of this machine until SIGTERM or SIGINT; what ends is started again.",
    ),
    Verb("instance", "noctule.cli.instance", "instance", "Run one instance of an app until SIGTERM or SIGINT."),
    Verb("gateway", "noctule.cli.gateway", "gateway", "Run a gateway, or work on one that runs."),
    Verb("status", "noctule.cli.status", "status", "Show nodes, partitions and instances of a running cluster."),
    Verb("cluster", "noctule.cli.cluster", "cluster", "Look after a cluster: nodes, tokens, settings, certificates."),
    Verb("partition", "noctule.cli.partition", "partition", "Show, check, split, merge and lead partitions."),
    Verb("migrate", "noctule.cli.migrate", "migrate", "Move replicas, and watch what moves."),
    Verb(
        "rebalance",
        "noctule.cli.rebalance",
        "rebalance",
        "Spread replicas and leaders evenly: show the plan, begin it now, pause or resume it.",
    ),
    Verb(
        "services",
        "noctule.cli.services",
        "services",
        "Register services, find them, see how they are and who calls whom.",
    ),
    Verb("kv", "noctule.cli.kv", "kv", "Read and write keys."),
    Verb("limits", "noctule.cli.limits", "limits", "Show why somebody is refused by a rate limit, and forget it."),
    Verb(
        "verify",
        "noctule.cli.verify",
        "verify",
        "Verify a running cluster, or a history of what clients were answered; exit code 0 only when all holds.",
    ),
    Verb("version", "noctule.cli.output", "version", "Print the version, and whether its hot path is compiled."),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, `sys.argv` unless given, and give the exit code of `output.EXIT_CODES`; raises nothing."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    asked = next((word for word in words if not word.startswith("-")), None)
    try:
        result = application(asked)(words or ["--help"], prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):
        # Whoever read the output has gone, as in `noctule kv scan | head`; the library then leaves by SystemExit, which
        # nothing else does here. What is still unwritten is not to fail at the end of the process once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return output.BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        return output.INTERRUPTED
    except Exception as error:
        # The outermost place there is: nobody above could say it better than one line.
        return output.report(error, is_debug=bool(os.environ.get("NOCTULE_DEBUG")))
    return result if isinstance(result, int) else 0


def application(asked: str | None = None, *, complete: bool = False) -> Callable[..., Any]:
    """The command with all verbs, of which `asked`, or with `complete` every one, is more than name and summary."""
    app = typer.Typer(
        name=PROGRAM,
        help="A Python web application as a cluster that survives the loss of a machine.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for verb in VERBS:
        if not complete and verb.name != asked:
            app.command(verb.name, help=verb.summary)(_not_loaded)
            continue
        found = getattr(importlib.import_module(verb.module), verb.attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=verb.name, help=verb.summary)
        else:
            app.command(verb.name)(found)
    return typer.main.get_command(app)


def _not_loaded() -> None:
    raise AssertionError("a verb is loaded when it is asked for")
