"""Where a request goes, and that it goes twice only where that is safe."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import ConfigError, UnavailableError
from noctule.base.ids import Instant
from noctule.client.registry.endpoints import Endpoint
from noctule.kits.discovery.calls import IDEMPOTENT, REFUSED_S, Attempt, Call, CallPolicy, ServiceCalls

START = Instant(100.0)
POLICY = CallPolicy()


def calls_to(names: str = "abc", policy: CallPolicy = POLICY) -> ServiceCalls:
    calls = ServiceCalls("orders", policy, "", random.Random(3))
    calls.keep(1, [Endpoint(each, "127.0.0.1", 80) for each in names])
    return calls


def call_of(
    calls: ServiceCalls, method: str = "GET", *, is_replayable: bool = True, deadline: Instant | None = None
) -> Call:
    return calls.begin(method, is_replayable=is_replayable, deadline=deadline, now=START)


def attempt_of(call: Call, now: Instant = START) -> Attempt:
    return call.attempt(now)


def in_flight(calls: ServiceCalls) -> int:
    return sum(each.in_flight for each in calls.describe(START).instances)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "get"])
def test_an_idempotent_request_goes_to_each_instance_once(method: str) -> None:
    calls = calls_to()
    call = call_of(calls, method)
    tried = []
    for is_last in (False, False, True):
        attempt = attempt_of(call)
        tried.append(attempt.endpoint.id)
        assert attempt.failed(START, was_sent=True) is not is_last
    assert sorted(tried) == ["a", "b", "c"]
    assert in_flight(calls) == 0
    picture = calls.describe(START)
    assert (picture.requests, picture.failures, picture.retries) == (1, 3, 2)


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "MADE-UP"])
def test_another_request_goes_on_only_if_it_never_left(method: str) -> None:
    calls = calls_to()
    assert not attempt_of(call_of(calls, method)).failed(START, was_sent=True)
    assert attempt_of(call_of(calls, method)).failed(START, was_sent=False)
    assert not attempt_of(call_of(calls, method)).answered(503, START)


def test_a_body_that_cannot_be_sent_twice_is_not() -> None:
    calls = calls_to()
    assert not attempt_of(call_of(calls, "PUT", is_replayable=False)).failed(START, was_sent=True)
    assert not attempt_of(call_of(calls, "PUT", is_replayable=False)).failed(START, was_sent=False)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_an_answer_that_speaks_of_the_instance_is_thrown_away_while_there_is_another(status: int) -> None:
    calls = calls_to("ab")
    call = call_of(calls)
    assert attempt_of(call).answered(status, START)
    last = attempt_of(call)
    assert not last.answered(status, START), "better than nothing"
    last.end()
    last.end()
    assert in_flight(calls) == 0


@pytest.mark.parametrize("status", [200, 304, 404, 429, 500, 501])
def test_the_apps_own_answer_is_the_answer(status: int) -> None:
    calls = calls_to()
    attempt = attempt_of(call_of(calls))
    assert not attempt.answered(status, START)
    assert in_flight(calls) == 1, "until the body is read"
    assert calls.describe(START).failures == 0


def test_the_budget_bounds_what_is_sent_again() -> None:
    calls = calls_to(policy=CallPolicy(retry_ratio=0.1, retries_per_second_min=0))
    retried = sum(attempt_of(call_of(calls)).failed(START, was_sent=True) for _ in range(100))
    assert retried == 10
    assert calls.describe(START).budget.refused > 0


def test_nothing_is_sent_again_when_the_time_has_passed() -> None:
    calls = calls_to()
    call = call_of(calls, deadline=Instant(START + 1))
    attempt = attempt_of(call)
    assert attempt.remaining_s(Instant(START + 0.25)) == 0.75
    assert not attempt.failed(Instant(START + 1), was_sent=False)
    with pytest.raises(UnavailableError, match="has passed"):
        call.attempt(Instant(START + 1))
    far = call_of(calls, deadline=Instant(START + 1_000))
    assert far.deadline == START + POLICY.timeout_s, "no later than the policy says"


def test_one_that_stands_out_gets_nothing_until_there_is_no_other() -> None:
    calls = calls_to("ab")
    while not calls.describe(START).outliers[0].ejected_until:
        attempt = attempt_of(call_of(calls, "POST"))
        attempt.answered(503 if attempt.endpoint.id == "a" else 200, START)
        attempt.end()
    for _ in range(20):
        attempt = attempt_of(call_of(calls))
        assert attempt.endpoint.id == "b"
        attempt.end()
    call = call_of(calls)
    assert attempt_of(call).failed(START, was_sent=True)
    assert attempt_of(call).endpoint.id == "a", "rather than failing"


def test_where_nobody_listens_is_asked_last_for_a_moment() -> None:
    """Of three, two were killed: one may be ejected, and half of all requests went to the other and used the budget."""
    calls = calls_to("abc")
    refused: set[str] = set()
    while len(refused) < 2:
        attempt = attempt_of(call_of(calls))
        if attempt.endpoint.id != "c":
            attempt.failed(START, was_sent=False)
            refused.add(attempt.endpoint.id)
        attempt.end()
    chosen = set()
    for _ in range(30):
        attempt = attempt_of(call_of(calls))
        chosen.add(attempt.endpoint.id)
        attempt.end()
    assert chosen == {"c"}
    call = call_of(calls)
    assert attempt_of(call).failed(START, was_sent=True)
    assert attempt_of(call).endpoint.id in "ab", "rather than failing"
    assert call_of(calls).attempt(Instant(START + REFUSED_S)).endpoint.id in "abc"


def test_no_instance_is_said_so_and_what_is_left_of_one_that_went_is_ended() -> None:
    calls = calls_to("a")
    attempt = attempt_of(call_of(calls))
    calls.keep(2, [])
    attempt.failed(START, was_sent=True)
    with pytest.raises(UnavailableError, match="no instance of 'orders'"):
        attempt_of(call_of(calls))
    picture = calls.describe(START)
    assert (picture.unserved, picture.outliers) == (1, ())


def test_a_policy_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="attempts_max 0"):
        calls_to(policy=CallPolicy(attempts_max=0))


@given(
    method=st.sampled_from(["GET", "PUT", "POST", "PATCH"]),
    is_replayable=st.booleans(),
    outcomes=st.lists(st.sampled_from(["refused", "lost", "503", "200"]), min_size=6, max_size=6),
)
def test_whatever_happens_a_request_has_an_effect_once_unless_twice_changes_nothing(
    method: str, is_replayable: bool, outcomes: list[str]
) -> None:
    calls = calls_to("abcde", CallPolicy(attempts_max=4))
    call = call_of(calls, method, is_replayable=is_replayable)
    sent = attempts = 0
    for outcome in outcomes:
        attempt = attempt_of(call)
        attempts += 1
        sent += outcome != "refused"
        if outcome in ("refused", "lost"):
            goes_on = attempt.failed(START, was_sent=outcome == "lost")
        else:
            goes_on = attempt.answered(int(outcome), START)
        if not goes_on:
            attempt.end()
            break
    assert attempts <= 4
    assert sent <= 1 or (is_replayable and method in IDEMPOTENT)
    assert attempts == 1 or is_replayable
    assert in_flight(calls) == 0
