"""Every error answer of the API's contract becomes the error that says the same."""

import msgspec
import pytest

from noctule.base.errors import (
    ConfigError,
    InternalError,
    NoctuleError,
    OutcomeUnknownError,
    ProtocolError,
    RequestError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from noctule.client.api import NodeClient
from noctule.client.exchange import Answer, base_url
from noctule.client.failures import failure_of, is_not_found


def answer(status: int, body: object) -> Answer:
    return Answer("GET", "http://node/api/kv/k", status, {}, msgspec.json.encode(body))


def error(status: int, code: str) -> Answer:
    return answer(status, {"error": {"code": code, "message": "why", "retryable": False, "outcome": "not_applied"}})


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "bad_request", RequestError),
        (404, "not_found", RequestError),
        (405, "method_not_allowed", RequestError),
        (413, "too_large", TooLargeError),
        (503, "unavailable", UnavailableError),
        (504, "outcome_unknown", OutcomeUnknownError),
        (503, "storage", StorageError),
        (500, "internal", InternalError),
        (418, "of_a_later_version", ProtocolError),
    ],
)
def test_each_code_has_its_error(status: int, code: str, expected: type[NoctuleError]) -> None:
    failure = failure_of(error(status, code))
    assert type(failure) is expected
    assert str(failure) == "GET http://node/api/kv/k: why"


@pytest.mark.parametrize("status", [200, 201, 204])
def test_success_is_no_failure(status: int) -> None:
    assert failure_of(answer(status, {})) is None


@pytest.mark.parametrize("body", [{}, [], "text", {"error": "text"}, {"error": {"code": "unavailable"}}])
def test_an_error_of_somebody_else_is_a_protocol_error(body: object) -> None:
    assert type(failure_of(answer(503, body))) is ProtocolError


def test_only_a_node_can_say_that_a_key_is_missing() -> None:
    assert is_not_found(error(404, "not_found"))
    assert not is_not_found(error(404, "bad_request"))
    assert not is_not_found(error(400, "not_found"))
    assert not is_not_found(answer(404, "<h1>nginx</h1>"))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:7501", "http://127.0.0.1:7501/", "https://node", "http://[::1]:7501"]
)
def test_urls_of_host_and_port_are_taken(url: str) -> None:
    assert base_url(url, what="URL") == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:7501",
        "ftp://node",
        "http://",
        "http://node:99999",
        "http://node:x",
        "http://node?a=b",
        "http://[::1",
    ],
)
def test_other_urls_are_refused_in_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match="is not a URL of host and port") as caught:
        NodeClient(url)
    assert "\n" not in str(caught.value)


def test_a_client_needs_a_url() -> None:
    with pytest.raises(ConfigError, match="no node URL"):
        NodeClient([])


async def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(ConfigError, match="async with"):
        await NodeClient("http://127.0.0.1:1").instances()
