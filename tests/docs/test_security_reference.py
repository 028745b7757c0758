"""Every test that docs/reference/security.md names is there, and no requirement of chapter V7 is left out."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reference" / "security.md"

V7 = {"7.1": 3, "7.2": 4, "7.3": 2, "7.4": 5, "7.5": 3, "7.6": 2}
"""Requirements of each section of chapter V7 in ASVS 5.0."""


def test_the_tests_that_are_named_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    assert named
    written = {
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named - written == set()


@pytest.mark.parametrize(("section", "count"), V7.items())
def test_every_requirement_on_sessions_is_answered(section: str, count: int) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for number in range(1, count + 1):
        (row,) = re.findall(rf"^\| {re.escape(section)}\.{number} (.*)\|$", page, re.MULTILINE)
        assert all(cell.strip() for cell in row.split("|")), row
