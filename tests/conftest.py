"""Options and markers only; fixtures stand beside the tests that use them."""

import os
import shutil

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite-transcripts` writes tests/transcripts anew; the difference is then to be reviewed."""
    parser.addoption(
        "--rewrite-transcripts",
        action="store_true",
        help="write the output of every scenario in tests/transcripts anew, for review as a difference",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A missing engine fails its tests in CI and skips them, with the reason, elsewhere."""
    for item in items:
        for marker in item.iter_markers("engine"):
            name = marker.args[0]
            if shutil.which(name) is None and not os.environ.get("CI"):
                item.add_marker(pytest.mark.skip(reason=f"{name} is not installed (make engines)"))
