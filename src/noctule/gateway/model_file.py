"""A model from TOML: every wrong key and type is told at once, with its table, field and what it could have been."""

import difflib
import tomllib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from noctule.base.errors import ConfigError
from noctule.gateway.model import GatewayModel
from noctule.gateway.model_check import check_model

MODEL_BYTES_MAX = 1 << 20
"""A longer text is not a model; it is also more than a key of the registry should hold."""


def load_model(path: Path) -> GatewayModel:
    """The model in a file, checked. `ConfigError` names the file and every problem."""
    try:
        with path.open("rb") as file:
            content = file.read(MODEL_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the gateway's config {path}: {error.strerror or error}") from error
    return parse_model(content, str(path))


def parse_model(content: bytes, source: str) -> GatewayModel:
    """The model in a text, checked. `source` is what a person knows it by."""
    if len(content) > MODEL_BYTES_MAX:
        raise ConfigError(f"{source} is longer than {MODEL_BYTES_MAX} bytes: is it a gateway's config?")
    try:
        document = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} is not TOML: {error}") from error
    return model_of(document, source)


def model_of(document: Mapping[str, object], source: str) -> GatewayModel:
    """The model in a document of tables, checked."""
    problems: list[str] = []
    built = _build(GatewayModel, document, "", problems)
    if problems:
        raise ConfigError(f"gateway: {'; '.join(problems)} (from {source})")
    assert isinstance(built, GatewayModel)
    try:
        check_model(built)
    except ConfigError as error:
        raise ConfigError(f"{error} (from {source})") from None
    return built


def _build(kind: Any, raw: object, where: str, problems: list[str]) -> Any:
    """A value of a type; where that cannot be, problems are added and what comes back is not to be used."""
    if get_origin(kind) is tuple and _is_struct(element := get_args(kind)[0]):
        if not isinstance(raw, list):
            problems.append(f"{where} must be a list of tables: write [[{where}]] before each")
            return ()
        return tuple(_build(element, each, _element(where, n, each), problems) for n, each in enumerate(raw))
    struct = next((each for each in (kind, *get_args(kind)) if _is_struct(each)), None)
    if struct is not None and not (raw is None and type(None) in get_args(kind)):
        return _build_struct(struct, raw, where, problems)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        problems.append(f"{where}: {_plain(error)}{_choices(kind)}")
        return None


def _build_struct(kind: type[msgspec.Struct], raw: object, where: str, problems: list[str]) -> Any:
    if not isinstance(raw, Mapping):
        problems.append(f"{where or 'the config'} must be a table, not {raw!r}")
        return None
    kinds = get_type_hints(kind)
    before = len(problems)
    values = {}
    for key, value in raw.items():
        here = f"{where}.{key}" if where else str(key)
        if key in kinds:
            values[key] = _build(kinds[key], value, here, problems)
        else:
            close = difflib.get_close_matches(str(key), kinds, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(kinds)}"
            problems.append(f"there is no setting {here}; {hint}")
    missing = [each.name for each in msgspec.structs.fields(kind) if each.required and each.name not in raw]
    problems += [f"{where or 'the config'} needs {name}" for name in missing]
    return kind(**values) if len(problems) == before else None


def _element(where: str, number: int, raw: object) -> str:
    """One of a list, by its name where it has one."""
    name = raw.get("name") if isinstance(raw, Mapping) else None
    return f"{where}[{number}] ({name})" if isinstance(name, str) else f"{where}[{number}]"


def _plain(error: msgspec.ValidationError) -> str:
    """msgspec's sentence with the path within the value told as TOML would."""
    sentence, _, path = str(error).partition(" - at `$")
    return f"{sentence[0].lower()}{sentence[1:]}" + (f" at {path.rstrip('`').lstrip('.')}" if path else "")


def _choices(kind: Any) -> str:
    """What there is to choose from, for a type that is a choice or holds some."""
    words = [
        str(member.value)
        for each in (kind, *get_args(kind))
        if isinstance(each, type) and issubclass(each, Enum)
        for member in each
    ]
    return f"; there are {', '.join(words)}" if words else ""


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
