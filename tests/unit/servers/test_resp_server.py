"""How many clients a node takes on; the server itself is met in tests/integration, for it listens."""

import logging

import pytest

from noctule.servers.resp_server import CONNECTIONS_MAX, FILES_RESERVED, affordable_connections


def test_with_room_for_all_of_them_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert affordable_connections(CONNECTIONS_MAX + FILES_RESERVED) == CONNECTIONS_MAX
    assert not caplog.records


@pytest.mark.parametrize(
    ("open_files_max", "expected"), [(CONNECTIONS_MAX, CONNECTIONS_MAX - FILES_RESERVED), (1_024, 768), (100, 1)]
)
def test_fewer_files_bound_the_clients_and_that_is_logged(
    open_files_max: int, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "noctule.resp"):
        assert affordable_connections(open_files_max) == expected
    (record,) = caplog.records
    assert record.message == "resp_connections_bounded"
    assert record.__dict__["fields"] == {"connections_max": expected, "open_files_max": open_files_max}
