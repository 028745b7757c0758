"""Strict mode after some breaches, blocks that grow after more, and forgiveness."""

import pytest

from noctule.base.errors import ConfigError
from noctule.core.limits.abuse import AbuseRules, Conduct, breached, is_strict, score_at

RULES = AbuseRules()
SECOND = 1_000_000
START = 1_700_000_000 * SECOND


def breaches(conduct: Conduct, count: int, now_us: int) -> Conduct:
    for _ in range(count):
        conduct = breached(RULES, conduct, now_us)
    return conduct


def test_three_breaches_are_strict_and_decay() -> None:
    conduct = breaches(Conduct(), 2, START)
    assert not is_strict(RULES, conduct, START)
    conduct = breaches(conduct, 1, START)
    assert is_strict(RULES, conduct, START)
    assert score_at(RULES, conduct, START + 300 * SECOND) == pytest.approx(1.5)
    assert not is_strict(RULES, conduct, START + 300 * SECOND)


def test_blocks_grow_and_are_bounded() -> None:
    conduct = breaches(Conduct(), 10, START)
    assert conduct.blocked_until_us == START + 60 * SECOND
    assert is_strict(RULES, conduct, conduct.blocked_until_us), "who comes back from a block is in strict mode"
    lengths = []
    for _ in range(8):
        now_us = conduct.blocked_until_us
        while conduct.blocked_until_us <= now_us:
            conduct = breached(RULES, conduct, now_us)
        lengths.append((conduct.blocked_until_us - now_us) // SECOND)
    assert lengths == [120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_a_calm_day_begins_the_series_anew() -> None:
    conduct = breaches(Conduct(), 10, START)
    later_us = conduct.blocked_until_us + 24 * 3600 * SECOND
    conduct = breaches(conduct, 10, later_us)
    assert conduct.blocked_until_us == later_us + 60 * SECOND


def test_rules_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="strict_score"):
        AbuseRules(strict_score=11.0)
    with pytest.raises(ConfigError, match="half_life_s"):
        AbuseRules(half_life_s=0.0)
