"""`noctule cluster settings` and `set`: what the whole cluster is set to."""

from typing import TYPE_CHECKING, Annotated

import typer

from noctule.cli import output
from noctule.cli.asking import ask, pair_of
from noctule.cli.output import NODE_URL, JsonOption, NodeOption

if TYPE_CHECKING:
    from noctule.core.meta.settings import SettingValue


def settings(node: NodeOption = NODE_URL, json: JsonOption = False) -> None:
    """Show the settings of the whole cluster."""
    import msgspec

    from noctule.core.meta.settings import SETTINGS

    found = ask(node, lambda client: client.settings())
    if json:
        output.print_json(found)
    else:
        values = msgspec.structs.asdict(found)
        rows = [(name, _shown(values[name]), about.unit, about.meaning) for name, about in SETTINGS.items()]
        output.print_table("settings", ("setting", "value", "unit", "meaning"), rows)


def set_(
    pairs: Annotated[list[str], typer.Argument(help="Settings with their new values.", metavar="KEY=VALUE…")],
    node: NodeOption = NODE_URL,
    json: JsonOption = False,
) -> None:
    """Change settings of the whole cluster, all of them or none."""
    import msgspec

    values = dict(_setting(each) for each in pairs)
    found = ask(node, lambda client: client.change_settings(values))
    if json:
        output.print_json(found)
    else:
        after = msgspec.structs.asdict(found)
        for name in values:
            print(f"{name} = {_shown(after[name])}")


def _setting(text: str) -> "tuple[str, SettingValue]":
    """A setting with its value: true, false, a number, or text."""
    key, value = pair_of(text)
    if value in ("true", "false"):
        return key, value == "true"
    for kind in (int, float):
        try:
            return key, kind(value.replace("_", ""))
        except ValueError:
            continue
    return key, value


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
