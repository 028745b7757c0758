"""What is rendered, as whole text that people review: `--rewrite-transcripts` writes it anew."""

from pathlib import Path

import pytest

from noctule.gateway.engines.engine import EnginePaths
from noctule.gateway.engines.haproxy import render_haproxy
from noctule.gateway.engines.nginx import render_nginx
from noctule.gateway.engines.rendering import IN_DOCKER, render_files
from tests.unit.gateway.engines.models import EXAMPLE_TOML, everything, example

HERE = Path(__file__).parent / "rendered"
PATHS = EnginePaths.within(Path("/var/lib/noctule"))


@pytest.mark.parametrize("engine", ["haproxy", "nginx"])
def test_everything_is_rendered_as_reviewed(engine: str, request: pytest.FixtureRequest) -> None:
    render = {"haproxy": render_haproxy, "nginx": render_nginx}[engine]
    _compare(HERE / engine, render(*everything(), PATHS), request)


@pytest.mark.parametrize("engine", ["haproxy", "nginx"])
def test_the_example_is_current(engine: str, request: pytest.FixtureRequest) -> None:
    _compare(EXAMPLE_TOML.parent / "docker" / engine, render_files(engine, *example(), IN_DOCKER[engine]), request)


def _compare(folder: Path, files: dict[str, str], request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--rewrite-transcripts"):
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    there = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert there == files
