"""What a setting is: its meaning, bounds and names, and how a value is read from text or TOML.

The settings themselves stand in config.py, where they come from in config_sources.py. The reference page and the flags
of ``noctule node`` are made from what is written here.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

Voters: TypeAlias = dict[int, str]
"""Node id to the ``host:port`` where its peers find it."""

Labels: TypeAlias = dict[str, str]
"""Name to value, of what a node says about where it is."""

PEER_NODES_MAX = 99
"""More voters than anybody needs; a longer list is a mistake."""

LABELS_MAX = 16

_HOST = r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)"
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class About:
    """What is written beside a field."""

    meaning: str
    reason: str
    """Why the default is what it is."""
    danger: str = ""
    """What goes wrong with a bad value; empty when nothing does but an error."""
    unit: str = ""
    low: float | None = None
    """Both bounds belong to the range."""
    high: float | None = None
    choices: tuple[str, ...] = ()
    flag: str = ""
    """The flag's name without dashes, where it is not the key's."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting under all its names."""

    table: str
    """Its table in noctule.toml."""
    key: str
    """Its name there."""
    field: str
    """Its name in the dataclass."""
    kind: Any
    """The type of its value."""
    default: Any
    about: About

    @property
    def flag(self) -> str:
        """As in ``--resp-port``."""
        return "--" + (self.about.flag or self.key).replace("_", "-")

    @property
    def environment(self) -> str:
        """As in ``NOCTULE_RESP_PORT``."""
        return "NOCTULE_" + (self.about.flag or self.key).upper()

    @property
    def has_plain_default(self) -> bool:
        """Whether the default is a value of its own, and not filled in from another setting."""
        return self.default not in ("", Path(), {})

    def range_problem(self, value: object) -> str:
        """What is wrong with a value of the right type, as in ``must be from 0 to 65535``; empty when nothing is."""
        about = self.about
        if about.choices and value not in about.choices:
            return f"must be {' or '.join(map(repr, about.choices))}"
        if about.low is None or about.high is None or not isinstance(value, int | float):
            return ""
        # Not a number compares false with everything and so is refused here.
        return "" if about.low <= value <= about.high else f"must be from {about.low:g} to {about.high:,.15g}"


def about(meaning: str, **more: Any) -> Mapping[str, About]:
    """The metadata of a dataclass field."""
    return {"about": About(meaning, **more)}


def settings_of(table: str, kind: type, keys: Mapping[str, str] | None = None) -> list[Setting]:
    """The settings of a config dataclass in the order of its fields; `keys` gives other names in the file."""
    hints = get_type_hints(kind)
    return [
        Setting(table, (keys or {}).get(field.name, field.name), field.name, hints[field.name], default_of(field), note)
        for field in dataclasses.fields(kind)
        if (note := field.metadata.get("about")) is not None
    ]


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """The default of a field, made anew when it has a factory."""
    return field.default_factory() if callable(field.default_factory) else field.default


def read_value(kind: Any, raw: object) -> Any:
    """The value of a setting from text (flag, environment) or from what TOML gave.

    Raises ValueError with the rest of a sentence, as in ``must be a whole number``.
    """
    if kind == Voters:
        return read_voters(raw)
    if kind == Labels:
        return read_labels(raw)
    if kind is bool:
        return _read_bool(raw)
    if kind is int:
        if isinstance(raw, str) and re.fullmatch(r"[+-]?[0-9_]{1,18}", raw.strip()):
            return int(raw)
        if isinstance(raw, int) and not isinstance(raw, bool):
            return raw
        raise ValueError("must be a whole number")
    if kind is float:
        return _read_float(raw)
    if not isinstance(raw, str) or not raw.strip() or "\0" in raw:
        raise ValueError("must be text that is not empty")
    return Path(raw) if kind is Path else raw


def read_voters(raw: object) -> Voters:
    """The voters of a cluster, in any of three forms, as one text with commas or as a list of texts.

    ``1@host:port`` names id and address; ``1:port`` is short for ``1@127.0.0.1:port``; a plain ``host:port`` list gives
    the ids from 1 in its order, so it must be the same everywhere. Raises ValueError with the rest of a sentence.
    """
    parts = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of peers, as in 1@10.0.0.1:7601,2@10.0.0.2:7601")
    if len(parts) > PEER_NODES_MAX:
        raise ValueError(f"names {len(parts)} peers, and {PEER_NODES_MAX} is the most")
    named: list[tuple[int | None, str]] = [_read_peer(part.strip()) for part in parts]
    if len({node is None for node, _ in named}) > 1:
        raise ValueError("names the ids of some peers and not of others: give every peer its id, or none")
    voters: Voters = {}
    for position, (node, address) in enumerate(named, start=1):
        number = position if node is None else node
        if number in voters:
            raise ValueError(f"names node {number} twice")
        if address in voters.values():
            raise ValueError(f"names the address {address} twice")
        voters[number] = address
    return voters


def read_labels(raw: object) -> Labels:
    """Labels as ``zone=a,rack=r1``, or as a table. Raises ValueError with the rest of a sentence."""
    pairs: list[tuple[object, object]]
    if isinstance(raw, str):
        pairs = [tuple(part.split("=", 1)) for part in raw.split(",") if part.count("=")]  # type: ignore[misc]
        if len(pairs) != len(raw.split(",")):
            raise ValueError("must be labels, as in zone=a,rack=r1")
    elif isinstance(raw, dict):
        pairs = list(raw.items())
    else:
        raise ValueError("must be labels, as in zone=a,rack=r1")
    labels: Labels = {}
    for name, value in pairs:
        for text in (name, value):
            if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9._:/-]{1,64}", text.strip()):
                raise ValueError(f"has the label {name}={value}: 1 to 64 letters, digits and . _ : / - on either side")
        if str(name).strip() in labels:
            raise ValueError(f"names the label {name} twice")
        labels[str(name).strip()] = str(value).strip()
    if len(labels) > LABELS_MAX:
        raise ValueError(f"names {len(labels)} labels, and {LABELS_MAX} is the most")
    return labels


def _read_peer(part: str) -> tuple[int | None, str]:
    if match := re.fullmatch(r"([0-9]{1,5}):([0-9]{1,5})", part):
        node, address = match[1], f"127.0.0.1:{match[2]}"
    elif match := re.fullmatch(rf"(?:([0-9]{{1,5}})@)?({_HOST}:([0-9]{{1,5}}))", part):
        node, address = match[1], match[2]
    else:
        raise ValueError(f"has the peer {part!r}, which is none of id@host:port, id:port and host:port")
    if not 0 < int(address.rpartition(":")[2]) <= 65_535:
        raise ValueError(f"has the peer {part!r}, whose port is not from 1 to 65535")
    if node is not None and int(node) < 1:
        raise ValueError(f"has the peer {part!r}, and ids begin with 1")
    return (int(node) if node is not None else None), address


def _read_bool(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.strip().lower() in _TRUE + _FALSE:
        return raw.strip().lower() in _TRUE
    raise ValueError("must be true or false")


def _read_float(raw: object) -> float:
    if isinstance(raw, int | float | str) and not isinstance(raw, bool):
        try:
            return float(raw)
        except (ValueError, OverflowError):
            pass
    raise ValueError("must be a number")
