"""docs/reference/gateway.md, made of example.toml, the defaults of the model, the API's endpoints and the metrics."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from noctule.gateway.admin import ENDPOINTS, PREFIX
from noctule.gateway.metrics import METRICS
from noctule.gateway.metrics import PREFIX as METRIC_PREFIX
from noctule.gateway.model import GatewayModel

EXAMPLE = Path(__file__).with_name("example.toml")

_HEAD = """\
# Settings of a gateway

A gateway is told what to do by a file in TOML, or by the same text under a key of the registry: see
[the guide](../guides/gateway.md).
Every engine takes the same file: the embedded one, HAProxy and nginx.
A setting that does not exist is an error, and every wrong value is told at once.
`noctule gateway example` prints a file with all of them, and `noctule gateway --check` looks at yours.

This page is written by `scripts/render_reference.py` from that example and the defaults of `gateway/model.py`.

## At the top of the file
"""


_API_HEAD = f"""
## The gateway's own paths

Paths below `{PREFIX}` are the gateway's own, whatever routes there are, on the port that clients use.
They answer clients on this machine that come by one of its own names, that no proxy speaks for, and that are no page
in a browser; everybody else gets 404, but for the health.
`status = false` turns them off.
Bodies and answers are JSON; an error has the shape of every error of Noctule.

| request | what it does |
|---|---|
"""

_METRICS_HEAD = """
## Metrics

Counters of several workers are summed, and begin anew with each process.

| name | kind | meaning |
|---|---|---|
"""


@dataclass
class Section:
    """One table of the example."""

    heading: str
    """As in ``[[services]]``; empty for what stands before the first table."""
    prose: list[str]
    settings: list[tuple[str, str, list[str]]] = field(default_factory=list)
    """Key, value as it is written, and the sentences above it."""

    @property
    def path(self) -> str:
        """As in ``services.check``."""
        return self.heading.strip("[]")


def read_sections() -> list[Section]:
    """The example's tables in its order; a table that comes twice is two sections."""
    sections = [Section("", [])]
    comment: list[str] = []
    for line in [*EXAMPLE.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("#"):
            comment.append(line.lstrip("# "))
        elif line.startswith("["):
            sections.append(Section(line, comment))
            comment = []
        elif found := re.match(r"(\w+) = (.*)", line):
            sections[-1].settings.append((found[1], found[2], comment))
            comment = []
        elif comment:
            # A paragraph of its own.
            sections[-1].prose += comment
            comment = []
    return sections


def render_gateway_reference() -> str:
    """The text of docs/reference/gateway.md."""
    parts = [_HEAD]
    told: set[str] = set()
    for section in read_sections():
        new = [each for each in section.settings if each[2]]
        if section.heading and section.path not in told:
            parts.append(f"\n## `{section.heading}`\n\n" + "".join(f"{line}\n" for line in section.prose))
        told.add(section.path)
        parts += [_setting(section.path, *each) for each in new]
    parts.append(_API_HEAD)
    parts += [f"| `{each.method} {PREFIX}{each.path}` | {each.meaning} |\n" for each in ENDPOINTS]
    parts.append(_METRICS_HEAD)
    parts += [f"| `{METRIC_PREFIX}{each.name}` | {each.kind} | {each.help} |\n" for each in METRICS]
    return "".join(parts)


def default_of(path: str, key: str) -> str:
    """As TOML would write it; empty for a setting that must be given or that is a table."""
    kind: Any = GatewayModel
    for name in filter(None, path.split(".")):
        kind = get_type_hints(kind)[name]
        kind = next((each for each in (kind, *get_args(kind)) if _is_struct(each)), kind)
    found = next(each for each in msgspec.structs.fields(kind) if each.name == key)
    if found.required:
        return ""
    default = found.default if found.default is not msgspec.NODEFAULT else found.default_factory()
    return _toml(default)


def _setting(path: str, key: str, value: str, sentences: list[str]) -> str:
    default = default_of(path, key)
    ending = f"Default `{default}`." if default else "It must be given."
    return f"\n### {key}\n\n" + "".join(f"{line}\n" for line in sentences) + f"\n`{key} = {value}`. {ending}\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, dict):
        return "{}"
    return f'"{value}"'


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def every_setting() -> Iterator[tuple[str, str]]:
    """Table and key of every setting of the model, for the test that the example has them all."""
    yield from _walk(GatewayModel, "")


def _walk(kind: type[msgspec.Struct], path: str) -> Iterator[tuple[str, str]]:
    for name, hint in get_type_hints(kind).items():
        struct = next((each for each in (hint, *get_args(hint)) if _is_struct(each)), None)
        if struct is None or name == "shares":
            yield path, name
        else:
            yield from _walk(struct, f"{path}.{name}".lstrip("."))
