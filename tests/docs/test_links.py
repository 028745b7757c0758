"""Links and file names in the documents lead somewhere, and decision records are numbered once each."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
RECORDS = sorted((ROOT / "docs" / "adr").glob("*.md"))
SECTIONS = ["Context", "Decision", "Rejected", "Consequences"]


def prose(page: Path) -> str:
    """The page without its blocks of code, in which brackets are not links."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def relative_links(page: Path) -> list[str]:
    """Targets of links that are not to another site."""
    targets = re.findall(r"\]\(([^()\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def problem_of(page: Path, link: str) -> str:
    """Why a link leads nowhere; empty when it leads somewhere."""
    place, _, anchor = link.partition("#")
    target = (page.parent / place).resolve() if place else page
    if not target.exists():
        return f"{link}: there is no such file"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return f"{link}: {target.name} has no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    problems = [problem_of(page, link) for link in relative_links(page)]
    assert [problem for problem in problems if problem] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_modules_are_there(page: Path) -> None:
    """`core/raft/node.py` in a page is a promise to the reader; a name without a folder is of any file."""
    named = re.findall(r"`([\w/]+\.py)`", prose(page))
    bases = (ROOT, ROOT / "src", ROOT / "src" / "noctule", page.parent)
    missing = []
    for name in named:
        if "/" in name:
            found = any((base / name).exists() for base in bases)
        else:
            found = (page.parent / name).exists() or any((ROOT / "src").rglob(name))
        if not found:
            missing.append(name)
    assert missing == []


def test_every_make_target_is_there() -> None:
    """A command that a page tells a newcomer to type must exist; `make help` lists what else there is."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    told = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^|`|\$ )make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {"up", "test", "check", "sim"} <= told
    assert told <= targets


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](page.md#one-heading) [b](none.md) [c](#two)\n```\n[d](none.md)\n```\n")
    assert relative_links(page) == ["page.md#one-heading", "none.md", "#two"]
    problems = [problem_of(page, link) for link in relative_links(page)]
    assert problems == ["", "none.md: there is no such file", "#two: page.md has no such heading"]


def test_records_are_numbered_once_and_without_a_gap() -> None:
    numbers = [int(path.name.partition("-")[0]) for path in RECORDS]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_records_have_one_form(record: Path) -> None:
    lines = record.read_text(encoding="utf-8").splitlines()
    number = record.name.partition("-")[0]
    assert re.match(rf"# {number}: \S", lines[0])
    assert re.match(r"Status: (accepted|superseded by \d{4})", lines[2])
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == SECTIONS
