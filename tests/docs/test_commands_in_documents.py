"""A command that a document names is there."""

import re
from pathlib import Path

import pytest

from noctule.cli.main import application

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.toml"))]
_COMMAND = re.compile(r"(?:`|^\$ |^#\s+|^)(?:\.venv/bin/)?noctule ((?:[a-z][a-z-]*(?: |`|$))+)", re.MULTILINE)


def _known() -> dict[str, set[str]]:
    """Each verb with the verbs below it, if it has any."""
    return {name: set(getattr(verb, "commands", ())) for name, verb in application(complete=True).commands.items()}


VERBS = _known()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_named_is_there(page: Path) -> None:
    for found in _COMMAND.finditer(page.read_text(encoding="utf-8")):
        verb, *below = found[1].replace("`", " ").split()
        assert verb in VERBS, found[0]
        if below and VERBS[verb]:
            assert below[0] in VERBS[verb], found[0]
