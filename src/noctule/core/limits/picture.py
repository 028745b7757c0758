"""What is known of one subject, for whoever asks why it is refused."""

from collections.abc import Mapping
from dataclasses import dataclass

from noctule.core.limits.abuse import AbuseRules, Conduct, is_strict, score_at
from noctule.core.limits.take import StoredCount, take


@dataclass(frozen=True, slots=True)
class PolicyPicture:
    """One count."""

    policy: str
    limit: int
    """As it was for the last request that was counted."""
    window_s: float
    remaining: int
    reset_s: float
    """In how long the whole limit is there again."""


@dataclass(frozen=True, slots=True)
class SubjectPicture:
    """One subject; of one never seen everything is 0."""

    subject: str
    score: float
    """Of breaches, decayed until now."""
    is_strict: bool
    blocked_s: float
    """For how long it is blocked; 0 when it is not."""
    blocks: int
    """In the present series."""
    policies: tuple[PolicyPicture, ...]


def picture_of(
    subject: str, now_us: int, conduct: Conduct, counts: Mapping[str, StoredCount], rules: AbuseRules | None
) -> SubjectPicture:
    """The picture at a time of the store's clock; `rules` None: nobody is strict."""
    rules_known = rules or AbuseRules()
    return SubjectPicture(
        subject,
        round(score_at(rules_known, conduct, now_us), 3),
        rules is not None and is_strict(rules, conduct, now_us),
        max(conduct.blocked_until_us - now_us, 0) / 1e6,
        conduct.blocks,
        tuple(_policy(name, counts[name], now_us) for name in sorted(counts)),
    )


def _policy(name: str, stored: StoredCount, now_us: int) -> PolicyPicture:
    taken = take(stored.algorithm, stored.count, now_us, limit=stored.limit, window_us=stored.window_us, cost=0)
    return PolicyPicture(name, stored.limit, stored.window_us / 1e6, taken.remaining, taken.reset_us / 1e6)
