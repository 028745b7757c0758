"""`noctule node`: one node in this process. Its flags are made from the settings themselves."""

import inspect
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from noctule.cli import output
from noctule.node.config_sources import SETTINGS, load_node_config
from noctule.node.settings import Setting


def node(**flags: Any) -> int:
    """Run one node until SIGTERM or SIGINT.

    Settings come from noctule.toml, overridden by NOCTULE_* variables, overridden by flags. One JSON line on stdout
    tells that it serves; logs go to stderr as JSON lines.
    """
    from noctule.deploy.local.json_log import log_json_lines
    from noctule.deploy.local.processes import check_supervisor
    from noctule.servers.process import run_node

    config = load_node_config(flags=flags, environment=os.environ, path=flags.pop("config"))
    if config.die_with_parent:
        check_supervisor(os.environ)
    log_json_lines(config.log_level.upper())
    return run_node(config, output.installed_version())


def _option(setting: Setting) -> inspect.Parameter:
    """A flag that gives text: config_sources.py reads it and complains in the same words for every source."""
    words = setting.about.meaning.replace("`", "")
    kind: Any = str | None
    if setting.kind is bool:
        kind, metavar = bool | None, None
    else:
        metavar = setting.about.unit.upper() if setting.about.unit.isalpha() else "TEXT"
        if setting.has_plain_default:
            words += f" [default: {setting.default}]"
    kind = Annotated[kind, typer.Option(setting.flag, help=words, metavar=metavar, show_default=False)]
    return inspect.Parameter(setting.field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(help="The settings file; else noctule.toml in the working directory if it is there."),
    ],
)
# The library reads a function's flags from its signature and annotations.
_PARAMETERS = [_CONFIG, *map(_option, SETTINGS)]
node.__signature__ = inspect.Signature(_PARAMETERS, return_annotation=int)  # type: ignore[attr-defined]
node.__annotations__ = {parameter.name: parameter.annotation for parameter in _PARAMETERS}
