"""Options and markers only; fixtures stand beside the tests that use them."""

import os
import shutil

import pytest
from hypothesis import HealthCheck, settings

from noctule.base.form import IS_COMPILED

# How long an example takes says how busy the machine is, and not whether the law holds.
settings.register_profile("noctule", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("noctule")

pytest_plugins = ("tests.workers",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite-transcripts` writes tests/transcripts anew; the difference is then to be reviewed.

    `--wal-writes` and `--every-bit` make the proofs of the log longer than a suite that runs all the time can bear;
    `--digest-seeds` does so for the simulator's.
    """
    parser.addoption(
        "--rewrite-transcripts",
        action="store_true",
        help="write the output of every scenario in tests/transcripts anew, for review as a difference",
    )
    parser.addoption(
        "--digest-seeds",
        type=int,
        default=40,
        help="compare the traces of so many simulated worlds between processes (40; 1000 takes ten minutes)",
    )
    parser.addoption(
        "--wal-writes",
        type=int,
        default=20_000,
        help="lose power at every moment of a run of the log with so many writes (20000; 100000 takes a minute)",
    )
    parser.addoption(
        "--every-bit",
        action="store_true",
        help="flip every bit of a 64 KiB log, not only those of every ninth byte and of all headers",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A missing engine fails its tests in CI and skips them, with the reason, elsewhere."""
    for item in items:
        if IS_COMPILED and item.get_closest_marker("interpreted"):
            item.add_marker(pytest.mark.skip(reason="replaces what is compiled here"))
        for marker in item.iter_markers("engine"):
            name = marker.args[0]
            if shutil.which(name) is None and not os.environ.get("CI"):
                item.add_marker(pytest.mark.skip(reason=f"{name} is not installed (make engines)"))
