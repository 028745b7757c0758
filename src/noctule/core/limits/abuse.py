"""What repeated breaches of a subject lead to: first its strict limits, then blocks that grow.

A score rises by one with each refused request and halves every `half_life_s`. From `strict_score` on the strict limits
hold; at `block_score` the subject is blocked, twice as long each time until `calm_s` have passed without a block.
"""

from dataclasses import dataclass

from noctule.base.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class AbuseRules:
    """The thresholds; the defaults forgive a person, and stop a program that does not listen."""

    half_life_s: float = 300.0
    strict_score: float = 2.5
    """Three breaches in quick succession are a little less than 3, as each decays until the next."""
    block_score: float = 9.5
    block_s_first: float = 60.0
    block_s_max: float = 3600.0
    calm_s: float = 24 * 3600.0
    """After so long without a block the next is the first again; also how long a subject is remembered."""

    def __post_init__(self) -> None:
        if not 0 < self.strict_score <= self.block_score:
            raise ConfigError("abuse rules: strict_score must be more than 0 and at most block_score")
        if not (self.half_life_s > 0 and 0 < self.block_s_first <= self.block_s_max <= self.calm_s):
            raise ConfigError(
                "abuse rules: half_life_s must be more than 0, and block_s_first <= block_s_max <= calm_s"
            )


@dataclass(frozen=True, slots=True)
class Conduct:
    """What is remembered of a subject; times are µs since 1970."""

    score: float = 0.0
    scored_us: int = 0
    """When `score` was, or will be, that."""
    blocks: int = 0
    """How many blocks in the present series."""
    blocked_until_us: int = 0


def score_at(rules: AbuseRules, conduct: Conduct, now_us: int) -> float:
    """The score, decayed until now."""
    age_us = max(now_us - conduct.scored_us, 0)
    return float(conduct.score * 0.5 ** (age_us / (rules.half_life_s * 1_000_000)))


def is_strict(rules: AbuseRules, conduct: Conduct, now_us: int) -> bool:
    """Whether the strict limits hold for it."""
    return score_at(rules, conduct, now_us) >= rules.strict_score


def breached(rules: AbuseRules, conduct: Conduct, now_us: int) -> Conduct:
    """After a request that a limit refused; one refused by a block is no further breach, for it has its punishment."""
    score = score_at(rules, conduct, now_us) + 1
    if score < rules.block_score:
        return Conduct(score, now_us, conduct.blocks, conduct.blocked_until_us)
    is_calm = now_us >= conduct.blocked_until_us + rules.calm_s * 1_000_000
    blocks = 0 if is_calm else conduct.blocks
    block_s = min(rules.block_s_first * 2 ** min(blocks, 30), rules.block_s_max)
    until_us = now_us + round(block_s * 1_000_000)
    # It comes back in strict mode, half way to the next block; the score decays from then on.
    return Conduct((rules.strict_score + rules.block_score) / 2, until_us, blocks + 1, until_us)
