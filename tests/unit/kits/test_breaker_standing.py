"""What a process makes of a store that answers, refuses, and goes away. The store here is a list of answers."""

import random

import pytest
from msgspec.structs import replace

from noctule.base.ids import Instant
from noctule.core.balance.breaker import BreakerPolicy, BreakerState, Permit
from noctule.kits.breaker_standing import (
    ASK_AGAIN_S,
    AWAY_S_FIRST,
    REFRESH_S,
    AnyPermit,
    AskProbe,
    Authority,
    BreakerOpenError,
    Exchange,
    Question,
    SharedPermit,
    SharedView,
    Standing,
    Verdict,
)

START = Instant(100.0)
POLICY = BreakerPolicy(calls_min=3)
CLOSED = SharedView(BreakerState.CLOSED, 7, 0.0, False, 0, 0, 0, 0)
OPEN = SharedView(BreakerState.OPEN, 8, 4.0, False, 0, 0, 0, 0)
HALF_OPEN = SharedView(BreakerState.HALF_OPEN, 9, 10.0, False, 0, 0, 0, 1)


def later(seconds: float) -> Instant:
    return Instant(START + seconds)


def standing_of(policy: BreakerPolicy = POLICY) -> Standing:
    return Standing("pay", policy, random.Random(5), has_store=True)


def question_of(step: AnyPermit | Question | None) -> Question:
    assert step is not None
    assert not isinstance(step, AnyPermit)
    return step


def shared_permit(step: AnyPermit | Question | None) -> SharedPermit:
    assert isinstance(step, SharedPermit)
    return step


def told(view: SharedView, now: Instant = START) -> Standing:
    standing = standing_of()
    assert standing.heard(question_of(standing.begin(now)), view, now) is None
    return standing


def test_the_first_call_asks_and_those_after_it_do_not_until_it_is_time() -> None:
    standing = standing_of()
    assert standing.begin(START) == Exchange(0, 0, 0, 0)
    assert isinstance(standing.begin(START), SharedPermit), "while one asks, the others go on with what is known"
    standing.heard(Exchange(0, 0, 0, 0), CLOSED, START)
    assert shared_permit(standing.begin(later(REFRESH_S - 0.01))).epoch == 7
    assert isinstance(standing.begin(later(REFRESH_S)), Exchange)


def test_what_was_counted_is_told_with_its_epoch_and_only_once() -> None:
    standing = told(CLOSED)
    for is_ok in (True, False, False):
        assert standing.end(shared_permit(standing.begin(START)), is_ok, START) is None
    question = question_of(standing.begin(later(REFRESH_S)))
    assert question == Exchange(7, 3, 2, 0)
    standing.heard(question, CLOSED, later(REFRESH_S))
    assert standing.begin(later(2 * REFRESH_S)) == Exchange(7, 0, 0, 0)


def test_a_failure_of_a_quiet_instance_is_told_at_once_and_a_success_can_wait() -> None:
    standing = told(CLOSED)
    first, second = shared_permit(standing.begin(START)), shared_permit(standing.begin(START))
    assert standing.end(first, True, later(9)) is None
    assert standing.end(second, False, later(9)) == Exchange(7, 2, 1, 0)


def test_counts_older_than_the_window_say_nothing() -> None:
    standing = told(CLOSED)
    standing.end(shared_permit(standing.begin(START)), True, START)
    assert standing.begin(later(POLICY.window_s + 1)) == Exchange(7, 0, 0, 0)


def test_counts_of_another_epoch_are_dropped() -> None:
    standing = told(CLOSED)
    old, older = shared_permit(standing.begin(START)), shared_permit(standing.begin(START))
    standing.heard(question_of(standing.begin(later(1))), replace(CLOSED, epoch=20), later(1))
    standing.end(shared_permit(standing.begin(later(1))), True, later(1))
    standing.end(old, False, later(1))
    standing.end(older, False, later(1))
    assert standing.begin(later(2)) == Exchange(20, 1, 0, 0)


def test_while_it_is_open_calls_are_refused_without_asking_more_than_now_and_then() -> None:
    standing = told(OPEN)
    with pytest.raises(BreakerOpenError) as refusal:
        standing.begin(later(0.1))
    assert refusal.value.retry_after_s == pytest.approx(3.9)
    assert isinstance(standing.begin(later(REFRESH_S)), Exchange)
    picture = standing.describe(later(0.1))
    assert (picture.authority, picture.breaker.state, picture.breaker.refused) == (
        Authority.SHARED,
        BreakerState.OPEN,
        1,
    )


def test_once_its_time_has_passed_a_probe_is_asked_for_and_its_verdict_told() -> None:
    standing = told(replace(OPEN, wait_s=0.2))
    question = question_of(standing.begin(later(0.3)))
    assert isinstance(question, AskProbe)
    permit = shared_permit(standing.heard(question, replace(HALF_OPEN, is_granted=True), later(0.3)))
    assert (permit.epoch, permit.token) == (9, question.token)
    assert standing.end(permit, True, later(0.4)) == Verdict(question.token, 9, True)
    assert standing.end(permit, False, later(0.4)) == Verdict(question.token, 9, False)
    assert standing.give_up(permit) == Verdict(question.token, 9, None)


def test_a_slow_probe_is_a_failed_one() -> None:
    standing = standing_of(BreakerPolicy(slow_call_s=1))
    assert standing.end(SharedPermit(START, 9, "t"), True, later(1.1)) == Verdict("t", 9, False)


def test_without_a_place_it_does_not_ask_again_at_once() -> None:
    standing = told(HALF_OPEN)
    with pytest.raises(BreakerOpenError):
        standing.begin(later(ASK_AGAIN_S - 0.01))
    again = later(ASK_AGAIN_S + 0.01)
    question = question_of(standing.begin(again))
    assert isinstance(question, AskProbe)
    assert standing.heard(question, HALF_OPEN, again) is None
    with pytest.raises(BreakerOpenError):
        standing.begin(Instant(again + 0.01))


def test_while_the_store_is_away_this_process_decides_and_asks_again_later() -> None:
    standing = standing_of()
    standing.lost(question_of(standing.begin(START)), START)
    for _ in range(3):
        permit = standing.begin(START)
        assert isinstance(permit, Permit)
        standing.end(permit, False, START)
    with pytest.raises(BreakerOpenError):
        standing.begin(START)
    picture = standing.describe(START)
    assert (picture.authority, picture.breaker.state) == (Authority.LOCAL_STORE_AWAY, BreakerState.OPEN)
    assert picture.store_failures == 1
    again = later(AWAY_S_FIRST * 1.2)
    question = question_of(standing.begin(again))
    standing.lost(question, again)
    with pytest.raises(BreakerOpenError):
        standing.begin(Instant(again + AWAY_S_FIRST))
    back = Instant(again + 2 * AWAY_S_FIRST * 1.2)
    standing.heard(question_of(standing.begin(back)), CLOSED, back)
    assert isinstance(standing.begin(back), SharedPermit)
    assert standing.describe(back).authority is Authority.SHARED


def test_what_was_open_for_all_stays_open_here_when_the_store_goes_away() -> None:
    standing = told(OPEN)
    standing.lost(question_of(standing.begin(later(1))), later(1))
    with pytest.raises(BreakerOpenError):
        standing.begin(later(1.9))
    picture = standing.describe(later(1.9))
    assert (picture.breaker.state, picture.breaker.retry_after_s) == (BreakerState.OPEN, pytest.approx(2.1))


def test_a_question_whose_asker_was_cancelled_can_be_asked_again() -> None:
    standing = standing_of()
    standing.dropped(question_of(standing.begin(START)))
    assert isinstance(standing.begin(START), Exchange)


def test_without_a_store_nothing_is_ever_asked() -> None:
    standing = Standing("pay", POLICY, random.Random(5), has_store=False)
    for _ in range(3):
        permit = standing.begin(START)
        assert isinstance(permit, Permit)
        assert standing.end(permit, False, START) is None
    with pytest.raises(BreakerOpenError):
        standing.begin(START)
    assert standing.describe(START).authority is Authority.LOCAL
