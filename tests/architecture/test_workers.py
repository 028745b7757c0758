"""What is said of the tests, by tests/workers.py and the Makefile, is so."""

from itertools import pairwise
from pathlib import Path

import pytest
from tests.workers import LONGEST, PORTS, ports_of

ROOT = Path(__file__).parents[2]


def test_the_longest_modules_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).exists()] == []


def test_tests_with_processes_are_where_make_looks_for_them() -> None:
    marked = [
        path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark." + "integration" in path.read_text()
    ]
    folders = {path.relative_to(ROOT).parent.as_posix() for path in marked}
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "-m integration" in line]
    assert folders == {word for word in line.split() if word.startswith("tests/")}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 32])
def test_no_worker_takes_a_port_of_another_or_its_neighbour(count: int) -> None:
    all_ports = [ports_of(number, count) for number in range(count)]
    assert all(mine[-1] + 1 < others[0] for mine, others in pairwise(all_ports))
    assert all(len(ports) > 500 and ports[0] in PORTS and ports[-1] in PORTS for ports in all_ports)
