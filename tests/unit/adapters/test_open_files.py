import resource
from collections.abc import Iterator

import pytest

from noctule.adapters.open_files import open_files_max, raise_open_files_max


@pytest.fixture(autouse=True)
def limits() -> Iterator[tuple[int, int]]:
    """The limits as they are, which a test may lower the soft one of."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_process_may_open_what_its_soft_limit_allows(limits: tuple[int, int]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))
    assert open_files_max() == 512


def test_the_soft_limit_is_raised_to_the_hard_one(limits: tuple[int, int]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))
    raised = raise_open_files_max()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1], limits[1])
    assert raised == open_files_max() > 512
