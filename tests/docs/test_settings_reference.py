"""The pages of settings, commands and exit codes are what the code says today."""

from pathlib import Path

import pytest

from noctule.base import errors
from noctule.cli.main import VERBS
from noctule.cli.output import EXIT_CODES
from noctule.cli.reference import PAGES, render_cli, render_exit_codes, render_settings
from noctule.node.config_sources import SETTINGS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_current(name: str) -> None:
    written = (REFERENCE / f"{name}.md").read_text(encoding="utf-8")
    command = f"python -m noctule.cli.reference {name} > docs/reference/{name}.md"
    assert written == PAGES[name](), f"write it anew: {command}"


def test_every_setting_is_told_with_its_names_reason_and_range() -> None:
    page = render_settings()
    for setting in SETTINGS:
        assert f"\n### {setting.key}\n" in page
        assert f"- `{setting.environment}`, `{setting.flag}`\n" in page
        assert setting.about.reason[1:] in page
        assert setting.about.meaning in page


def test_every_verb_is_told() -> None:
    page = render_cli()
    for verb in VERBS:
        assert f"\n## noctule {verb.name}" in page


def test_every_exit_code_is_told() -> None:
    page = render_exit_codes()
    for code in EXIT_CODES:
        assert f"\n| {code} | " in page
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, errors.NoctuleError):
            assert value.exit_code in EXIT_CODES
