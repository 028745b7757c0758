"""Every error of the contract: which failure becomes which, and that none says more than it may."""

import logging

import pytest

from noctule.base.consistency import ConsistencyLevel
from noctule.base.errors import ConfigError, OutcomeUnknownError, RequestError, UnavailableError
from noctule.core.keyspace.reply import Failure, Reply
from noctule.servers import http_store
from noctule.servers.http_api import error_answer
from noctule.servers.http_errors import ERROR_STATUS, error_body, failure_error
from noctule.servers.http_store import AwaitedReply, read_all, write

from .http_fakes import FakeNode, ask, error_of

CONTRACT = {
    "bad_request": (400, False, "not_applied"),
    "not_found": (404, False, "not_applied"),
    "method_not_allowed": (405, False, "not_applied"),
    "too_large": (413, False, "not_applied"),
    "unavailable": (503, True, "not_applied"),
    "storage": (503, False, "unknown"),
    "outcome_unknown": (504, False, "unknown"),
    "internal": (500, False, "unknown"),
}


def test_the_table_is_the_contract() -> None:
    rows = {kind.code: (status, kind.retryable, kind.outcome) for kind, status in ERROR_STATUS.items()}
    assert rows == CONTRACT


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"UNKNOWN no answer came in time", "outcome_unknown"),
        (b"CLUSTERDOWN no leader", "unavailable"),
        (b"TRYAGAIN later", "unavailable"),
        (b"LOADING the dataset", "unavailable"),
        (b"OVERLOADED too many commands wait for an answer", "unavailable"),
        (b"OOM command not allowed", "unavailable"),
        (b"MISCONF the disk failed", "storage"),
        (b"TOOLARGE value", "too_large"),
        (b"ERR key of 70000 bytes, KEY_BYTES_MAX is 65536", "too_large"),
        (b"ERR string exceeds maximum allowed size (VALUE_BYTES_MAX, 8388608 bytes)", "too_large"),
        (b"ERR pattern exceeds PATTERN_BYTES_MAX (1024 bytes)", "too_large"),
        (b"ERR too many arguments: 70000, ARGUMENTS_MAX is 65536", "too_large"),
        (b"ERR value is not an integer or out of range", "bad_request"),
        (b"ERR syntax error", "bad_request"),
        (b"WRONGTYPE Operation against a key holding the wrong kind of value", "bad_request"),
        (b"CROSSSLOT Keys in request don't hash to the same slot", "bad_request"),
        (b"NOVEL something nobody foresaw", "internal"),
        (b"", "internal"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_failure_of_the_store_is_answered_by_the_contract(text: bytes, code: str, method: str) -> None:
    node = FakeNode()
    node.store.failure = Failure(text)
    answer = await ask(node, method, "/api/kv/k", b"v")
    facts = error_of(answer)
    if (method, code) == ("GET", "outcome_unknown"):
        # A read changes nothing, so whoever asks may ask again.
        code = "unavailable"
    assert facts.code == code
    assert (answer.status, facts.retryable, facts.outcome) == CONTRACT[code]
    if code != "internal" and not text.startswith(b"UNKNOWN"):
        assert facts.message == text.partition(b" ")[2].decode()
    assert ("Retry-After" in answer.headers) == facts.retryable


def test_a_failure_that_is_not_text_is_shown_escaped() -> None:
    assert str(failure_error(Failure(b"ERR bad \xff"))) == "bad \\xff"


async def test_an_unexpected_exception_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    node = FakeNode()
    node.store.crash = KeyError("a secret of the code")
    with caplog.at_level(logging.ERROR):
        answer = await ask(node, "GET", "/api/kv/k")
    assert (answer.status, error_of(answer).code) == (500, "internal")
    assert b"secret" not in answer.body
    record = caplog.records[-1]
    assert record.message == "http_request_failed"
    assert record.exc_info is not None
    assert "a secret of the code" in str(record.exc_info[1])


@pytest.mark.parametrize(
    ("name", "reply", "method"),
    [
        (b"GET", 1, "GET"),
        (b"PTTL", b"1", "GET"),
        (b"SET", 1, "PUT"),
        (b"SCAN", [b"0"], "LIST"),
    ],
)
async def test_a_reply_of_the_wrong_kind_is_our_bug(name: bytes, reply: Reply, method: str) -> None:
    node = FakeNode()
    node.store.run(b"SET", b"k", b"v")
    node.store.replies = {name: [reply]}
    target = "/api/kv" if method == "LIST" else "/api/kv/k"
    answer = await ask(node, "PUT" if method == "PUT" else "GET", target, b"v")
    assert (answer.status, error_of(answer).code) == (500, "internal")


def test_an_error_of_no_row_is_answered_by_its_parents_row_or_as_internal() -> None:
    class OddRequestError(RequestError):
        code = "odd"

    assert error_body(OddRequestError("odd"))[1].error.code == "bad_request"
    assert error_body(ConfigError("not for clients"))[0] == 500
    assert "not for clients" not in error_body(ConfigError("not for clients"))[1].error.message


async def test_a_late_read_changed_nothing() -> None:
    store = FakeNode().store
    store.is_silent = True
    with pytest.raises(UnavailableError, match=r"within 0\.01 s"):
        await read_all(store, [[b"GET", b"k"]], consistency=ConsistencyLevel.STRONG, timeout_s=0.01)
    store.release()


async def test_a_late_write_may_have_been_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_store, "REPLY_S_MAX", 0.01)
    store = FakeNode().store
    store.is_silent = True
    with pytest.raises(OutcomeUnknownError, match="may have been applied"):
        await write(store, b"SET", b"k", b"v")
    # The reply that comes after the deadline finds nobody, and that is no error.
    store.release()
    assert store.run(b"GET", b"k") == b"v"


async def test_replies_come_in_the_order_of_the_commands() -> None:
    store = FakeNode().store
    store.run(b"SET", b"a", b"1")
    replies = await read_all(store, [[b"GET", b"a"], [b"GET", b"b"]], consistency=ConsistencyLevel.LINEARIZABLE)
    assert replies == [b"1", None]


async def test_the_first_delivery_counts() -> None:
    sink = AwaitedReply()
    sink.deliver(1)
    sink.deliver(2)
    assert await sink.wait_delivered() == 1


@pytest.mark.parametrize(
    ("method", "target", "status", "words"),
    [
        ("GET", "/", 404, 'nothing at "/"'),
        ("GET", "/api", 404, "/api/openapi.json"),
        ("GET", "/api/kvx", 404, "/api/kvx"),
        ("GET", "/health/", 404, "/health/"),
        ("GET", "/" + "x" * 5000, 404, "…"),
        ("GET", "/%0d%0aSet-Cookie:x", 404, "nothing at"),
        ("OPTIONS", "*", 400, "neither a path nor"),
        ("CONNECT", "example.org:443", 400, "neither a path nor"),
        ("GET", "ftp://host/api/kv/k", 400, "neither a path nor"),
        ("POST", "/api/kv/k", 405, "takes DELETE, GET, HEAD, PUT"),
        ("OPTIONS", "/api/instances/a", 405, "takes DELETE, PUT"),
        ("GET", "/api/instances/a", 405, "takes DELETE, PUT"),
        ("HEAD", "/api/instances/a", 405, "takes DELETE, PUT"),
        ("PUT", "/health", 405, "takes GET, HEAD"),
        ("get", "/health", 405, "takes GET, HEAD"),
    ],
)
async def test_what_is_not_there(method: str, target: str, status: int, words: str) -> None:
    answer = await ask(FakeNode(), method, target)
    assert answer.status == status
    assert words in error_of(answer).message
    assert len(error_of(answer).message) < 300
    if status == 405:
        assert answer.headers["Allow"] == words.removeprefix("takes ")


def test_the_log_is_not_filled_by_what_clients_do(caplog: pytest.LogCaptureFixture) -> None:
    error_answer(RequestError("wrong"))
    error_answer(UnavailableError("later"))
    assert caplog.records == []
