"""The reference page of the commands is what the table says."""

from pathlib import Path

from noctule.core.keyspace.commands import COMMANDS
from noctule.core.keyspace.compatibility import DEVIATIONS, NEVER, NOT_YET
from noctule.core.keyspace.reference import render_commands
from noctule.core.keyspace.spec import Scope

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"


def test_page_is_current() -> None:
    assert PAGE.read_text() == render_commands(), (
        f"write it again: python -c 'from noctule.core.keyspace.commands import render_commands; "
        f'print(render_commands(), end="")\' > {PAGE}'
    )


def test_page_names_every_command_of_clients_and_no_other() -> None:
    _, page = PAGE.read_text().split("## Supported")
    lines = page.split("## Deviations")[0].splitlines()
    named = {line.split()[1] for line in lines if line.startswith("| ")} - {"command"}
    assert named == {spec.name.decode() for spec in COMMANDS.values() if spec.scope is not Scope.INTERNAL}


REDIS_COMMANDS = set((Path(__file__).parent / "redis_7_0_commands.txt").read_text().split())
"""What COMMAND LIST of Redis 7.0.15 answers, without subcommands."""


def test_every_command_of_redis_is_supported_or_never_or_not_yet() -> None:
    ours = {name.decode() for name in COMMANDS}
    never = {name for names in NEVER for name in names.split()}
    coming = {name for names in NOT_YET for name in names.split()}
    assert never <= REDIS_COMMANDS
    assert coming <= REDIS_COMMANDS
    assert not never & (ours | coming)
    assert ours | never | coming >= REDIS_COMMANDS


def test_deviations_are_about_commands_that_are_here() -> None:
    """Or about commands of Redis that may come; HOST: and POST are what Redis listens to without telling."""
    known = {name.decode() for name in COMMANDS} | REDIS_COMMANDS | {"POST", "HOST:", "all"}
    assert {name for each in DEVIATIONS for name in each.commands.split()} <= known
