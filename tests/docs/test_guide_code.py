"""The Python in the guides that show it whole runs as it stands."""

import re
from pathlib import Path

import pytest

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
WHOLE = ["circuit-breakers.md", "raft-by-hand.md", "redis-libraries.md", "service-clients.md", "services.md"]


@pytest.mark.parametrize("name", WHOLE)
def test_the_code_of_a_guide_runs(name: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (GUIDES / name).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, name, "exec"), {})
