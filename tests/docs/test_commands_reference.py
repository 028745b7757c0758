"""The reference page of the commands is what the table says."""

from pathlib import Path

from noctule.core.keyspace.commands import COMMANDS, render_commands
from noctule.core.keyspace.spec import Scope

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"


def test_page_is_current() -> None:
    assert PAGE.read_text() == render_commands(), (
        f"write it again: python -c 'from noctule.core.keyspace.commands import render_commands; "
        f'print(render_commands(), end="")\' > {PAGE}'
    )


def test_page_names_every_command_of_clients_and_no_other() -> None:
    named = {line.split()[1] for line in PAGE.read_text().splitlines() if line.startswith("| ")} - {"command"}
    assert named == {spec.name.decode() for spec in COMMANDS.values() if spec.scope is not Scope.INTERNAL}
