"""nginx's syntax: blocks, and words that mean what they say whatever is in them."""

import re
from collections.abc import Iterable

DOLLAR = "$noctule_dollar"
"""A variable whose value is a dollar sign: nginx has no other way to write one where it takes variables."""


def block(head: str, lines: Iterable[str]) -> list[str]:
    """The lines of ``head { … }``, indented."""
    return [f"{head} {{", *(f"    {line}" if line else "" for line in lines), "}"]


def quote(text: str) -> str:
    """A text as one word, where nginx takes no variables: keys of maps, file names, regular expressions."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def quote_value(text: str) -> str:
    """A text as one word where nginx would put in variables, and is not to."""
    return quote(text).replace("$", f"${{{DOLLAR[1:]}}}")


def literally(text: str) -> str:
    """A regular expression that matches this text and no other."""
    return re.escape(text)


def header_variable(name: str) -> str:
    """The variable that holds a request header."""
    return "$http_" + name.lower().replace("-", "_")


def seconds(duration_s: float) -> str:
    """A time as nginx takes it."""
    return f"{max(1, round(duration_s * 1_000))}ms" if duration_s % 1 else f"{int(duration_s)}s"
