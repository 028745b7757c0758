"""docs/reference/events.md lists every event that the package logs, with its logger, level and fields."""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PAGE = ROOT / "docs" / "reference" / "events.md"
LEVELS = {
    "debug": "DEBUG",
    "info": "INFO",
    "warning": "WARNING",
    "error": "ERROR",
    "exception": "ERROR",
    "critical": "CRITICAL",
}


@dataclass(frozen=True)
class Event:
    """One call of a logger; fields are None when the source does not spell them out."""

    logger: str
    name: str
    levels: frozenset[str]
    fields: frozenset[str] | None


def dict_in(function: ast.AST, name: str) -> ast.expr | None:
    """The dict that a function assigns to a name."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id == name:
                    return node.value
    return None


def fields_of(extra: ast.expr | None, function: ast.AST) -> frozenset[str] | None:
    """The names in `extra`; those of a node's events stand one level deeper, under ``fields``."""
    if extra is None:
        return frozenset()
    if isinstance(extra, ast.Name):
        found = dict_in(function, extra.id)
        return fields_of(found, function) if found is not None else None
    if not isinstance(extra, ast.Dict):
        return None
    names: set[str] = set()
    for key, value in zip(extra.keys, extra.values, strict=True):
        if key is None or (isinstance(key, ast.Constant) and key.value == "fields"):
            inner = fields_of(value, function)
            if inner is None:
                return None
            names |= inner
        elif isinstance(key, ast.Constant):
            names.add(str(key.value))
        else:
            return None
    return frozenset(names)


def levels_of(call: ast.Call, method: str, function: ast.AST) -> frozenset[str]:
    """One level, or all that the function chooses from when it logs at a level of its choice."""
    if method != "log":
        return frozenset({LEVELS[method]})
    chosen = re.findall(r"logging\.(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b", ast.unparse(function))
    assert chosen, f"line {call.lineno}: the levels of log.log must stand in the same function"
    return frozenset(chosen)


def event_of(call: ast.Call, loggers: dict[str, str], function: ast.AST) -> Event | None:
    target = call.func
    if not (isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id in loggers):
        return None
    if target.attr not in (*LEVELS, "log"):
        return None
    name = call.args[1 if target.attr == "log" else 0]
    assert isinstance(name, ast.Constant), f"line {call.lineno}: an event's name is written out"
    assert isinstance(name.value, str)
    extra = next((keyword.value for keyword in call.keywords if keyword.arg == "extra"), None)
    return Event(
        loggers[target.value.id],
        name.value,
        levels_of(call, target.attr, function),
        fields_of(extra, function),
    )


def events_in(source: str, module: str) -> list[Event]:
    """Every event that a module logs."""
    tree = ast.parse(source)
    loggers: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("logging.getLogger("):
            assert isinstance(node.value, ast.Call)
            assert isinstance(node.targets[0], ast.Name)
            argument = node.value.args[0]
            loggers[node.targets[0].id] = str(argument.value) if isinstance(argument, ast.Constant) else module
    found: list[Event] = []
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    seen: set[ast.Call] = set()
    # The innermost function first: it is the one that says what its names stand for.
    for function in sorted(functions, key=lambda each: each.lineno, reverse=True):
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and call not in seen:
                seen.add(call)
                event = event_of(call, loggers, function)
                if event is not None:
                    found.append(event)
    return found


@cache
def logged() -> list[Event]:
    return [
        event
        for path in sorted(SOURCE.rglob("*.py"))
        for event in events_in(
            path.read_text(encoding="utf-8"), ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        )
    ]


@cache
def told() -> list[Event]:
    """The rows of the page, below the heading of their logger."""
    found = []
    logger = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"## `([\w.]+)`", line):
            logger = heading[1]
        elif row := re.match(r"\| `(\w+)` \| ([A-Z, ]+) \| ([^|]*) \|", line):
            names = re.findall(r"`(\w+)`", row[3])
            found.append(Event(logger, row[1], frozenset(row[2].split(", ")), frozenset(names)))
    return found


def test_the_page_lists_every_event_and_no_other() -> None:
    in_source = {(event.logger, event.name) for event in logged()}
    on_page = [(event.logger, event.name) for event in told()]
    assert len(in_source) > 40, "the source was not read"
    assert sorted(on_page) == sorted(in_source)


@pytest.mark.parametrize("event", logged(), ids=lambda event: f"{event.logger}-{event.name}")
def test_levels_and_fields_are_true(event: Event) -> None:
    row = next((each for each in told() if (each.logger, each.name) == (event.logger, event.name)), None)
    assert row is not None, f"add `{event.name}` below `{event.logger}` in docs/reference/events.md"
    assert row.levels == event.levels
    if event.fields is not None:
        assert row.fields == event.fields


def test_only_one_event_takes_its_fields_from_elsewhere() -> None:
    """Every other row is compared; one more whose fields cannot be read from the source is a hole in this test."""
    assert [event.name for event in logged() if event.fields is None] == ["cluster_up"]


def test_names_are_words_joined_by_underscores() -> None:
    for event in logged():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", event.name), event.name


def test_fields_are_read_from_every_form() -> None:
    source = """
import logging
log = logging.getLogger("x")
def one(answer):
    level = logging.WARNING if answer else logging.INFO
    facts = {"a": 1, "b": 2}
    log.log(level, "first_event", extra={**facts, "c": 3})
    log.debug("second_event", extra={"fields": {"d": 4}})
    log.info("third_event", extra=answer)
"""
    first, second, third = events_in(source, "m")
    assert first.levels == frozenset({"WARNING", "INFO"})
    assert first.fields == frozenset({"a", "b", "c"})
    assert second.levels == frozenset({"DEBUG"})
    assert second.fields == frozenset({"d"})
    assert third.fields is None
