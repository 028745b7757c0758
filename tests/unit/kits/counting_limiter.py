"""A limiter that counts and never forgets, for what is decided over it.

PYTEST_DONT_REWRITE, as tests import names from here.
"""

from collections import Counter
from collections.abc import Sequence

from noctule.core.limits.policy import Policy
from noctule.kits.limiter import Decision, Limiter


class CountingLimiter(Limiter):
    """`counts` has what was admitted, by policy and subject; `asked` every subject in its order."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.asked: list[str] = []

    async def hit(self, policies: Sequence[Policy], subjects: Sequence[str], *, cost: int = 1) -> Decision:
        """As the real one."""
        self.asked += subjects
        for policy in policies:
            for subject in subjects:
                if self.counts[policy.name, subject] + cost > policy.limit:
                    return Decision(False, policy, subject, policy.limit, 0, 60.0, 60.0)
        self.counts.update({(policy.name, subject): cost for policy in policies for subject in subjects})
        return Decision(True, policies[0], subjects[0], policies[0].limit, 0, 60.0, 0.0)
