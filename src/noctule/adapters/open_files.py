"""How many files and sockets this process may have open at once.

Source: Linux man-pages, getrlimit(2), RLIMIT_NOFILE.
"""

import resource

_UNBOUNDED = 1 << 30


def open_files_max() -> int:
    """How many it may have open now."""
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNBOUNDED if soft_limit == resource.RLIM_INFINITY else soft_limit


def raise_open_files_max() -> int:
    """Allow it as many as its hard limit does, and give that number.

    The soft limit is 1,024 nearly everywhere, for the sake of programs that use select(2); none of ours does.
    """
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit != hard_limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    return open_files_max()
