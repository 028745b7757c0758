"""One check: intervals, thresholds, timeouts, silence, and what an alias repeats."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.errors import RequestError
from noctule.base.ids import Instant
from noctule.core.registry.bounds import OUTPUT_BYTES_MAX
from noctule.core.registry.checks import (
    INTERVAL_JITTER,
    Begin,
    Cancel,
    Changed,
    Effect,
    Finished,
    ProbedCheck,
    Remembered,
    Tick,
    Told,
    TtlCheck,
    alias_status,
)
from noctule.core.registry.definitions import CheckDefinition
from noctule.core.registry.objects import Check, CheckStatus

PASSING, WARNING, CRITICAL = CheckStatus.PASSING, CheckStatus.WARNING, CheckStatus.CRITICAL
START = Instant(0.0)


def probed(**settings: object) -> ProbedCheck:
    fields = {"id": "web", "tcp": "127.0.0.1:1", "interval_s": 10.0, "timeout_s": 2.0} | settings
    return ProbedCheck(CheckDefinition(**fields), START, Random(1))  # type: ignore[arg-type]


def results(check: ProbedCheck, *statuses: CheckStatus) -> list[CheckStatus]:
    """What the check says after each attempt, when attempts end so."""
    said = []
    for number, status in enumerate(statuses, start=1):
        now = check.next_deadline()
        assert check.handle(Tick(), now) == [Begin(number)]
        check.handle(Finished(number, status, str(status)), Instant(now + 0.1))
        check.check()
        said.append(check.describe().status)
    return said


def test_the_first_attempt_is_made_within_an_interval() -> None:
    """A node that came back with thousands of checks made them all in its first second."""
    due = [
        ProbedCheck(CheckDefinition("c", tcp="h:1", interval_s=10), START, Random(seed)).next_deadline()
        for seed in range(200)
    ]
    assert all(0 <= at <= 10 for at in due)
    assert min(due) < 1
    assert max(due) > 9


def test_attempts_keep_the_pace_of_the_interval_however_long_they_take() -> None:
    check = probed()
    begun = check.next_deadline()
    check.handle(Tick(), begun)
    check.handle(Finished(1, PASSING, "ok"), Instant(begun + 1.5))
    assert 10 <= check.next_deadline() - begun <= 10 * (1 + INTERVAL_JITTER)


def test_one_attempt_at_a_time() -> None:
    check = probed(interval_s=1.0, timeout_s=5.0)
    begun = check.next_deadline()
    assert check.handle(Tick(), begun) == [Begin(1)]
    assert check.handle(Tick(), Instant(begun + 3)) == []


def test_an_attempt_that_takes_too_long_is_a_failure_and_is_not_heard_later() -> None:
    check = probed(status=PASSING)
    begun = check.next_deadline()
    check.handle(Tick(), begun)
    late = Instant(begun + 2)
    assert check.handle(Tick(), late) == [Cancel(1), Changed(CRITICAL, "no answer within 2 s")]
    assert check.handle(Finished(1, PASSING, "at last"), Instant(late + 1)) == []
    assert check.describe().status is CRITICAL


def test_thresholds_count_results_in_a_row() -> None:
    check = probed(success_before_passing=2, failures_before_critical=3)
    assert results(check, PASSING, CRITICAL, PASSING, PASSING) == [CRITICAL, CRITICAL, CRITICAL, PASSING]
    check = probed(status=PASSING, failures_before_critical=3, success_before_passing=2)
    said = results(check, CRITICAL, CRITICAL, PASSING, CRITICAL, CRITICAL, CRITICAL, PASSING, PASSING)
    assert said == [PASSING, PASSING, PASSING, PASSING, PASSING, CRITICAL, CRITICAL, PASSING]


def test_a_warning_may_come_before_critical() -> None:
    check = probed(status=PASSING, failures_before_warning=1, failures_before_critical=3)
    assert results(check, CRITICAL, CRITICAL, CRITICAL) == [WARNING, WARNING, CRITICAL]


@given(
    st.lists(st.sampled_from(list(CheckStatus)), max_size=60),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_no_change_without_enough_results_in_a_row(statuses: list[CheckStatus], success: int, failures: int) -> None:
    check = probed(success_before_passing=success, failures_before_critical=failures)
    before = CRITICAL
    for position, said in enumerate(results(check, *statuses)):
        needed = max(1, failures if said is CRITICAL else success)
        recent = statuses[max(0, position + 1 - needed) : position + 1]
        agree = len(recent) == needed and all((each is CRITICAL) == (said is CRITICAL) for each in recent)
        assert said is before or agree
        before = said


def test_the_same_again_is_no_news() -> None:
    check = probed()
    begun = check.next_deadline()
    check.handle(Tick(), begun)
    assert check.handle(Finished(1, PASSING, "ok"), begun) == [Changed(PASSING, "ok")]
    again = check.next_deadline()
    check.handle(Tick(), again)
    assert check.handle(Finished(2, PASSING, "ok"), again) == []


def test_what_the_cluster_remembers_holds_until_there_is_a_result() -> None:
    """A node that was restarted made its instances critical until the first attempt of each check."""
    check = probed()
    assert check.handle(Remembered(PASSING, "ok"), START) == []
    assert check.describe().status is PASSING
    assert results(check, CRITICAL) == [CRITICAL]
    check.handle(Remembered(PASSING, "ok"), START)
    assert check.describe().status is CRITICAL


def test_a_check_that_the_node_makes_is_not_told() -> None:
    with pytest.raises(RequestError, match="only one with a ttl"):
        probed().handle(Told(PASSING, ""), START)


def test_outputs_are_cut_at_a_whole_character() -> None:
    check = TtlCheck(CheckDefinition("c", ttl_s=1), START)
    (changed,) = check.handle(Told(PASSING, "é" * OUTPUT_BYTES_MAX), START)
    assert isinstance(changed, Changed)
    assert changed.output == "é" * (OUTPUT_BYTES_MAX // 2)


def ttl_effects(*events: tuple[float, object]) -> list[list[Effect]]:
    check = TtlCheck(CheckDefinition("c", ttl_s=5), START)
    found = []
    for at, event in events:
        found.append(check.handle(event, Instant(at)))  # type: ignore[arg-type]
        check.check()
    return found


def test_silence_for_a_ttl_is_critical_once() -> None:
    told, early, late, later = ttl_effects((1, Told(PASSING, "fine")), (5.9, Tick()), (6, Tick()), (7, Tick()))
    assert told == [Changed(PASSING, "fine")]
    assert early == []
    assert late == [Changed(CRITICAL, "TTL expired (last output before that: fine)")]
    assert later == []


def test_a_report_begins_a_ttl_anew_and_heals() -> None:
    effects = ttl_effects(
        (1, Told(PASSING, "")), (5, Told(PASSING, "")), (9, Tick()), (10, Tick()), (11, Told(PASSING, ""))
    )
    assert effects == [
        [Changed(PASSING, "")],
        [],
        [],
        [Changed(CRITICAL, "TTL expired")],
        [Changed(PASSING, "")],
    ]


def test_a_node_that_came_back_gives_a_whole_ttl() -> None:
    check = TtlCheck(CheckDefinition("c", ttl_s=5), START)
    check.handle(Remembered(PASSING, "fine"), START)
    assert check.handle(Tick(), Instant(4.9)) == []
    assert check.describe().status is PASSING
    assert check.handle(Tick(), Instant(5)) == [Changed(CRITICAL, "TTL expired (last output before that: fine)")]


def test_an_alias_repeats_the_worst() -> None:
    good, slow = Check("n", "a", "fast", PASSING), Check("n", "b", "slow", WARNING, output="3 s")
    dead = Check("n", "c", "dead", CRITICAL, output="refused")
    assert alias_status([good, slow], of="web", is_there=True) == (WARNING, "slow is warning: 3 s")
    assert alias_status([good, slow, dead], of="web", is_there=True) == (CRITICAL, "dead is critical: refused")
    assert alias_status([good], of="web", is_there=True)[0] is PASSING
    assert alias_status([], of="web", is_there=True)[0] is PASSING
    assert alias_status([good], of="web", is_there=False) == (CRITICAL, "web is not registered")
