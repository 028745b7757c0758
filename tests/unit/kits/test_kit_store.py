"""URLs of the store, and which failures of an operation are worth another attempt."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import TimeoutError as StoreTimeoutError

from noctule.base.errors import ConfigError, OutcomeUnknownError, RequestError, UnavailableError
from noctule.kits.store import connect, is_transient, retrying_idempotent
from noctule.kits.store_hosts import ManyHostsConnection, ManyHostsTLSConnection


def options_of(url: str | None) -> dict[str, Any]:
    return connect(url).connection_pool.connection_kwargs


def test_several_hosts_with_password_and_database() -> None:
    options = options_of("redis://me:a%2Cb@h1:7401,h2:7402,[::1]:7403,h4/3")
    assert options["hosts"].addresses == (("h1", 7401), ("h2", 7402), ("::1", 7403), ("h4", 6379))
    assert (options["username"], options["password"], options["db"]) == ("me", "a,b", 3)


def test_a_command_is_never_repeated_by_the_client_itself() -> None:
    assert options_of("redis://h")["retry"].get_retries() == 0


def test_options_of_the_url_win_over_the_defaults() -> None:
    assert options_of("redis://h")["socket_timeout"] == 5.0
    assert options_of("redis://h")["socket_connect_timeout"] == 1.0
    assert options_of("redis://h?socket_timeout=0.5")["socket_timeout"] == 0.5


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://h", ManyHostsConnection),
        ("rediss://h1,h2", ManyHostsTLSConnection),
        ("unix:///run/redis.sock?db=2", UnixDomainSocketConnection),
    ],
)
def test_each_scheme_has_its_connection(url: str, kind: type) -> None:
    assert connect(url).connection_pool.connection_class is kind


def test_without_a_url_the_environment_decides_then_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOCTULE_STORE_URL", "redis://here:1")
    assert options_of(None)["hosts"].addresses == (("here", 1),)
    monkeypatch.delenv("NOCTULE_STORE_URL")
    assert options_of(None)["hosts"].addresses == (("127.0.0.1", 6379),)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://h", "must begin with one of redis://"),
        ("h:6379", "must begin with one of redis://"),
        ("redis://", "a host is missing"),
        ("redis://h1,,h2", "a host is missing"),
        ("redis://h:0", "the port of h must be a number"),
        ("redis://h:70000", "the port of h must be a number"),
        ("redis://h:seven", "the port of h must be a number"),
        ("redis://h/name", "number of a database"),
        ("redis://h?socket_timeout=long", "socket_timeout"),
        ("redis://h?no_such_option=1", "no_such_option"),
        ("unix://", "names no socket file"),
    ],
)
def test_a_bad_url_is_told_in_one_line(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        connect(url)
    assert "\n" not in str(caught.value)


def test_the_password_does_not_appear_in_the_error() -> None:
    with pytest.raises(ConfigError) as caught:
        connect("redis://me:s3cr@t@h:x/0")
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (StoreConnectionError("refused"), True),
        (StoreTimeoutError("silent"), True),
        (BusyLoadingError("loading"), True),
        (ClusterDownError("down"), True),
        (TryAgainError("again"), True),
        (ReadOnlyError("replica"), True),
        (ResponseError("UNKNOWN the write may have been applied"), True),
        (ResponseError("ERR unknown command"), False),
        (ResponseError("WRONGTYPE Operation against a key"), False),
        (AuthenticationError("invalid password"), False),
    ],
)
def test_what_waiting_can_mend(error: RedisError, transient: bool) -> None:
    assert is_transient(error) is transient


def failing(times: int, error: Exception) -> tuple[Callable[[], Any], list[int]]:
    """An operation that fails so often and then gives 7, and the list that counts its calls."""
    calls: list[int] = []

    async def operation() -> int:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error
        return 7

    return operation, calls


async def test_an_operation_is_repeated_until_it_is_answered() -> None:
    operation, calls = failing(3, StoreConnectionError("refused"))
    assert await retrying_idempotent(operation, writes=True, chance=random.Random(1)) == 7
    assert len(calls) == 4


async def test_what_waiting_cannot_mend_is_told_at_once_without_the_stores_words() -> None:
    operation, calls = failing(1, ResponseError("ERR value 'secret' is bad"))
    with pytest.raises(RequestError) as caught:
        await retrying_idempotent(operation, writes=True)
    assert len(calls) == 1
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("writes", "kind"), [(True, OutcomeUnknownError), (False, UnavailableError)])
async def test_the_attempts_are_bounded_and_the_outcome_is_honest(writes: bool, kind: type[Exception]) -> None:
    operation, calls = failing(99, StoreConnectionError("refused"))
    with pytest.raises(kind):
        await retrying_idempotent(operation, writes=writes, attempts_max=3)
    assert len(calls) == 3


async def test_the_budget_ends_the_attempts() -> None:
    operation, calls = failing(10**9, StoreConnectionError("refused"))
    with pytest.raises(UnavailableError, match=r"within 0\.05 s"):
        await retrying_idempotent(operation, writes=False, budget_s=0.05, attempts_max=10**9)
    assert 1 <= len(calls) < 1000


async def test_a_timeout_of_the_operation_itself_is_not_taken_for_the_budget() -> None:
    operation, _ = failing(1, TimeoutError("mine"))
    with pytest.raises(TimeoutError, match="mine"):
        await retrying_idempotent(operation, writes=False)
