"""House rules that no other tool holds: what packages say of themselves, what core may call, what nobody uses."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "noctule"
MODULES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = [path for path in MODULES if path.name == "__init__.py" and path.parent != PACKAGE]
RULES = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] in ("base", "core")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

BANNED = {
    "time.time": "take the time as an argument",
    "time.monotonic": "take the time as an argument",
    "time.perf_counter": "take the time as an argument",
    "time.sleep": "answer a deadline instead of waiting",
    "datetime.now": "take the time as an argument",
    "datetime.utcnow": "take the time as an argument",
    "os.urandom": "take a random.Random as an argument",
    "secrets.token_bytes": "take a random.Random as an argument",
    "secrets.randbits": "take a random.Random as an argument",
    "uuid.uuid4": "take a random.Random as an argument",
    "open": "hand the bytes in",
    "input": "hand the bytes in",
    "print": "return an effect",
    "hash": "strings and bytes hash differently in every process",
}
"""Calls that a rule must not make, with what to do instead. import-linter forbids most of their modules already."""


def name_of(path: Path) -> str:
    """The dotted name of a module or package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def banned_calls(source: str) -> Iterator[tuple[int, str]]:
    """Line and sentence of every call in BANNED, and of every use of chance that is not handed in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            for name in node.names:
                if name.name != "Random":
                    yield node.lineno, f"random.{name.name} is global chance: take a random.Random as an argument"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in BANNED:
            yield node.lineno, f"{called}: {BANNED[called]}"
        elif re.fullmatch(r"random\.\w+", called) and (called != "random.Random" or not node.args):
            # random.Random() without a seed asks the system for one.
            yield node.lineno, f"{called}: take a random.Random as an argument"


def references(path: Path) -> set[str]:
    """Names of modules that a file imports, or names in a string as the command line does for its verbs."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("noctule."):
            found.add(node.value)
    return found


def entry_points() -> set[str]:
    """Modules that something outside the package starts."""
    found = {script.partition(":")[0] for script in PROJECT["scripts"].values()}
    for path in MODULES:
        if path.name == "__main__.py" or '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8"):
            found.add(name_of(path))
    return found


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_package_says_what_it_is(path: Path) -> None:
    text = docstring(path)
    assert text, "begin with a docstring: what lives here, and in which order to read"
    named = re.findall(r"\b(\w+\.py)\b", text)
    assert [name for name in named if not (path.parent / name).exists()] == [], (
        "sends its reader to a file that is gone"
    )


@pytest.mark.parametrize("path", RULES, ids=name_of)
def test_rules_take_time_and_chance_as_arguments(path: Path) -> None:
    found = [
        f"line {line}: {sentence}"
        for line, sentence in banned_calls(path.read_text(encoding="utf-8"))
        # Inside __hash__ it goes no further than the dict that asks for it.
        if not (path == PACKAGE / "core" / "keyspace" / "reply.py" and sentence.startswith("hash:"))
    ]
    assert found == []


def test_banned_calls_are_recognised() -> None:
    source = (
        "import random\nfrom random import choice\nrandom.shuffle([])\ntime.sleep(1)\nrandom.Random()\nrandom.Random(7)"
    )
    assert [line for line, _ in banned_calls(source)] == [2, 3, 4, 5]


def test_nothing_is_left_for_later() -> None:
    mark = re.compile(r"\b(TODO|FIX" + r"ME|XXX|HACK)\b")
    texts = [*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py"), *ROOT.glob("docs/**/*.md")]
    found = [str(path.relative_to(ROOT)) for path in texts if mark.search(path.read_text(encoding="utf-8"))]
    assert found == [str(Path(__file__).relative_to(ROOT))], "finish it, or open an issue"


def test_every_module_is_used() -> None:
    """By a module, an entry point, a bench, a script or an example; kits are for apps only, so each is shown in one."""
    used = entry_points()
    for path in MODULES:
        used |= references(path) - {name_of(path)}
    for path in [path for folder in ("examples", "bench", "scripts") for path in (ROOT / folder).rglob("*.py")]:
        used |= references(path)
    packages = {name_of(path) for path in PACKAGES} | {"noctule"}
    dead = [name_of(path) for path in MODULES if name_of(path) not in used | packages]
    assert dead == []


def test_every_dependency_is_explained() -> None:
    """docs/reference/dependencies.md has a row for each requirement in pyproject.toml, and for nothing else."""
    requirements = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        requirements += extra
    wanted = {re.split(r"[^A-Za-z0-9_-]", requirement)[0] for requirement in requirements}
    page = (ROOT / "docs" / "reference" / "dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(wanted)


def test_documents_name_no_place_of_one_machine() -> None:
    places = re.compile(r"(?<![\w./:])/(work|tmp|home|root|Users)(/|\b)")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    assert len(pages) > 20
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in pages
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if places.search(line)
    ]
    assert found == []
