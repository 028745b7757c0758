"""The answers on the page of security name tests that exist, and none of a chapter is left out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "security.md").read_text(encoding="utf-8")
V7 = {"7.1": 3, "7.2": 4, "7.3": 2, "7.4": 5, "7.5": 3, "7.6": 2}
"""Requirements of each section of chapter V7 in ASVS 5.0."""


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`tests/((?:unit|integration)/[\w/]+\.py)`(?:: `(test_\w+)`)?", PAGE)
    assert named
    for file, test in named:
        path = ROOT / "tests" / file
        assert path.exists(), file
        assert not test or f"def {test}(" in path.read_text(encoding="utf-8"), f"{file}: {test}"


def test_every_test_that_is_named_alone_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    written = {name for text in sources for name in re.findall(r"def (test_\w+)\(", text)}
    assert named - written == set()


@pytest.mark.parametrize(("section", "count"), V7.items())
def test_every_requirement_is_answered(section: str, count: int) -> None:
    for number in range(1, count + 1):
        (row,) = re.findall(rf"^\| {re.escape(section)}\.{number} \|(.*)\|$", PAGE, re.MULTILINE)
        _, answer, shown = (cell.strip() for cell in row.split("|"))
        assert answer
        assert shown.startswith(("`", "the same", "reason"))
