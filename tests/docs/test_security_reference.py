"""Every test that docs/reference/security.md names is there, and no requirement of its chapters is left out or has
another level than ASVS 5.0.0 says."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reference" / "security.md"

LEVELS = {
    "7.1": (2, 2, 2),
    "7.2": (1, 1, 1, 1),
    "7.3": (2, 2),
    "7.4": (1, 1, 2, 2, 2),
    "7.5": (2, 2, 3),
    "7.6": (2, 2),
    "10.4": (1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3),
}
"""Of each requirement in the sections V7.1 to V7.6 and V10.4, in their order."""


def test_the_tests_that_are_named_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    assert named
    written = {
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named - written == set()


@pytest.mark.parametrize("section", LEVELS)
def test_every_requirement_is_answered_at_its_level(section: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(rf"^\| {re.escape(section)}\.(\d+) (.*) \|$", page, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(LEVELS[section]) + 1)), "each once, in order"
    for (_, row), level in zip(rows, LEVELS[section], strict=True):
        name, written_level, answer, reason = row.split(" | ")
        assert all((name, answer, reason)), row
        assert int(written_level) == level, row


def test_what_is_said_to_be_held_names_a_test() -> None:
    """Or the page that documents it, or says that it is not built or does not apply."""
    page = PAGE.read_text(encoding="utf-8")
    for row in re.findall(r"^\| (?:7|10\.4)\.\d+.*$", page, re.MULTILINE):
        assert re.search(r"`test_\w+`|\[the guide\]|not built|does not apply|not used| \| no \| ", row), row
