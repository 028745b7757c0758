"""A floor imports lower floors only, and nothing inside the package imports its face."""

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "noctule"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
LINT_TIMEOUT_S = 60


def layers() -> list[list[str]]:
    """The floors of the contract, the lowest first, each with its packages."""
    contract = next(each for each in SETTINGS["contracts"] if each["name"].startswith("Floors:"))
    return [[package.strip() for package in layer.split("|")] for layer in reversed(contract["layers"])]


def face_imports(source: str) -> list[int]:
    """The lines that import the package itself, or a name from it, instead of a module in it."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(name.name == "noctule" for name in node.names):
            lines.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and (node.module == "noctule" or node.level):
            # A relative import hides how high it reaches, so it is refused as well.
            lines.append(node.lineno)
    return lines


def test_contracts_are_kept() -> None:
    beside = Path(sys.executable).with_name("lint-imports")
    command = str(beside) if beside.exists() else shutil.which("lint-imports")
    assert command, "lint-imports is not installed: make setup"
    result = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=LINT_TIMEOUT_S, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Contracts: {len(SETTINGS['contracts'])} kept, 0 broken." in result.stdout


def test_every_package_stands_on_a_floor() -> None:
    """A package that the contract does not name could import whatever it likes."""
    named = {package for floor in layers() for package in floor}
    present = {f"noctule.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    assert present == named


def test_every_floor_says_which_it_is() -> None:
    for number, floor in enumerate(layers()):
        for package in floor:
            source = PACKAGE / package.removeprefix("noctule.") / "__init__.py"
            text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
            assert text.startswith(f"Floor {number}: "), f"{package} is on floor {number}"


def test_nothing_imports_the_face() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in face_imports(path.read_text(encoding="utf-8"))
    ]
    assert not found, f"import the module that has the name, not the package's face: {', '.join(found)}"


def test_face_imports_are_recognised() -> None:
    assert face_imports("import noctule") == [1]
    assert face_imports("import os\nfrom noctule import __version__") == [2]
    assert face_imports("from . import ids") == [1]
    assert face_imports("import noctule.base.ids\nfrom noctule.base.ids import NodeId") == []
