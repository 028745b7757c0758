"""The reference pages of the command line, made from the code: settings.md, cli.md and exit-codes.md.

``python -m noctule.cli.reference NAME`` writes one of them to stdout, NAME being settings, cli or exit-codes.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from noctule.cli.main import PROGRAM, application
from noctule.cli.output import EXIT_CODES
from noctule.node.config_sources import FILE_NAME, SETTINGS
from noctule.node.settings import Setting, Voters

_SETTINGS_HEAD = f"""\
# Settings of a node

`{FILE_NAME}` in the working directory, or the file that `--config` names, is overridden by variables of the
environment, and these by flags of `noctule node`.
A setting that does not exist is an error in the file; every wrong value is told at once, with where it came from.
This page is written by `python -m noctule.cli.reference settings` from the settings themselves.

In Kubernetes a service called `noctule-resp` puts a variable `NOCTULE_RESP_PORT` into the pods beside it; set
`enableServiceLinks: false` there.
"""

_TABLES = {
    "cluster": "Equal on all nodes; nodes that differ in them refuse each other, the addresses of the peers excepted.",
    "node": "Of one process.",
}

_KINDS = {int: "whole number", float: "number", bool: "true or false", Voters: "list of peers"}

_CLI_HEAD = """\
# Command line

Data goes to stdout, everything else to stderr.
An error is one line that begins with `error:`, sometimes followed by one that begins with `hint:`.
The exit codes are listed in [exit-codes.md](exit-codes.md).
This page is written by `python -m noctule.cli.reference cli` from the commands themselves.
"""

_EXIT_CODES_HEAD = """\
# Exit codes

Every command ends with one of these.
This page is written by `python -m noctule.cli.reference exit-codes` from the table that the commands use.

| code | meaning |
|---|---|
"""


def render_settings() -> str:
    """The text of docs/reference/settings.md."""
    parts = [_SETTINGS_HEAD]
    for table, meaning in _TABLES.items():
        parts.append(f"\n## [{table}]\n\n{meaning}\n")
        parts += [_setting(setting) for setting in SETTINGS if setting.table == table]
    return "".join(parts)


def render_cli() -> str:
    """The text of docs/reference/cli.md."""
    return _CLI_HEAD + "".join(_command(PROGRAM, name, each) for name, each in _subcommands(application(complete=True)))


def render_exit_codes() -> str:
    """The text of docs/reference/exit-codes.md."""
    return _EXIT_CODES_HEAD + "".join(f"| {code} | {meaning} |\n" for code, meaning in sorted(EXIT_CODES.items()))


PAGES: dict[str, Callable[[], str]] = {
    "settings": render_settings,
    "cli": render_cli,
    "exit-codes": render_exit_codes,
}
"""The pages by name."""


def _setting(setting: Setting) -> str:
    about = setting.about
    kind = _KINDS.get(setting.kind, "text")
    unit = f", {about.unit}" if about.unit else ""
    bounds = f", {about.low:,g} to {_grouped(about.high)}" if about.low is not None else ""
    default = f"`{_toml(setting.default)}`" if setting.has_plain_default else "none of its own"
    lines = [
        f"\n### {setting.key}\n",
        about.meaning,
        "",
        f"- {kind}{unit}{bounds}",
        f"- default {default}: {_lowered(about.reason)}",
        f"- `{setting.environment}`, `{setting.flag}`",
    ]
    if about.danger:
        lines.append(f"- danger: {_lowered(about.danger)}")
    return "\n".join(lines) + "\n"


def _grouped(bound: float | None) -> str:
    return f"{bound:,.15g}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else f'"{value}"'


def _lowered(sentence: str) -> str:
    """A sentence as it goes on after a colon; a word that begins with two capitals is a name."""
    return sentence if sentence[1:2].isupper() else sentence[0].lower() + sentence[1:]


def _subcommands(group: Any) -> Iterable[tuple[str, Any]]:
    """The library's own classes are not the same in all its versions; `commands` and `params` are."""
    found: dict[str, Any] = getattr(group, "commands", {})
    return found.items()


def _command(parent: str, name: str, command: Any) -> str:
    path = f"{parent} {name}"
    children = list(_subcommands(command))
    if children:
        return "".join(_command(path, child, each) for child, each in children)
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    words = [path, *(_argument_word(each) for each in arguments), "[OPTIONS]"]
    lines = [f"\n## {path}\n", "```", " ".join(words), "```", "", *_paragraphs(command.help), ""]
    lines += ["| | default | |", "|---|---|---|", *map(_row, [*arguments, *options])]
    return "\n".join(lines) + "\n"


def _argument_word(argument: Any) -> str:
    word = argument.metavar or argument.name.upper()
    return word if argument.required else f"[{word}]"


def _paragraphs(text: str) -> Iterator[str]:
    """The docstring with one line for each paragraph."""
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        if number:
            yield ""
        yield " ".join(paragraph.split())


def _row(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    words = parameter.opts[0] if is_option else _argument_word(parameter)
    if is_option and parameter.metavar:
        words += f" {parameter.metavar}"
    has_default = parameter.default is not None and parameter.default is not False and not parameter.required
    default = f"`{parameter.default}`" if has_default and str(parameter.default) else ""
    # A flag of `noctule node` has no default itself, as the file and the environment stand behind it; its help tells.
    meaning, _, told = _cell(parameter.help).partition(" [default: ")
    default = f"`{told.removesuffix(']')}`" if told else default
    variable = f" `{parameter.envvar}` in the environment." if parameter.envvar else ""
    return f"| `{words}` | {default} | {meaning}{variable} |"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PAGES:
        sys.exit(f"name one page: {', '.join(PAGES)}")
    sys.stdout.write(PAGES[sys.argv[1]]())
