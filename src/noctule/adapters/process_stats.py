"""What the operating system says of this process, from procfs.

Source: Linux man-pages, proc_pid_stat(5) and proc_pid_fd(5).
"""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

_PROC_SELF = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """One process at one moment."""

    resident_bytes: int
    virtual_bytes: int
    cpu_s: float
    """User and system time of all its threads since it started."""
    threads: int
    open_files: int
    open_files_max: int
    """The soft limit; -1 when there is none."""


def resident_bytes() -> int:
    """The memory that this process takes, in about ten microseconds; 0 where there is no procfs."""
    try:
        pages = (_PROC_SELF / "statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def read_process_stats(proc: Path = _PROC_SELF) -> ProcessStats | None:
    """The figures of this process, in tens of microseconds; None where there is no procfs."""
    try:
        stat = (proc / "stat").read_text(encoding="utf-8", errors="replace")
        open_files = len(os.listdir(proc / "fd"))
    except OSError:
        return None
    # The second field is the program's name in brackets and may hold anything; the third begins after the last one.
    fields = stat[stat.rindex(")") + 2 :].split()
    user_ticks, system_ticks, threads = int(fields[11]), int(fields[12]), int(fields[17])
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ProcessStats(
        resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        virtual_bytes=int(fields[20]),
        cpu_s=(user_ticks + system_ticks) / os.sysconf("SC_CLK_TCK"),
        threads=threads,
        # Listing the folder opened one more.
        open_files=open_files - 1,
        open_files_max=-1 if soft_limit == resource.RLIM_INFINITY else soft_limit,
    )
