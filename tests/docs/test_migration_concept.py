"""docs/concepts/migration.md shows the stages that there are."""

from pathlib import Path

from noctule.core.migration.stages import Stage, render_diagram

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "migration.md"


def test_the_diagram_is_drawn_from_the_table() -> None:
    assert render_diagram() in PAGE.read_text(), "write it again: python scripts/render_reference.py"


def test_every_stage_is_told_of() -> None:
    page = PAGE.read_text()
    assert [stage for stage in Stage if f"| {stage.name} |" not in page] == []
