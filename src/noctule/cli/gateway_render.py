"""`noctule gateway render`: the files of an engine, for whoever runs it without Noctule."""

from pathlib import Path
from typing import Annotated

import typer

from noctule.base.errors import ConfigError
from noctule.cli import output
from noctule.cli.output import JsonOption


def render(
    engine: Annotated[str, typer.Option(help="haproxy or nginx.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files are written.")],
    config: Annotated[Path, typer.Option(metavar="CONFIG", help="A TOML file.")] = Path("gateway.toml"),
    installed_in: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where the engine will find them; else where its official container image does."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write the config of HAProxy or nginx for the same gateway, to be run without Noctule.

    It holds the instances that the file names; those that the registry knows are followed only by a gateway that runs.
    """
    from noctule.gateway.engines.engine import EnginePaths
    from noctule.gateway.engines.rendering import IN_DOCKER, render_files
    from noctule.gateway.model_file import load_model

    model = load_model(config)
    if engine not in IN_DOCKER:
        raise ConfigError(f"--engine is {engine!r}; it must be {' or '.join(IN_DOCKER)}")
    paths = IN_DOCKER[engine] if installed_in is None else EnginePaths.alone(installed_in.absolute())
    instances = {service.name: service.fixed_instances for service in model.services}
    files = render_files(engine, model, instances, paths)
    for name, text in files.items():
        path = out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    for service in model.services:
        if service.registry:
            output.say(f"{service.name}: its instances are in the registry; here it has none")
    written = [str(out / name) for name in files]
    output.print_json(written) if json else print("\n".join(written))
