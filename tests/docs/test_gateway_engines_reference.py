"""The table of what engines can do is the one that the contract suite goes by."""

from pathlib import Path

from noctule.gateway.engines.abilities import ABILITIES, YES, render_abilities

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "gateway-engines.md"


def test_the_table_is_current() -> None:
    assert render_abilities() in PAGE.read_text(encoding="utf-8")


def test_every_cell_says_yes_or_no() -> None:
    for row in ABILITIES:
        for engine in ("embedded", "haproxy", "nginx"):
            said = row.of(engine)
            assert said == YES or said.startswith(("yes: ", "no")), (row.name, engine)


def test_every_row_is_named_once() -> None:
    names = [row.name for row in ABILITIES]
    assert len(set(names)) == len(names)
