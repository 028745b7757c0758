"""Figures of this process: true ones from procfs, and how its one awkward line is read."""

import mmap
import os
from pathlib import Path

import pytest

from noctule.adapters.process_stats import read_process_stats

STAT = "4711 (we) ird) 9 (name) S 1 2 3 4 5 6 7 8 9 10 {user} {system} 0 0 20 0 5 0 999 {virtual} {pages} 1 2 3\n"


def test_the_figures_are_of_this_process() -> None:
    before = read_process_stats()
    assert before is not None
    # Not bytes: what was freed before may be given out again, and the process grows by nothing.
    ballast = mmap.mmap(-1, 64 << 20)
    for page in range(0, len(ballast), mmap.PAGESIZE):
        ballast[page] = 1
    with open(os.devnull, "rb"):
        after = read_process_stats()
    assert after is not None
    assert after.open_files == before.open_files + 1
    assert after.resident_bytes - before.resident_bytes > len(ballast) // 2
    assert after.virtual_bytes >= after.resident_bytes
    assert after.cpu_s >= before.cpu_s > 0
    assert after.threads >= 1
    assert after.open_files_max == -1 or after.open_files_max > after.open_files


def test_a_program_name_with_brackets_and_spaces_does_not_shift_the_fields(tmp_path: Path) -> None:
    (tmp_path / "fd").mkdir()
    for number in range(4):
        (tmp_path / "fd" / str(number)).touch()
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text(STAT.format(user=2 * ticks, system=ticks, virtual=8192, pages=1))
    stats = read_process_stats(tmp_path)
    assert stats is not None
    assert (stats.cpu_s, stats.virtual_bytes, stats.threads, stats.open_files) == (3.0, 8192, 5, 3)
    assert stats.resident_bytes == os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("missing", ["stat", "fd"])
def test_without_procfs_there_are_no_figures(tmp_path: Path, missing: str) -> None:
    (tmp_path / "stat").write_text(STAT.format(user=1, system=1, virtual=1, pages=1))
    (tmp_path / "fd").mkdir()
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    assert read_process_stats(tmp_path) is None
